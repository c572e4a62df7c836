"""Run folders on disk -> evaluations, from `config.yaml` and `metrics.jsonl` and nothing else.

Curve files (curl/study/curves.py) are read as the runs that they were written from.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from curl.checks import choice, integer
from curl.run.clock import AXES, ENV_STEPS, Clock, axis_of, words
from curl.run.folder import CONFIG, METRICS, RunFolder, read_config, run_folders
from curl.schema import BOOKKEEPING, USED, complete, flat, within
from curl.study.curves import curve_files, looks_beside, read_curve


@dataclass(frozen=True, eq=False)
class Run:
    """One training run.

    Attributes:
        name: the folder without the machine's part of the path, as reports call it.
        config: nested plain values, as train.py saved them.
        steps: int64 [E], positions on its axis at which its evaluations were due, ascending. An
            evaluation is made at the first agent step that reaches its interval, so it may be up
            to `action_repeat` - 1 env steps late; episodes of uneven lengths make that differ
            between runs that are to be compared.
        returns: float64 [E], mean undiscounted return of each evaluation.
        episodes: int64 [E], episodes of each evaluation.
        clock: of the last row of any kind, with the axis of the run; 0 before the first. Rows of
            older versions do not say the updates, which are 0 then.
        folder: of the run; None for a curve file.
        looks: the files with what eval --shift found.
    """

    name: str
    config: Mapping[str, Any]
    steps: np.ndarray
    returns: np.ndarray
    episodes: np.ndarray
    clock: Clock
    folder: Path | None = None
    looks: tuple[Path, ...] = ()

    @property
    def axis(self) -> str:
        """The count in which the run is measured: `env_steps`, or another of its clock's."""
        return self.clock.axis

    @property
    def position(self) -> int:
        """How far the run is on its axis."""
        return self.clock.now

    @property
    def env_steps(self) -> int:
        return self.clock.env_steps

    @property
    def seed(self) -> int:
        return integer(f"seed of {self.name}", self.setting("seed"), at_least=0)

    @property
    def action_repeat(self) -> int:
        return integer(f"task.action_repeat of {self.name}", self.setting("task.action_repeat"))

    @property
    def budget(self) -> int:
        """Position at which it ends, or a little more: its last agent step is a complete one.

        The setting that holds it is called like the axis.
        """
        return integer(f"{self.axis} of {self.name}", self.setting(self.axis))

    @property
    def reached(self) -> int:
        """Position at which its last evaluation was due; -1 before the first."""
        return int(self.steps[-1]) if len(self.steps) else -1

    def setting(self, key: str) -> Any:
        """The value of a dotted key of the configuration; ValueError where there is none."""
        value: Any = self.config
        for part in key.split("."):
            if not isinstance(value, Mapping) or part not in value:
                choice(f"key of {self.name}/{CONFIG}", key, flat(self.config))
            value = value[part]
        if isinstance(value, Mapping):
            inside = ", ".join(f"{key}.{k}" for k in value)
            raise ValueError(f"{key} is a group of settings; give one of {inside}")
        return value

    def settings(self) -> dict[str, Any]:
        """Dotted key -> value of everything that makes the experiment what it is."""
        found, aside = complete(self.config), BOOKKEEPING | {USED}
        return {key: value for key, value in found.items() if not within(key, aside)}


def find_runs(paths: Sequence[Path]) -> list[Run]:
    """All runs in or below `paths`, each once, sorted: run folders and curve files.

    A run folder holds a metrics.jsonl; a curve file is given by name, or called seed_<n>.jsonl.

    Raises:
        ValueError: a path with no run in it, or files that are no run's.
    """
    folders: dict[Path, Path] = {}
    for path in map(Path, paths):
        below = {run.resolve(): run for run in (*run_folders(path), *curve_files(path))}
        if not below:
            raise ValueError(f"no run in {path}: no {METRICS} and no curve file there or below")
        folders = below | folders
    if not folders:
        raise ValueError("no run folders given")
    return [read_run(folder, name) for folder, name in named(folders).items()]


