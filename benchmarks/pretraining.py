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
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cells import ROOT, Cell, numbered, shown
from benchmarks.dmc import TRAIN
from benchmarks.stages import add_names, require_names, run_stages, study_parser, table_of
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
    require_names("--stages", wanted, tuple(STAGES))
    require_names("--objectives", objectives, OBJECTIVES)
    require_names("--encoders", encoders, ("finetune", "frozen"))
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
    parser = study_parser("pretraining", __doc__)
    add_names(parser, "--stages", tuple(STAGES))
    add_names(parser, "--objectives", OBJECTIVES)
    add_names(parser, "--encoders", ("finetune", "frozen"))
    return parser.parse_args(argv)


def drive(arguments: argparse.Namespace, program: tuple[str, ...]) -> int:
    """The command; returns the exit code. `program` is what trains."""
    if arguments.page:
        from benchmarks.pretraining_page import write_page

        for path in write_page(arguments.results.resolve()):
            print(shown(path))
        return 0
    seeds, table = numbered(arguments.seeds), table_of(arguments)
    planned = stages(arguments.stages, arguments.objectives, arguments.encoders, seeds, table.runs)

    def prepare() -> None:
        describe((REPLAY, EXPERT), table.results / DATASETS)

    return run_stages(table, planned, arguments, program, prepare)


def main(argv: Sequence[str] | None = None, program: tuple[str, ...] = TRAIN) -> int:
    """The command line; returns the exit code."""
    return exits_with_one_line(drive, command_line(argv), program)


if __name__ == "__main__":
    sys.exit(main())
