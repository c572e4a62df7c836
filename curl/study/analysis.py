"""A grid of runs -> the numbers of a comparison. Numbers only: report.py words them."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from curl.study import statistics
from curl.study.grid import EVERY_TASK, SHORTCUTS, Grid, seeds_count
from curl.study.statistics import Estimate

if TYPE_CHECKING:
    from curl.study.looks import Looks

THRESHOLDS = np.linspace(0, 1, 101)  # of the performance profiles, normalised score
SIGNIFICANT = 1 - statistics.LEVEL


@dataclass(frozen=True, eq=False)
class Cell:
    """A variant on a task, over its seeds.

    Attributes:
        returns: float64 [S, E], mean evaluation return of each seed at each step of the grid.
        curve: float64 [3, E], IQM over seeds: value, low, high.
        score: IQM over seeds at the last of these steps.
        area: IQM over seeds of the area under the curve, a mean return.
    """

    returns: np.ndarray
    curve: np.ndarray
    score: Estimate
    area: Estimate


@dataclass(frozen=True)
class Pair:
    """Does `first` do better than `second`? `probability` is of improvement, and at least 0.5."""

    first: str
    second: str
    task: str
    probability: Estimate
    p_value: float
    seeds: int

    @property
    def told_apart(self) -> bool:
        return self.probability.low > 0.5 and self.p_value <= SIGNIFICANT

    def __str__(self) -> str:
        p = self.probability
        numbers = f"P = {p.value:.2f} [{p.low:.2f}, {p.high:.2f}]"
        seeds = seeds_count(self.seeds)
        if self.told_apart:
            return f"{self.first} beats {self.second} on {self.task}: {numbers}, {seeds}"
        return (
            f"{self.first} and {self.second} cannot be told apart on {self.task} "
            f"with {seeds}: {numbers}"
        )


@dataclass(frozen=True, eq=False)
class Comparison:
    """Everything that a report says.

    Attributes:
        cells: (variant, task) -> numbers, complete cells only.
        aggregates: variant -> name of the aggregate -> estimate over the tasks `normalised`.
        curves: variant -> float64 [3, E], IQM of normalised scores over tasks and seeds.
        profiles: variant -> float64 [3, 101], share of runs above each of THRESHOLDS.
        pairs: over all tasks first (if there are several), then task by task.
        normalised: the tasks whose maximum is known.
        looks: what the runs did on other looks; None: nobody asked.
    """

    grid: Grid
    baseline: str | None
    normalised: tuple[str, ...]
    cells: dict[tuple[str, str], Cell] = field(default_factory=dict)
    aggregates: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    curves: dict[str, np.ndarray] = field(default_factory=dict)
    profiles: dict[str, np.ndarray] = field(default_factory=dict)
    pairs: list[Pair] = field(default_factory=list)
    looks: Looks | None = None

    def scores(self, variant: str, tasks: tuple[str, ...]) -> np.ndarray | None:
        """Final returns, float64 [T, S]; None where a cell is incomplete."""
        found = [self.cells.get((variant, task)) for task in tasks]
        complete = [cell.returns[:, -1] for cell in found if cell is not None]
        return np.stack(complete) if tasks and len(complete) == len(tasks) else None


def analyse(grid: Grid, *, baseline: str | None, generator: np.random.Generator) -> Comparison:
    """All statistics of a grid.

    Raises:
        ValueError: no variant is complete on any task.
    """
    known = tuple(task for task in grid.tasks if grid.maximum(task))
    comparison = Comparison(grid=grid, baseline=baseline, normalised=known)
    for variant in grid.variants:
        for task in grid.tasks:
            returns = grid.returns(variant, task)
            if returns is not None:
                comparison.cells[variant, task] = _cell(grid.steps, returns, generator)
        if comparison.scores(variant, known) is not None:
            _add_normalised(comparison, variant, generator)
    if not comparison.cells:
        gaps, remedy = "; ".join(grid.gaps()), grid.remedy()
        raise ValueError(f"nothing is complete: {gaps}{'; ' * bool(remedy)}{remedy}")
    comparison.pairs.extend(_pairs(comparison, generator))
    return comparison


def _cell(steps: np.ndarray, returns: np.ndarray, generator: np.random.Generator) -> Cell:
    curve = statistics.bootstrap(returns[None], statistics.iqm, generator)
    areas = statistics.area_under_curve(steps, returns)[None]
    return Cell(
        returns=returns,
        curve=curve,
        score=Estimate(*curve[:, -1].tolist()),
        area=Estimate(*statistics.bootstrap(areas, statistics.iqm, generator).tolist()),
    )


def _add_normalised(comparison: Comparison, variant: str, generator: np.random.Generator) -> None:
    """Aggregates, curve and profile of one variant over the tasks with a known maximum."""
    tasks = comparison.normalised
    maxima = [comparison.grid.maximum(task) or np.nan for task in tasks]
    returns = np.stack([comparison.cells[variant, task].returns for task in tasks])  # [T, S, E]
    returns = returns / np.array(maxima)[:, None, None]
    final = returns[:, :, -1]
    comparison.curves[variant] = statistics.bootstrap(returns, statistics.iqm, generator)
    comparison.aggregates[variant] = {
        name: Estimate(*statistics.bootstrap(final, aggregate, generator).tolist())
        for name, aggregate in statistics.AGGREGATES.items()
    }
    above = (final[:, :, None] > THRESHOLDS).astype(np.float64)
    comparison.profiles[variant] = statistics.bootstrap(above, statistics.mean, generator)


def _pairs(comparison: Comparison, generator: np.random.Generator) -> list[Pair]:
    grid, baseline = comparison.grid, comparison.baseline
    if SHORTCUTS.get(grid.by, grid.by) == SHORTCUTS["task"]:
        return []  # no task beats another
    together = [(EVERY_TASK, grid.tasks)] if len(grid.tasks) > 1 else []
    found = []
    for task, tasks in [*together, *((task, (task,)) for task in grid.tasks)]:
        for first, second in combinations(grid.variants, 2):
            if baseline not in (None, first, second):
                continue
            ours, theirs = comparison.scores(first, tasks), comparison.scores(second, tasks)
            if ours is None or theirs is None:
                continue
            found.append(pair(first, second, ours, theirs, task=task, generator=generator))
    return found


def pair(
    first: str,
    second: str,
    ours: np.ndarray,
    theirs: np.ndarray,
    *,
    task: str,
    generator: np.random.Generator,
) -> Pair:
    """Two variants, the better one first.

    Args:
        ours: float64 [T, S], scores of `first`.
        theirs: float64 [T, S], scores of `second`.
    """
    chance = statistics.probability_of_improvement(ours, theirs)
    p_value = statistics.permutation_test(ours, theirs, generator)
    if chance.value < 0.5:
        first, second = second, first
        chance = Estimate(1 - chance.value, 1 - chance.high, 1 - chance.low)
    return Pair(first, second, task, chance, p_value, ours.shape[1])
