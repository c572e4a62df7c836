"""Log lines: one line per message, whatever the width, and brackets stay brackets."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from curl.errors import show_warnings


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[logging.Logger]:
    monkeypatch.setenv("COLUMNS", "40")
    logger = logging.getLogger("curl")
    handlers, propagate, level = logger.handlers, logger.propagate, logger.level
    show_warnings()
    yield logger
    logger.handlers, logger.propagate = handlers, propagate
    logger.setLevel(level)


@pytest.mark.parametrize("number", [logging.INFO, logging.WARNING, logging.ERROR])
def test_a_message_is_one_line_as_it_is(
    log: logging.Logger, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    path = "/data/[a]/[bold]x[/bold]/" + 20 * "long/"
    log.log(number, "no checkpoint in %s: %s", path, "first line\nsecond line")
    level = logging.getLevelName(number)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"{level:<8} no checkpoint in {path}: first line second line\n"
