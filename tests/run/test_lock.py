"""One process per run folder; file systems without locks."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
from pathlib import Path

import pytest

from curl.run.folder import Holder, last_holder, locked


def test_a_folder_in_use_is_refused_with_its_user(tmp_path: Path) -> None:
    with (
        locked(tmp_path),
        pytest.raises(ValueError, match=f"is in use by process {os.getpid()} on "),
        locked(tmp_path),
    ):
        pass
    with locked(tmp_path):
        pass


@pytest.mark.usefixtures("fault")
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_named_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
) -> None:
    monkeypatch.setattr(logging.getLogger("curl"), "propagate", True)

    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    entered = False
    with locked(tmp_path):
        entered = True
    assert entered
    (record,) = caplog.records
    assert record.levelname == "WARNING" and "\n" not in record.message
    assert f"the file system of {tmp_path} has no locks ({os.strerror(number)})" in record.message
    assert last_holder(tmp_path) == Holder(os.getpid(), socket.gethostname())


@pytest.mark.usefixtures("fault")
def test_another_failure_of_a_lock_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="Input/output error"), locked(tmp_path):
        pass
