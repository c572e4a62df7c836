"""Doing something again and again until Ctrl-C or SIGTERM, as `--watch SECONDS` asks."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import FrameType
from typing import Any

from curl.command.parser import Parser, seconds

SHORTEST = 0.1  # seconds between two times
CODES = {"143": "SIGTERM ended --watch. Ctrl-C ends it with code 0."}


class Stopped(Exception):  # noqa: N818  it is no error
    """A signal asked to stop."""

    def __init__(self, number: int) -> None:
        self.number = number


def add_watch(parser: Parser, what: str) -> None:
    """--watch SECONDS; `what` says what is done again and again."""
    parser.add_argument(
        "--watch",
        type=seconds,
        metavar="SECONDS",
        help=f"{what} again and again, with a pause of so many seconds, until Ctrl-C.",
    )


def watch(
    seconds: float,
    again: Callable[[], object],
    shown: AbstractContextManager[Any] | None = None,
) -> int:
    """Call `again` after every pause, until SIGINT or SIGTERM; returns the exit code.

    Further signals are ignored on the way out, which ends the process.

    Args:
        seconds: of each pause; at least SHORTEST.
        again: what to do.
        shown: is left however it ends, as a display that hides the cursor must be.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)

    def stop(number: int, _: FrameType | None) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(number)

    for number in numbers:
        signal.signal(number, stop)
    try:
        with shown or nullcontext():
            while True:
                time.sleep(max(seconds, SHORTEST))
                again()
    except Stopped as stopped:
        return 0 if stopped.number == signal.SIGINT else 128 + stopped.number
