"""`python -m curl status [RUN ...]`: how far are the runs?"""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.live import Live

from curl.command.parser import Parser, add_runs, seconds
from curl.study.status import find, table
from curl.tables import make_console

SHORTEST = 0.1  # seconds between two tables


def parser() -> Parser:
    parser = Parser(
        "status",
        "Show how far runs are. The command only reads the files of the runs, so it serves "
        "whatever\nstarted them, from any machine that sees their folders.\n\n"
        "states:\n"
        "  waiting   a sweep has planned the run and not begun it\n"
        "  running   a process holds its lock, or its files on another machine changed minutes "
        "ago\n"
        "  finished  its last evaluation is at its budget\n"
        "  failed    it ended with an error, which the last column shows\n"
        "  stale     it was stopped or killed; the command that started it resumes it",
        examples={
            "": "All runs below the folder runs.",
            "runs/walker_walk --watch 5": "The runs of one task, shown again every five seconds.",
        },
        codes={"143": "SIGTERM ended --watch. Ctrl-C ends it with code 0."},
    )
    add_runs(parser, default=[Path("runs")])
    parser.add_argument(
        "--watch",
        type=seconds,
        metavar="SECONDS",
        help="Show the table again and again, with a pause of so many seconds, until Ctrl-C.",
    )
    return parser


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit code. Refusals are raised as ValueError."""
    options = parser().parse_args(arguments)
    console = make_console()
    if options.watch is None:
        console.print(table(find(options.runs), console.width))
        return 0
    try:
        watch(options.runs, max(options.watch, SHORTEST), console)
    except Stopped as stopped:
        return 0 if stopped.number == signal.SIGINT else 128 + stopped.number
    return 0


class Stopped(Exception):  # noqa: N818  it is no error
    """A signal asked to stop."""

    def __init__(self, number: int) -> None:
        self.number = number


def watch(runs: Sequence[Path], seconds: float, console: Console) -> None:
    """Show the table again and again. It hides the cursor, and shows it again however it ends.

    Raises:
        Stopped: by SIGINT or SIGTERM. Further ones are ignored on the way out, which ends the
            process.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)

    def stop(number: int, _: FrameType | None) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(number)

    for number in numbers:
        signal.signal(number, stop)
    with Live(table(find(runs), console.width), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(seconds)
            live.update(table(find(runs), console.width), refresh=True)
