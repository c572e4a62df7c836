"""Mirrors show the rows of metrics.jsonl elsewhere too: wandb.py, and tensorboard.py.

A mirror is a convenience. The logger reports one that fails, gives it no more rows, and training
goes on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from curl.run.clock import AXES

NOT_METRICS = ("kind", *AXES, "wall_time")  # of a row


@dataclass(frozen=True)
class Row:
    """One row of metrics.jsonl, as mirrors take it.

    Attributes:
        counts: those counts of the run's clock that the row has, by name.
        wall_time: seconds trained until then.
        values: `<kind>/<name>` -> number, for every metric that is a number.
        video: MP4 of an evaluation; None without one.
    """

    counts: Mapping[str, int]
    wall_time: float
    values: Mapping[str, float]
    video: Path | None = None

    @classmethod
    def of(cls, row: Mapping[str, Any], video: Path | None) -> Row:
        """The row of this JSON object.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: it is no row.
        """
        kind = row["kind"]
        return cls(
            counts={name: int(row[name]) for name in AXES if name in row},
            wall_time=float(row.get("wall_time", 0)),
            values={
                f"{kind}/{name}": value
                for name, value in row.items()
                if name not in NOT_METRICS and isinstance(value, (int, float))
            },
            video=video,
        )


class Mirror(ABC):
    """One place that shows the rows of a run. Every method may raise any exception."""

    name: ClassVar[str]
    """What messages call it."""

    @abstractmethod
    def write(self, row: Row) -> None:
        """Show one row."""

    def resume(self, earlier: Sequence[Row]) -> None:
        """Called once, when a run begins or goes on, with the rows that it has so far."""
        for row in earlier:
            self.write(row)

    @abstractmethod
    def close(self) -> None:
        """Write what is left."""
