"""The curves of one variant over its seeds, and how pages of results tell of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from curl.study import statistics
from curl.study.curves import Curve
from curl.study.statistics import Estimate

NONE = "\N{EN DASH}"
"""What a cell of a table says where there is no finished run."""


@dataclass(frozen=True, eq=False)
class Group:
    """The curves of one variant on one task, by seed."""

    curves: tuple[Curve, ...]

    @property
    def scores(self) -> np.ndarray:
        """float64 [S], mean return of the last evaluation."""
        return np.array([curve.returns[-1].mean() for curve in self.curves])

    @property
    def iqm(self) -> Estimate:
        """Over seeds, with its 95 % bootstrap interval."""
        generator = np.random.default_rng(0)
        found = statistics.bootstrap(self.scores[None], statistics.iqm, generator)
        return Estimate(*found.tolist())

    def band(self) -> tuple[np.ndarray, np.ndarray]:
        """Env steps, int64 [E], and the IQM of returns with its interval, float64 [3, E]."""
        generator = np.random.default_rng(0)
        returns = np.stack([curve.returns.mean(axis=1) for curve in self.curves])
        return self.curves[0].steps, statistics.bootstrap(returns[None], statistics.iqm, generator)


# -- text ------------------------------------------------------------------------------------------


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(scores: np.ndarray, digits: int = 0) -> str:
    """Mean and, with several seeds, their sample standard deviation."""
    std = f" ± {scores.std(ddof=1):.{digits}f}" if len(scores) > 1 else ""
    return f"{scores.mean():.{digits}f}{std}"


def seeds_text(group: Group) -> str:
    """`3 seeds`."""
    count = len(group.scores)
    return f"{count} seed{'s' * (count != 1)}"


def interval_text(estimate: Estimate) -> str:
    """A space and `[354, 560]`; empty where there is no interval."""
    low, high = estimate.low, estimate.high
    return "" if np.isnan(low) else f" [{low:.0f}, {high:.0f}]"
