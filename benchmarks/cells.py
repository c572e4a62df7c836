"""The cells of the results table: what each one runs, and what there is of it on the disk.

A cell is a preset, a variant, a task and a seed. It has a run folder while it is trained, and a
curve file (curl/study/curves.py) once it is finished:

    runs/dmc/<preset>/<variant>/<task>/seed_<n>/
    results/dmc/<preset>/<variant>/<task>/seed_<n>.jsonl
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from curl.checks import choice, integer
from curl.command import labels  # noqa: F401  which configs/train.yaml needs
from curl.errors import nearest
from curl.run.clock import ENV_STEPS, UPDATES, words
from curl.run.folder import RunFolder
from curl.schema import BOOKKEEPING, USED, SettingsError, checked, complete, within
from curl.study.curves import Curve, read_curve, write_curve
from curl.study.runs import due, read_run

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
TASKS = ("cartpole_swingup", "ball_in_cup_catch", "reacher_easy")  # the cheap ones first
TASKS += ("finger_spin", "cheetah_run", "walker_walk")

# The budget and the evaluation protocol of the paper's table at 100k env steps, whatever a preset
# or a configuration file says. A preset comes after them on the command line.
PROTOCOL = {"env_steps": 100_000, "eval_every": 10_000, "eval_episodes": 10}

PRESETS: dict[str, tuple[str, ...]] = {
    "paper": (),
    "batch128": ("batch_size=128",),
    "small": ("experiment=laptop",),
    # Not an experiment: sizes for tests and rehearsals, which show that the machinery works.
    "tiny": (
        *("batch_size=4", "render_size=24", "initial_steps=8", "replay.capacity=1000"),
        "augmentation.query.size=20",
        *("agent.hidden_dim=8", "agent.latent_dim=8"),
        *("env_steps=2000", "eval_every=1000", "eval_episodes=2"),
    ),
}

# "gaussian" is the variant whose positives are Gaussian perturbations instead of crops: the query
# is the clean central window and the key is the same window with noise of sigma 0.1. It is not
# crop_gaussian, where the noise comes on top of CURL's crops.
VARIANTS: dict[str, tuple[str, ...]] = {
    "curl": ("augmentation=crop", "objective=infonce"),
    "crop_only": ("augmentation=crop", "objective=none"),
    "gaussian": ("augmentation=gaussian", "objective=infonce"),
    "drqv2": ("agent=drqv2", "augmentation=shift", "objective=none"),
}

# The small preset shifts the whole frame by a few pixels instead of cropping it, which is a crop of
# the frame with a border around it: a real crop hides the cart at the ends of its rail.
SMALL_VARIANTS: dict[str, tuple[str, ...]] = {
    "curl": ("objective=infonce",),
    "crop_only": ("objective=none",),
    "gaussian": ("augmentation=gaussian", "objective=infonce"),
    "drqv2": ("agent=drqv2_small", "objective=none"),
}

# The configuration files that a preset or variant is made of, where they may not be there yet.
NEEDED = {"small": "experiment/laptop.yaml", "drqv2": "agent/drqv2.yaml"}


@dataclass(frozen=True)
class Cell:
    """One run of the table."""

    preset: str
    variant: str
    task: str
    seed: int

    def __str__(self) -> str:
        return f"{self.preset}/{self.variant}/{self.task}/seed_{self.seed}"

    @property
    def key(self) -> tuple[str, str, str]:
        """What all seeds have in common."""
        return self.preset, self.variant, self.task

    def overrides(self) -> list[str]:
        """What makes the experiment, as arguments of train.py."""
        protocol = [f"{key}={value}" for key, value in PROTOCOL.items()]
        own = [f"task={self.task}", f"seed={self.seed}", f"label={self.variant}"]
        variants = VARIANTS | SMALL_VARIANTS if self.preset == "small" else VARIANTS
        return [*protocol, *PRESETS[self.preset], *variants[self.variant], *own]


def cells(
    preset: str, tasks: Sequence[str], variants: Sequence[str], seeds: Sequence[int]
) -> list[Cell]:
    """The cells in the order in which they run: seed by seed, so that a stop leaves balanced data.

    Raises:
        ValueError: an unknown name, or a name twice; a preset or variant that does not exist yet.
    """
    choice("--preset", preset, tuple(PRESETS))
    if not (tasks and variants and seeds):
        raise ValueError("--tasks, --variants and --seeds each need at least one value")
    known = sorted(path.stem for path in (CONFIGS / "task").glob("*.yaml"))
    for task in tasks:
        if task not in known:
            raise ValueError(f"unknown task {task!r}{nearest(task, known)}")
    for variant in variants:
        choice("--variants", variant, tuple(VARIANTS))
    for seed in seeds:
        integer("--seeds", seed, at_least=0)
    for name in (preset, *variants):
        if name in NEEDED and not (CONFIGS / NEEDED[name]).is_file():
            raise ValueError(f"{name} does not exist yet: there is no configs/{NEEDED[name]}")
    found = [Cell(preset, v, t, s) for s in seeds for t in tasks for v in variants]
    if len(set(found)) < len(found):
        raise ValueError("a task, a variant or a seed is named twice")
    return found


def listed(text: str) -> list[str]:
    """The names of `A,B` on a command line."""
    return [part for part in text.split(",") if part]


def numbered(seeds: Sequence[str]) -> list[int]:
    """The seeds of `--seeds`; `ValueError` if one is no integer."""
    try:
        return [int(seed) for seed in seeds]
    except ValueError:
        raise ValueError(f"--seeds must be integers, got {','.join(seeds)}") from None


def compose_all(wanted: Sequence[Cell]) -> dict[Cell, dict[str, Any]]:
    """The resolved configuration of each cell, as today's files have it.

    Raises:
        ValueError: the configuration files refuse it.
    """
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        for cell in wanted:
            if cell.key not in found:
                try:
                    config = compose("train", overrides=cell.overrides())
                    plain = OmegaConf.to_container(config, resolve=True)
                    assert isinstance(plain, dict)
                    named = {str(k): v for k, v in plain.items() if k != "experiment"}
                    found[cell.key] = checked(named)
                except (HydraException, OmegaConfBaseException, SettingsError) as error:
                    raise ValueError(f"{cell}: {error}") from None
    return {cell: found[cell.key] | {"seed": cell.seed} for cell in wanted}


# -- settings ------------------------------------------------------------------------------------


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted key -> value of what makes a curve what it is: the experiment and its protocol."""
    aside = (BOOKKEEPING - {*PROTOCOL, UPDATES}) | {USED}
    return {key: value for key, value in complete(config).items() if not within(key, aside)}


