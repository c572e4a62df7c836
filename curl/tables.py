"""Terminals that may go away, and tables for them whose cells are never cut or read as markup."""

from __future__ import annotations

import os
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

GAP = 2  # blanks between columns
LEAST = 16  # characters that a folded column keeps
UNLIMITED = 10_000  # characters in a line of a pipe or a file

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
    natural = [
        max(_text(heading).cell_len, *(row[i].cell_len for row in cells), 0)
        for i, heading in enumerate(head)
    ]
    least = [min(size, LEAST) for size in natural]
    if sum(least) + GAP * (len(head) - 1) > width:
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
