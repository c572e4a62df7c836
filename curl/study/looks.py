"""How much of its return each variant keeps on other looks: what eval --shift found, in a grid.

A run's score on a look is its mean return over the episodes there. As elsewhere, a cell has numbers
only when every seed of the grid is there, and intervals are over seeds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np

from curl.run.clock import words
from curl.run.look_files import TRAINING, read_looks
from curl.study import statistics
from curl.study.analysis import Pair, pair
from curl.study.grid import SHORTCUTS, Grid
from curl.study.runs import Run, due
from curl.study.statistics import Estimate

TOGETHER = "all looks"
"""The mean over the other looks."""

ALL = "all"

Place = tuple[str, str, int]  # variant, task, seed


@dataclass(frozen=True, eq=False)
class LookCell:
    """A variant on a task under a look, over its seeds.

    Attributes:
        returns: float64 [S], mean return of each seed.
        score: IQM over seeds.
        ratio: that IQM over the one on the training look, where that is above 0.
    """

    returns: np.ndarray
    score: Estimate
    ratio: Estimate


@dataclass(frozen=True, eq=False)
class Looks:
    """What a report says of several looks.

    Attributes:
        names: the looks, training first, and TOGETHER last if there are several others.
        episodes: of each run on each look.
        seed: of the episodes.
        cells: (variant, task, look) -> numbers, complete cells only.
        pairs: (task, look) -> pairs of variants on every look but training.
        lacking: one line about runs that were not evaluated on a look; empty if there are none.
    """

    names: tuple[str, ...]
    episodes: int
    seed: int
    cells: dict[tuple[str, str, str], LookCell]
    pairs: dict[tuple[str, str], list[Pair]]
    lacking: str


def look_at(
    grid: Grid,
    wanted: Sequence[str],
    *,
    baseline: str | None = None,
    generator: np.random.Generator,
) -> Looks:
    """What the runs of a grid did on other looks at the position that the grid compares.

    Args:
        wanted: names of looks; `all` stands for every look that any run was evaluated on.
        baseline: compare the others with this variant only; None: all pairs.
        generator: of the bootstrap and the permutation tests.

    Raises:
        ValueError: no run was evaluated there, or looks of one name differ; one line.
    """
    found = {place: evaluations(run, grid.at) for place, run in grid.runs.items()}
    counts = Counter(seed for files in found.values() for seed in files)
    if not counts:
        raise ValueError(
            f"no run was evaluated on other looks at {grid.at:,} {words(grid.axis)}; "
            f"{remedy(grid, list(grid.runs), wanted, 0, None)} does that"
        )
    seed = min(counts, key=lambda seed: (-counts[seed], seed))
    there = {place: files[seed] for place, files in found.items() if seed in files}
    refuse_other_looks(grid, there)
    known = dict.fromkeys(look for content in there.values() for look in content["looks"])
    asked = [name for name in wanted if name != ALL] + [*known] * (ALL in wanted)
    names = list(dict.fromkeys([TRAINING, *asked]))
    values = {
        (place, name): content["looks"][name]["returns"]
        for place, content in there.items()
        for name in names
        if name in content["looks"]
    }
    episodes, most = min(map(len, values.values())), max(map(len, values.values()))
    means = {at: float(np.mean(returns[:episodes])) for at, returns in values.items()}
    others = names[1:]
    for place in grid.runs if len(others) > 1 else ():
        own = [means[place, name] for name in others if (place, name) in means]
        complete = all((place, n) in means or senseless(there, place, n) for n in others)
        if own and complete:
            means[place, TOGETHER] = float(np.mean(own))
    names += [TOGETHER] * (len(others) > 1)
    looks = Looks(tuple(names), episodes, seed, {}, {}, lacking(grid, there, names, seed, most))
    for name, variant, task in product(names, grid.variants, grid.tasks):
        returns = seeds_of(grid, means, variant, task, name)
        base = seeds_of(grid, means, variant, task, TRAINING)
        if returns is not None:
            looks.cells[variant, task, name] = cell(returns, base, generator)
    for task, name in product(grid.tasks, names[1:]):
        if pairs := told(grid, looks, task, name, baseline, generator):
            looks.pairs[task, name] = pairs
    return looks


def evaluations(run: Run, at: int) -> dict[int, dict[str, Any]]:
    """Seed of the episodes -> what eval --shift found with the checkpoint at a position.

    Files that cannot be read count as absent: the command that makes them writes them anew.
    """
    found: dict[int, dict[str, Any]] = {}
    for file in run.looks:
        content = read(file)
        if content is not None and due(content.get(run.axis, -1), run.config, run.axis) == at:
            found[content["seed"]] = content
    return found


def read(file: Path) -> dict[str, Any] | None:
    """The content of a file of eval --shift; None if it is something else."""
    try:
        content = read_looks(file)
        if not all(np.isfinite(look["returns"]).all() for look in content["looks"].values()):
            return None
        content["left_out"] = dict(content["left_out"])
        for count in ("seed", content["axis"]):
            content[count] = int(content[count])
        return content if TRAINING in content["looks"] else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def refuse_other_looks(grid: Grid, there: Mapping[Place, Mapping[str, Any]]) -> None:
    """`ValueError` if a name means one look in one run and another one in another run."""
    first: dict[str, tuple[Any, str]] = {}
    for place, content in there.items():
        for name, look in content["looks"].items():
            shift, run = first.setdefault(name, (look["shift"], grid.runs[place].name))
            if name != TRAINING and shift != look["shift"]:
                other = grid.runs[place].name
                raise ValueError(
                    f"{name} is another look in {run} than in {other}; delete the older file in "
                    "its folder shifts, and evaluate that run again"
                )


def senseless(there: Mapping[Place, Mapping[str, Any]], place: Place, name: str) -> bool:
    """Whether a look makes no sense on the task of a run, as its evaluation found."""
    return place in there and name in there[place]["left_out"]


def lacking(
    grid: Grid,
    there: Mapping[Place, Mapping[str, Any]],
    names: Sequence[str],
    seed: int,
    episodes: int,
) -> str:
    """One line about the runs that were not evaluated on a look, with the command that does it."""
    missing: dict[Place, list[str]] = {}
    for place, run in grid.runs.items():
        own = there.get(place, {"looks": {}})["looks"]
        absent = [
            name
            for name in names
            if name not in own and name != TOGETHER and not senseless(there, place, name)
        ]
        if absent and run.reached >= grid.at:
            missing[place] = absent
    if not missing:
        return ""
    absent = list(dict.fromkeys(n for each in missing.values() for n in each if n != TRAINING))
    command = remedy(grid, list(missing), absent or [ALL], seed, episodes)
    runs = f"{len(missing)} runs were" if len(missing) > 1 else "1 run was"
    return f"{runs} not evaluated on {', '.join(absent) or TRAINING}; {command} does that"


def remedy(
    grid: Grid, places: Sequence[Place], names: Sequence[str], seed: int, episodes: int | None
) -> str:
    """The command that evaluates runs on looks."""
    runs = " ".join(grid.runs[place].name for place in places)
    count = "" if episodes is None else f" --episodes {episodes}"
    own = f" --seed {seed}" * bool(seed)
    return f"python -m curl eval {runs} --shift {','.join(names)}{count}{own}"


def seeds_of(
    grid: Grid, means: Mapping[tuple[Place, str], float], variant: str, task: str, name: str
) -> np.ndarray | None:
    """float64 [S]: the scores of all seeds of the grid; None if one is missing."""
    places = [((variant, task, seed), name) for seed in grid.seeds]
    return np.array([means[p] for p in places]) if all(p in means for p in places) else None


def cell(returns: np.ndarray, base: np.ndarray | None, generator: np.random.Generator) -> LookCell:
    """The numbers of one cell.

    Args:
        returns: float64 [S].
        base: float64 [S], of the same seeds on the training look; None: they are incomplete.
    """
    score = Estimate(*statistics.bootstrap(returns[None], statistics.iqm, generator).tolist())
    ratio = Estimate(np.nan, np.nan, np.nan)
    if base is not None:
        ratio = statistics.ratio(returns, base, generator, statistics.iqm)
    return LookCell(returns, score, ratio)


def told(
    grid: Grid,
    looks: Looks,
    task: str,
    name: str,
    baseline: str | None,
    generator: np.random.Generator,
) -> list[Pair]:
    """The pairs of variants on a task under a look, the better one first."""
    pairs: list[Pair] = []
    if SHORTCUTS.get(grid.by, grid.by) == SHORTCUTS["task"]:
        return pairs  # no task beats another
    for first, second in combinations(grid.variants, 2):
        cells = [looks.cells.get((variant, task, name)) for variant in (first, second)]
        if baseline not in (None, first, second) or None in cells:
            continue
        ours, theirs = (each.returns[None] for each in cells if each is not None)
        place = f"{task} under {name}"
        pairs.append(pair(first, second, ours, theirs, task=place, generator=generator))
    return pairs
