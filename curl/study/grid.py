"""Runs -> a grid of variant × task × seed on the axis that they share, such as env steps.

A cell (variant, task) has numbers only when every seed of the grid is there and reached the step
that is compared: averaging around a run that crashed would favour the variant that crashes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from curl.checks import choice
from curl.run.clock import words
from curl.study.mixtures import refuse_mixtures, shared_axis, twice
from curl.study.runs import Run

SHORTCUTS = {
    "augmentation": "augmentation.label",
    "objective": "objective.name",
    "agent": "agent.label",
    "label": "label",
    "task": "task.name",
}
EVERY_TASK = "all tasks"
DM_CONTROL, DM_CONTROL_MAXIMUM = "dm_control/", 1000.0  # 1000 steps of a reward within [0, 1]


@dataclass(frozen=True, eq=False)
class Grid:
    """Comparable runs.

    Attributes:
        by: what makes a variant, as given; `variants` come baseline first, then sorted.
        at: position on the axis at which scores are compared.
        steps: int64 [E], the evaluations that all runs share, up to `at`.
        runs: (variant, task, seed) -> run, finished or not.
    """

    by: str
    variants: tuple[str, ...]
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    at: int
    steps: np.ndarray
    runs: dict[tuple[str, str, int], Run]

    @property
    def axis(self) -> str:
        """The axis of all runs, see curl/run/clock.py."""
        return next(iter(self.runs.values())).axis

    def returns(self, variant: str, task: str) -> np.ndarray | None:
        """float64 [seeds, E] up to `at`; None where a run is missing or unfinished."""
        found = [self.runs.get((variant, task, seed)) for seed in self.seeds]
        runs = [run for run in found if run is not None and run.reached >= self.at]
        if len(runs) < len(self.seeds):
            return None
        return np.stack([run.returns[: len(self.steps)] for run in runs])

    def maximum(self, task: str) -> float | None:
        """The highest return there is: 1000 on DMControl, unknown elsewhere."""
        ids = [str(run.setting("task.env_id")) for (_, t, _), run in self.runs.items() if t == task]
        return DM_CONTROL_MAXIMUM if all(i.startswith(DM_CONTROL) for i in ids) else None

    def gaps(self) -> list[str]:
        """A line about each missing or unfinished run."""
        lines = []
        for variant, task in product(self.variants, self.tasks):
            found = {seed: self.runs.get((variant, task, seed)) for seed in self.seeds}
            missing = [seed for seed, run in found.items() if run is None]
            if missing:
                lines.append(f"missing: {variant} on {task}, {seeds_text(missing)}")
            for run in found.values():
                if run is not None and run.reached < self.at:
                    there = f"at {max(run.reached, 0):,} of {self.at:,} {words(self.axis)}"
                    lines.append(f"unfinished: {run.name}, {there}")
        return lines

    def remedy(self) -> str:
        """How to compare what is there all the same; empty where no option helps."""
        cells = list(product(self.variants, self.tasks))
        whole = [s for s in self.seeds if all(self.reaches(v, t, s, self.at) for v, t in cells)]
        options = []
        if whole and len(whole) < len(self.seeds):
            options.append(f"--seeds {','.join(map(str, whole))}")
        if len(self.runs) == len(cells) * len(self.seeds):
            furthest = min(run.reached for run in self.runs.values())
            if 0 < furthest < self.at:
                options.append(f"--at {furthest}")
        return f"compare what is there: {' or '.join(options)}" if options else ""

    def reaches(self, variant: str, task: str, seed: int, at: int) -> bool:
        run = self.runs.get((variant, task, seed))
        return run is not None and run.reached >= at


def make_grid(
    runs: Sequence[Run],
    *,
    by: str,
    at: int | None = None,
    baseline: str | None = None,
    seeds: Sequence[int] | None = None,
) -> Grid:
    """Sort runs into a grid.

    Args:
        by: a dotted configuration key, or augmentation, objective, agent, label, task.
        at: position on the axis to compare at; None: the smallest budget among the runs.
        baseline: the variant to compare the others with.
        seeds: only these; None: every seed that any run has.

    Raises:
        ValueError: runs that must not be mixed, an unknown key, baseline or step.
    """
    key = SHORTCUTS.get(by, by)
    if key in ("seed", "run_dir"):
        raise ValueError(f"--by {by} would make every run its own variant")
    runs = [run for run in runs if seeds is None or run.seed in seeds]
    if not runs:
        raise ValueError(f"no run has {seeds_text(seeds or ())}")
    by_task = key == SHORTCUTS["task"]
    keyed: dict[tuple[str, str, int], Run] = {}
    for run in runs:
        place = EVERY_TASK if by_task else str(run.setting("task.name"))
        cell = (str(run.setting(key)), place, run.seed)
        if cell in keyed:
            raise ValueError(twice(cell, keyed[cell], run))
        keyed[cell] = run
    variants = sorted({variant for variant, _, _ in keyed})
    if baseline is not None:
        choice("--baseline", baseline, variants)
        variants.sort(key=lambda variant: variant != baseline)
    refuse_mixtures(keyed)
    at, steps = shared_axis(runs, at)
    return Grid(
        by=by,
        variants=tuple(variants),
        tasks=tuple(sorted({task for _, task, _ in keyed})),
        seeds=tuple(sorted({seed for _, _, seed in keyed} if seeds is None else set(seeds))),
        at=at,
        steps=steps,
        runs=keyed,
    )


def seeds_text(seeds: Iterable[int]) -> str:
    """`seed 3` or `seeds 1, 2, 3`."""
    named = [str(seed) for seed in seeds]
    return f"seed{'s' * (len(named) != 1)} {', '.join(named)}"


def seeds_count(seeds: int) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{seeds} seed{'s' * (seeds != 1)}"
