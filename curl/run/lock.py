"""One process a run folder: the second is refused, and told of the first."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger("curl")

LOCK = "lock"  # its name in a run folder
UNABLE = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class InUseError(ValueError):
    """Another process works on the run of this folder."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold its file in `folder`; the system lets go of it however the process ends.

    A file system without locks (an NFS mount without its lock service, some FUSE mounts) is warned
    of, and the run goes on. Refusing it would keep every run from such a disk, while the lock only
    guards against starting the same run twice, which its user can avoid.

    Raises:
        InUseError: another process holds it.
        OSError: the folder or the file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise InUseError(f"{folder} is in use by {file.read().strip()}") from None
        except OSError as error:
            if error.errno not in UNABLE:
                raise
            log.warning(
                "the file system of %s has no locks (%s): start no second run in this folder "
                "while this one goes on, nothing would stop it",
                *(folder, error.strerror),
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def holder(folder: Path) -> str | None:
    """Which process holds the lock of `folder`, in words; None if none does.

    The system is asked, not the file: its text outlives the process that wrote it.
    """
    try:
        with (folder / LOCK).open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                return file.read().strip() or "another process"
    except FileNotFoundError:
        pass
    return None
