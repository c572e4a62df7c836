"""What must not be mixed in one comparison: each a ValueError in one line that names two runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from curl.run.clock import words
from curl.study.runs import Run

Cell = tuple[str, str, int]  # variant, task, seed


def twice(cell: Cell, one: Run, other: Run) -> str:
    """The refusal of two runs in one place of the grid."""
    variant, task, seed = cell
    here, there = one.settings(), other.settings()
    keys = sorted(k for k in here.keys() | there.keys() if here.get(k) != there.get(k))
    both = f"two runs of {variant} on {task} with seed {seed}: {one.name} and {other.name}"
    if not keys:
        return both
    return f"{both}; they differ in {', '.join(keys)}; {_instead(one, other, keys[0])}"


def _instead(one: Run, other: Run, key: str) -> str:
    labels = one.config.get("label"), other.config.get("label")
    return f"compare --by {key}" + ", or label" * (labels[0] != labels[1])


def refuse_mixtures(keyed: Mapping[Cell, Run]) -> None:
    """Refuse unequal axes, evaluation episodes, action repeats of a task, settings of a variant."""
    runs = list(keyed.values())
    axes = {run.axis: run for run in reversed(runs)}
    if len(axes) > 1:
        one, other = list(axes.values())[:2]
        raise ValueError(
            f"axes differ: {one.name} counts {words(one.axis)}, "
            f"{other.name} counts {words(other.axis)}"
        )
    episodes = {int(count): run for run in runs for count in run.episodes}
    if len(episodes) > 1:
        (a, one), (b, other) = list(episodes.items())[:2]
        raise ValueError(
            f"evaluation protocols differ: {one.name} has {a} episodes an evaluation, "
            f"{other.name} {b}"
        )
    first: dict[object, Run] = {}
    for (variant, task, _), run in keyed.items():
        one = first.setdefault(run.setting("task.name"), run)
        if run.action_repeat != one.action_repeat:
            raise ValueError(
                f"action repeats differ: {one.name} has {one.action_repeat}, "
                f"{run.name} {run.action_repeat}"
            )
        one = first.setdefault((variant, task), run)
        here, there = one.settings(), run.settings()
        for key in sorted(here.keys() & there.keys()):
            if here[key] != there[key]:
                raise ValueError(
                    f"{variant} mixes settings: {one.name} has {key}={here[key]}, "
                    f"{run.name} {there[key]}; {_instead(one, run, key)}"
                )


def shared_axis(runs: Sequence[Run], at: int | None) -> tuple[int, np.ndarray]:
    """The step to compare at and int64 [E], the evaluations up to there that all runs share.

    Args:
        at: position on the axis that they share; None: the smallest budget among the runs.
    """
    unit = words(runs[0].axis)
    at = min(run.budget for run in runs) if at is None else at
    longest = max(runs, key=lambda run: int((run.steps <= at).sum()))
    steps = longest.steps[longest.steps <= at]
    for run in runs:
        own = run.steps[run.steps <= at]
        shorter = run.reached < at  # an unfinished run may stop early, not evaluate elsewhere
        if not np.array_equal(own, steps[: len(own)]) or not (shorter or len(own) == len(steps)):
            step = sorted(set(own.tolist()) ^ set(steps.tolist()))[0]
            has, lacks = (run, longest) if step in own else (longest, run)
            raise ValueError(
                f"{unit.removesuffix('s').replace(' ', '-')} axes differ: "
                f"{has.name} was evaluated at {step:,} {unit}, "
                f"{lacks.name} was not"
            )
    if not len(steps):
        raise ValueError(f"no run has been evaluated by {at:,} {unit}")
    if steps[-1] != at:
        what = "was evaluated at" if any(run.reached > at for run in runs) else "has reached"
        raise ValueError(
            f"no run {what} {at:,} {unit}; the last evaluation before is --at {steps[-1]}"
        )
    return at, steps
