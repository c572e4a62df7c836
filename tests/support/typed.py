"""Command lines that run in this process, by the fixture `typed`, and their refusal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

Typed = Callable[..., tuple[int, str, str]]


def assert_refused(typed: Typed, folder: Path, *arguments: str, reason: str) -> None:
    code, _, errors = typed(*arguments)
    assert code == 2, errors
    assert errors.count("\n") == 1 and errors.startswith("error: "), errors
    assert reason in errors
    assert "Traceback" not in errors and not list(folder.iterdir())
