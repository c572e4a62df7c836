"""What a report is made of: sections, and how a number with an interval is written."""

from __future__ import annotations

from dataclasses import dataclass

from curl.study.statistics import Estimate

Rows = list[list[str]]
NONE = "\N{EN DASH}"  # a cell with nothing to say


@dataclass(frozen=True)
class Section:
    """A heading, and below it bullets, a table (its first row the header), figures by name."""

    title: str
    bullets: tuple[str, ...] = ()
    table: Rows | None = None
    figures: tuple[str, ...] = ()
    fine_print: bool = False  # for the files, not the terminal, which has it in sentences


def interval(estimate: Estimate, digits: int = 0) -> str:
    """`812 [790, 840]`, without the interval where there is none."""
    value, low, high = (f"{number:.{digits}f}" for number in estimate)
    return value if low == "nan" else f"{value} [{low}, {high}]"
