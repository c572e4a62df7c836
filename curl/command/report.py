"""`python -m curl report RUN ...`: how are the runs going, and when will they end?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from curl.command.parser import Parser, add_out, add_runs
from curl.command.watching import CODES, add_watch, watch
from curl.study import progress, rendering
from curl.tables import make_console

DEFAULT = Path("report.html")


def parser() -> Parser:
    parser = Parser(
        "report",
        "Draw runs that are still going: their returns so far, how far they are, when they will "
        "end, and\nthe metrics of their training. The page is one HTML file that fetches nothing. "
        "The command only\nreads the files of the runs, so it serves whatever started them. "
        "`compare` says which variant of\nfinished runs is better.",
        examples={
            "runs/walker_walk": "The runs of one task, as report.html.",
            "runs --out all.html --watch 60": "All runs, drawn again every minute; the open page "
            "follows.",
        },
        codes=CODES,
    )
    add_runs(parser, default=[Path("runs")])
    add_out(parser, "The HTML file to write.", DEFAULT)
    add_watch(parser, "Write the page, which then reloads itself,")
    return parser


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit code. Refusals are raised as ValueError."""
    options = parser().parse_args(arguments)
    out: Path = options.out
    if out.is_dir():
        raise ValueError(
            f"--out {out} is a folder; name the file, for example {out / DEFAULT.name}"
        )

    def write() -> list[progress.Progress]:
        return progress.write(options.runs, out, refresh=options.watch)

    console, found = make_console(), write()
    rendering.terminal(progress.title(found), progress.sections(found), console)
    console.print(Text(f"\nreport: {out}"), soft_wrap=True)
    if options.watch is None:
        return 0
    return watch(options.watch, write)
