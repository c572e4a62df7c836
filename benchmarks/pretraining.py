"""Which pretraining helps on pixels? Yang and Nachum's question (2021), on a CPU, piece by piece.

Encoders are pretrained on a recorded dataset, each with another objective, and then taken over by
runs in three settings: imitation of a few expert episodes, offline and online reinforcement
learning. `none` begins with an encoder of its own. In `<objective>_frozen` the encoder is not
trained any more; `none_frozen` keeps one that was never trained.

    python -m benchmarks.pretraining --jobs 2            # runs what is missing, resumes the rest
    python -m benchmarks.pretraining --page              # writes docs/results/pretraining.md

The datasets are made as docs/results/pretraining.md says. Like `python -m benchmarks.dmc` it keeps
each finished learning curve as a small file, below results/pretraining, and runs nothing twice.

    exit code 0   everything is finished, or the time limit was reached with everything saved
              1   a run failed; the others of its stage were run all the same
              2   the command line cannot be followed
              128 + n  signal n arrived; everything is saved
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cells import ROOT, Cell, Table, compose_all, listed, numbered, shown
from benchmarks.dmc import TRAIN, Driver, Options, this_commit
from curl.checks import choice, integer
from curl.data import dataset
from curl.errors import exits_with_one_line
from curl.files import write_json

TASK = "cartpole_swingup"
REPLAY, EXPERT = f"{TASK}/medium_replay-v0", f"{TASK}/expert-v0"
OBJECTIVES = ("none", "infonce", "temporal", "inverse", "vpn", "acl")
PRETRAIN = "pretrain"
DATASETS = "datasets.json"  # below the folder of the curves
FROZEN = "_frozen"

STAGES: dict[str, tuple[str, ...]] = {
    PRETRAIN: (
        *("experiment=[laptop,pretrain]", "agent=bc_small", f"dataset={REPLAY}"),
        *("updates=10000", "eval_every=5000", "checkpoint_every=2000"),
    ),
    "imitate": (
        *("experiment=[laptop,imitate]", "agent=bc_small"),
        *(f"dataset={EXPERT}", "dataset_episodes=5"),
        *("updates=3000", "eval_every=1000", "checkpoint_every=1000"),
    ),
    "offline_rl": (
        *("experiment=[laptop,offline_rl]", "agent=td3_bc_small", f"dataset={REPLAY}"),
        *("updates=10000", "eval_every=2500", "checkpoint_every=2500"),
    ),
    "online": (
        *("experiment=[laptop,online_pretrained]", "agent=curl_small"),
        *("env_steps=40000", "eval_every=10000", "checkpoint_every=10000"),
        "replay.capacity=5000",
    ),
}
"""Stage -> what its runs have in common. Later stages begin from what the first one has learned."""


@dataclass(frozen=True)
class Stage(Cell):
    """One run: its `preset` is the stage, its `variant` the objective, with `_frozen` or without.

    Args:
        runs: folder of all run folders, in which the pretrained encoders lie.
    """

    runs: Path = ROOT / "runs/pretraining"

    @property
    def objective(self) -> str:
        return self.variant.removesuffix(FROZEN)

    @property
    def key(self) -> tuple[str, str, str]:
        """Seeds begin from encoders of their own."""
        return self.preset, self.variant, f"{self.task} {self.seed}"

    @property
    def pretrained(self) -> Path | None:
        """The run folder whose encoder it takes over."""
        if self.preset == PRETRAIN or self.objective == "none":
            return None
        return self.runs / str(Cell(PRETRAIN, self.objective, self.task, self.seed))

    def overrides(self) -> list[str]:
        """What makes the experiment, as arguments of train.py."""
        own = [f"task={self.task}", f"seed={self.seed}", f"label={self.variant}"]
        own += ["eval_episodes=10"]
        if self.preset == PRETRAIN:
            own.append(f"objective={self.objective}")
        if self.variant.endswith(FROZEN):
            own.append("encoder=frozen")
        if self.pretrained is not None:
            own.append(f"init_from={shown(self.pretrained)}")
        return [*STAGES[self.preset], *own]


def stages(
    wanted: Sequence[str],
    objectives: Sequence[str],
    encoders: Sequence[str],
    seeds: Sequence[int],
    runs: Path,
) -> dict[str, list[Stage]]:
    """Stage -> its runs, seed by seed, so that a stop leaves balanced data.

    Raises:
        ValueError: an unknown name, or a name twice.
    """
    for name, values, known in (
        ("--stages", wanted, tuple(STAGES)),
        ("--objectives", objectives, OBJECTIVES),
        ("--encoders", encoders, ("finetune", "frozen")),
    ):
        for value in values:
            choice(name, value, known)
        if len(set(values)) < len(values) or not values:
            raise ValueError(f"{name} needs at least one name, and each name once")
    found: dict[str, list[Stage]] = {}
    for stage in STAGES:
        if stage not in wanted:
            continue
        if stage == PRETRAIN:
            variants = [objective for objective in objectives if objective != "none"]
        else:
            ends = ["" if encoder == "finetune" else FROZEN for encoder in encoders]
            variants = [f"{o}{end}" for end, o in itertools.product(ends, objectives)]
        found[stage] = [Stage(stage, v, TASK, s, runs) for s in seeds for v in variants]
    return found


def describe(datasets: Sequence[str], path: Path) -> None:
    """Write what the datasets hold, for the page of results."""
    found = {}
    for name in datasets:
        recorded = dataset.read(name)
        found[name] = {
            "episodes": len(recorded),
            "transitions": recorded.transitions,
            "returns": [
                round(float(episode.rewards.sum()), 1)
                for episode in recorded.episodes()
                if episode.whole
            ],
            "env_steps": recorded.origin.env_steps,
            "digests": recorded.digests,
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, found)


# -- the command line ------------------------------------------------------------------------------


def command_line(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pretraining",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )

    def add(name: str, default: Sequence[str]) -> None:
        told = ",".join(default)
        parser.add_argument(
            name, type=listed, default=list(default), metavar="A,B", help=f"default: {told}"
        )

    add("--stages", tuple(STAGES))
    add("--objectives", OBJECTIVES)
    add("--encoders", ("finetune", "frozen"))
    add("--seeds", ("1", "2", "3"))
    more = parser.add_argument
    more("--jobs", type=int, default=1, help="runs side by side; default: 1")
    more("--minutes", type=float, help="stop after these, with everything saved; default: never")
    more("--nice", type=int, default=19, help="priority of the runs, 0 to 19; default: 19")
    more("--results", type=Path, default=ROOT / "results/pretraining", help="folder of the curves")
    more("--runs", type=Path, default=ROOT / "runs/pretraining", help="folder of the run folders")
    more("--plan", action="store_true", help="say what would be run, and run nothing")
    more("--page", action="store_true", help="write the page of results from the curves")
    return parser.parse_args(argv)


def drive(arguments: argparse.Namespace, program: tuple[str, ...]) -> int:
    """The command; returns the exit code. `program` is what trains."""
    began = time.monotonic()
    if arguments.page:
        from benchmarks.pretraining_page import write_page

        for path in write_page(arguments.results.resolve()):
            print(shown(path))
        return 0
    seeds = numbered(arguments.seeds)
    jobs, nice = integer("--jobs", arguments.jobs), integer("--nice", arguments.nice, at_least=0)
    table = Table(results=arguments.results.resolve(), runs=arguments.runs.resolve())
    planned = stages(arguments.stages, arguments.objectives, arguments.encoders, seeds, table.runs)
    composed = {stage: compose_all(cells) for stage, cells in planned.items()}
    for stage, cells in planned.items():
        states = [table.look(cell, composed[stage][cell]).state for cell in cells]
        told = ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(states))
        print(f"{stage}: {len(cells)} runs: {told}")
    if arguments.plan:
        return 0
    describe((REPLAY, EXPERT), table.results / DATASETS)
    sys.stdout.flush()
    if hasattr(os, "nice"):
        os.nice(nice)
    deadline = None if arguments.minutes is None else began + 60 * arguments.minutes
    options = Options(jobs=jobs, deadline=deadline, program=program, commit=this_commit())
    for stage, cells in planned.items():
        driver = Driver(table, composed[stage], options)
        outcome = driver.run([table.look(cell, composed[stage][cell]) for cell in cells])
        for cell, reason in outcome.failed.items():
            print(f"failed: {cell}: {reason}", file=sys.stderr)
        if driver.fleet.signals:
            return 128 + driver.fleet.signals[0]
        if outcome.failed:
            return 1
        if outcome.unfinished:
            print(f"stopped in {stage}: {driver.fleet.why_stopped}")
            return 0
    return 0


def main(argv: Sequence[str] | None = None, program: tuple[str, ...] = TRAIN) -> int:
    """The command line; returns the exit code."""
    return exits_with_one_line(drive, command_line(argv), program)


if __name__ == "__main__":
    sys.exit(main())
