"""Terminals that may go away, tables for them whose cells are never cut or read as markup, and
curves in one line.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

GAP = 2  # blanks between columns
LEAST = 16  # characters that a folded column keeps
UNLIMITED = 10_000  # characters in a line of a pipe or a file

BLOCKS = "\N{LOWER ONE EIGHTH BLOCK}▂▃▄▅▆▇█"  # low to high
PLAIN = "_.-=+*%#"  # the same, in ASCII

Cell = str | Text


class Terminal(Console):
    """A console whose reader may leave, as `| head` does: then nothing more is said.

    rich would end the process with code 1: a run without its checkpoint, an evaluation without the
    file that `--out` names.
    """

    def on_broken_pipe(self) -> None:
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.file.fileno())  # what is buffered already goes nowhere
        os.close(nowhere)


def make_console() -> Console:
    """Standard output, as wide as its terminal or as COLUMNS says; a pipe has no limit."""
    console = Terminal()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Terminal(width=UNLIMITED)
    return console


def sparkline(
    values: Sequence[float], *, low: float, high: float, width: int, encoding: str = "utf-8"
) -> str:
    """Values as a curve in one line: a character per value, or per mean of several.

    Args:
        values: finite numbers.
        low: the value of the lowest character.
        high: the value of the highest one.
        width: characters at most.
        encoding: of the terminal; one without block characters gets ASCII.
    """
    try:
        BLOCKS.encode(encoding)
        levels = BLOCKS
    except (UnicodeError, LookupError):
        levels = PLAIN
    count = min(len(values), width)
    ends = [len(values) * i // count for i in range(count + 1)] if count else [0]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(ends)]
    span = (high - low) or 1.0
    top = len(levels) - 1
    return "".join(levels[min(max(round(top * (mean - low) / span), 0), top)] for mean in means)


def fits(head: Sequence[str], rows: Sequence[Sequence[Cell]], width: int) -> bool:
    """Whether `table` draws columns in `width` characters, and not blocks of lines."""
    least = [min(size, LEAST) for size in _natural(head, rows)]
    return sum(least) + GAP * (len(head) - 1) <= width


def _natural(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[int]:
    """Characters that each column takes if it need not fold."""
    return [
        max(_text(heading).cell_len, *(_text(row[i]).cell_len for row in rows), 0)
        for i, heading in enumerate(head)
    ]


def table(
    head: Sequence[str], rows: Sequence[Sequence[Cell]], *, width: int, right: Sequence[int] = ()
) -> RenderableType:
    """Columns with a bold head that fit into `width` characters.

    Columns that are wider than LEAST fold where they must. If even that does not fit, each row
    becomes a block of lines, `heading: cell`.

    Args:
        head: a heading for each column.
        rows: a cell for each column; brackets in it are brackets.
        width: characters in a line.
        right: numbers of the columns that are flush right.
    """
    cells = [[_text(cell) for cell in row] for row in rows]
    natural = _natural(head, cells)
    if not fits(head, cells, width):
        return _blocks(head, cells)
    drawn = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for i, heading in enumerate(head):
        kept = natural[i] <= LEAST
        drawn.add_column(
            Text(heading),
            justify="right" if i in right else "left",
            overflow="fold",
            no_wrap=kept,
            min_width=natural[i] if kept else None,
        )
    for row in cells:
        drawn.add_row(*row)
    return drawn


def _blocks(head: Sequence[str], rows: Sequence[Sequence[Text]]) -> RenderableType:
    lines: list[Text] = []
    for row in rows:
        for i, (heading, cell) in enumerate(zip(head, row, strict=True)):
            label = f"{heading}: " if heading else ""
            lines.append(Text("  " * (i > 0)).append(label, style="bold").append_text(cell))
    return Group(*lines)


def _text(cell: Cell) -> Text:
    return Text(cell) if isinstance(cell, str) else cell