def named(folders: Iterable[Path]) -> dict[Path, str]:
    """Absolute folder, in order -> its name in reports: without the machine's part of the path."""
    found = sorted(folders)
    shared = Path(os.path.commonpath([folder.parent for folder in found]))
    here = Path.cwd()
    base = here if shared.is_relative_to(here) else shared
    return {folder: folder.relative_to(base).as_posix() for folder in found}


def read_run(folder: Path, name: str) -> Run:
    """Read one run folder or curve file; ValueError in one line about whatever is no run's."""
    if folder.is_file():
        return _read_curve(folder, name)
    files = RunFolder(folder)
    if not files.config.is_file():
        raise ValueError(f"{name} has {METRICS} but no {CONFIG}")
    config = read_config(folder, name)
    try:
        axis = axis_of(config.get(USED))
    except ValueError as error:
        raise ValueError(f"{name}/{CONFIG}: {error}") from None
    found, clock = _read_metrics(files.metrics, name, axis)
    found = {due(step, config, axis): returns for step, returns in found.items()}
    steps = sorted(found)
    returns = np.array([np.mean(found[step]) for step in steps], dtype=np.float64)
    if not np.isfinite(returns).all():
        bad = steps[int(np.flatnonzero(~np.isfinite(returns))[0])]
        raise ValueError(
            f"{name}: the return at {bad:,} {words(axis)} is not finite; leave that run out"
        )
    return Run(
        name=name,
        config=config,
        steps=np.array(steps, dtype=np.int64),
        returns=returns,
        episodes=np.array([len(found[step]) for step in steps], dtype=np.int64),
        clock=clock,
        folder=folder,
        looks=tuple(files.all_looks()),
    )


def due(step: int, config: Mapping[str, Any], axis: str = ENV_STEPS) -> int:
    """The position at which an evaluation that was made at `step` was due.

    Agent steps and updates come one at a time, so that nothing is late on their axes. On env steps
    it is the budget, or else the last multiple of `eval_every`, if the agent step that ended at
    `step` reached it. Where it reached neither (they were changed on resuming), it is `step`.
    """
    if axis != ENV_STEPS:
        return step
    task = config.get("task")
    repeat = task.get("action_repeat") if isinstance(task, Mapping) else None
    every, budget = config.get("eval_every"), config.get(ENV_STEPS)
    if type(repeat) is int and repeat > 0:
        if type(budget) is int and 0 <= step - budget < repeat:
            return budget
        if type(every) is int and every > 0 and step % every < repeat:
            return step - step % every
    return step


def _read_curve(path: Path, name: str) -> Run:
    curve = read_curve(path, name)
    return Run(
        name=name,
        config=curve.config,
        steps=curve.steps,
        returns=curve.returns.mean(axis=1),
        episodes=np.full(len(curve.steps), curve.returns.shape[1], dtype=np.int64),
        clock=Clock(curve.axis, **{curve.axis: int(curve.steps[-1])}),
        looks=tuple(file for file in [looks_beside(path)] if file.is_file()),
    )


def _read_metrics(path: Path, name: str, axis: str) -> tuple[dict[int, list[float]], Clock]:
    """Evaluations, position on the axis -> returns, and the clock of the last row.

    Where a resumed run evaluated a position twice, the later evaluation counts.
    """
    found: dict[int, list[float]] = {}
    clock = Clock(axis)
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            vars(clock).update({count: int(row[count]) for count in AXES if count in row})
            if row["kind"] == "evaluation":
                returns = [float(value) for value in row["returns"]]
                if not returns:
                    raise ValueError("no returns")
                found[int(row[axis])] = returns
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            if number == len(lines):
                break  # half a line: the run is writing it, or died while it did
            raise ValueError(f"{name}/{METRICS}, line {number} is not a row of metrics") from error
    return found, clock