def settings_hash(config: Mapping[str, Any]) -> str:
    """The first 12 digits of the SHA-256 of `settings`, the same for all seeds of a cell."""
    text = json.dumps(settings(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def budget_of(config: Mapping[str, Any]) -> int:
    """The position at which a run of these settings ends, on its axis."""
    axis = UPDATES if config["loop"] == "offline" else ENV_STEPS
    return integer(axis, config[axis])


def differing(before: Mapping[str, Any], today: Mapping[str, Any]) -> list[str]:
    """The settings in which two configurations contradict each other, as `key=then (today: now)`.

    A setting that did not exist then counts with its default, where curl/schema.py has one. One
    that only one of them has is no contradiction: arguments of a constructor are added with a
    default that keeps what it does.
    """
    there, here = settings(before), settings(today)
    return [
        f"{key}={there[key]!r} (today: {here[key]!r})"
        for key in sorted(there.keys() & here.keys())
        if there[key] != here[key]
    ]


# -- what is on the disk -------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """What there is of a cell.

    Attributes:
        state: finished (there is a curve file), collectable (the run folder holds a finished run),
            unfinished (it holds a begun one), missing.
        position: of the last row of the run folder's metrics, on the axis of the run.
        budget: position at which the whole run ends.
        others: messages about files of other settings, which are put aside before the cell runs.
        newer: settings of today that did not exist when a finished curve was made.
    """

    cell: Cell
    state: str
    position: int
    budget: int
    others: tuple[str, ...] = ()
    newer: tuple[str, ...] = ()


class Table:
    """The files of all cells.

    Args:
        results: folder of the curve files.
        runs: folder of the run folders.
    """

    def __init__(self, *, results: Path, runs: Path) -> None:
        self.results, self.runs = results, runs

    def curve(self, cell: Cell) -> Path:
        """The curve file of a cell, whether or not it exists."""
        return self.results / f"{cell}.jsonl"

    def folder(self, cell: Cell) -> Path:
        """The run folder of a cell, whether or not it exists."""
        return self.runs / str(cell)

    def look(self, cell: Cell, today: Mapping[str, Any]) -> Found:
        """What there is of a cell whose configuration today is `today`; changes nothing.

        Raises:
            ValueError: a curve file that cannot be read.
        """
        others = []
        budget = budget_of(today)
        path, folder = self.curve(cell), self.folder(cell)
        if path.exists():
            before = read_curve(path, shown(path)).config
            other = differing(before, today)
            if not other:
                newer = tuple(sorted(settings(today).keys() - settings(before).keys()))
                return Found(cell, "finished", budget, budget, newer=newer)
            others.append(f"{shown(path)} has other settings, kept apart: {'; '.join(other)}")
        if not RunFolder(folder).config.exists():
            return Found(cell, "missing", 0, budget, tuple(others))
        run = read_run(folder, shown(folder))
        if other := differing(run.config, today):
            others.append(f"{shown(folder)} has other settings, kept apart: {'; '.join(other)}")
            return Found(cell, "missing", 0, budget, tuple(others))
        state = "collectable" if run.reached >= run.budget else "unfinished"
        return Found(cell, state, run.position, run.budget, tuple(others))

    def put_aside(self, cell: Cell, today: Mapping[str, Any]) -> None:
        """Rename a curve file and a run folder of other settings, to names that nothing reads.

        An empty `today` stands for settings that differ from those of any run folder.
        """
        path, folder = self.curve(cell), self.folder(cell)
        if today and path.exists() and differing(before := read_curve(path).config, today):
            path.rename(_free(path.with_suffix(f".{settings_hash(before)}.jsonl")))
        if RunFolder(folder).config.exists():
            before = read_run(folder, shown(folder)).config
            if not today or differing(before, today):
                folder.rename(_free(folder.with_name(f"{folder.name}.{settings_hash(before)}")))

    def collect(self, cell: Cell) -> Path:
        """Write the curve file of a finished run; returns its path.

        The frames of the run's checkpoints are deleted: they are what resuming would need, up to
        3 GB a run. The agent's checkpoint stays, for `eval.py`.

        Raises:
            ValueError: the run folder holds no finished run.
        """
        folder = self.folder(cell)
        run = read_run(folder, shown(folder))
        if run.reached < run.budget:
            at = f"at {max(run.reached, 0):,} of {run.budget:,} {words(run.axis)}"
            raise ValueError(f"{shown(folder)} ended without its last evaluation, {at}")
        rows: dict[int, dict[str, Any]] = {}
        for line in RunFolder(folder).metrics.read_text(errors="replace").splitlines():
            if '"evaluation"' in line:
                row = json.loads(line)
                rows[due(int(row[run.axis]), run.config, run.axis)] = row
        steps = sorted(rows)
        no_part = (USED, "run_dir", "logger", "about")
        config = {key: value for key, value in run.config.items() if key not in no_part}
        header = {
            "preset": cell.preset,
            "variant": cell.variant,
            "task": cell.task,
            "seed": cell.seed,
            "commits": commits(folder),
            "settings_hash": settings_hash(config),
            "used": run.config.get(USED, {}),
            "config": config,
        }
        curve = Curve(
            header=header,
            steps=np.array(steps, dtype=np.int64),
            returns=np.array([rows[step]["returns"] for step in steps], dtype=np.float64),
            wall_seconds=np.array([rows[step]["wall_time"] for step in steps], dtype=np.float64),
        )
        write_curve(self.curve(cell), curve)
        for frames in RunFolder(folder).all_frames():
            frames.unlink(missing_ok=True)
        return self.curve(cell)


def commits(folder: Path) -> list[str]:
    """The commits that a run was started and resumed with, one after another."""
    path = RunFolder(folder).commits
    return path.read_text().split() if path.exists() else []


def note_commit(folder: Path, commit: str) -> None:
    """Add a commit to those of a run folder, unless it is the last one there."""
    if commits(folder)[-1:] != [commit]:
        folder.mkdir(parents=True, exist_ok=True)
        with RunFolder(folder).commits.open("a") as file:
            file.write(f"{commit}\n")


def shown(path: Path) -> str:
    """A path as messages show it: relative to here, where it lies below."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _free(path: Path) -> Path:
    """`path`, or with a number behind it where that name is taken."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}.{number}")
    return free
