"""The fixtures that type command lines."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra

from curl.command import main, train
from curl.errors import exits_with_one_line
from support.typed import Typed


@pytest.fixture
def recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the datasets of a test, which runs beside it on a wide terminal."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "datasets"


@pytest.fixture
def commanded(handlers: None, capsys: pytest.CaptureFixture[str]) -> Typed:
    """Runs `python -m curl ARGUMENTS` in this process; its code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = exits_with_one_line(main.main, list(map(str, arguments)))
        printed = capsys.readouterr()
        assert "Traceback" not in printed.out + printed.err
        return code, printed.out, printed.err

    return run


@pytest.fixture
def typed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    handlers: Any,
) -> Iterator[Typed]:
    """Runs `python -m curl train ARGUMENTS` in this process; its code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # also takes it away afterwards
    monkeypatch.delenv(train.sweep.STOP, raising=False)

    def run(*arguments: str) -> tuple[int, str, str]:
        GlobalHydra.instance().clear()
        try:
            with pytest.raises(SystemExit) as caught:
                main.run(["train", *arguments])
        finally:
            train.sweep.STOP in os.environ and Path(os.environ.pop(train.sweep.STOP)).unlink()
            GlobalHydra.instance().clear()
        assert isinstance(caught.value.code, int)
        return caught.value.code, *capsys.readouterr()

    yield run
