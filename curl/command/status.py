"""`python -m curl status [RUN ...]`: how far are the runs?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Group
from rich.live import Live

from curl.command.parser import Parser, add_runs
from curl.command.watching import CODES, add_watch, watch
from curl.study.status import find, table
from curl.tables import make_console


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
        "  stale     it was stopped or killed; the command that started it resumes it\n\n"
        "The column `returns` draws the evaluations so far, from 0 to the highest return of any "
        "run of the\nsame task. It is left out where the terminal is too narrow.",
        examples={
            "": "All runs below the folder runs.",
            "runs/walker_walk --watch 5": "The runs of one task, shown again every five seconds.",
        },
        codes=CODES,
    )
    add_runs(parser, default=[Path("runs")])
    add_watch(parser, "Show the table")
    return parser


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit code. Refusals are raised as ValueError."""
    options = parser().parse_args(arguments)
    console = make_console()

    def shown() -> Group:
        return table(find(options.runs), console.width, console.encoding)

    if options.watch is None:
        console.print(shown())
        return 0
    live = Live(shown(), console=console, auto_refresh=False)
    return watch(options.watch, lambda: live.update(shown(), refresh=True), live)
