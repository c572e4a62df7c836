"""What is an augmentation for? Agents that train on one look are tested on many, on a CPU.

Small agents learn cartpole swing-up on the look that it has, each with another augmentation.
`python -m curl eval` then tests each of them under all shifts (docs/shifts.md).

    python -m benchmarks.robustness --jobs 2             # runs what is missing, resumes the rest

Like `python -m benchmarks.dmc` it keeps each finished learning curve as a small file, below
results/robustness, and runs nothing twice.

    exit code 0   everything is finished, or the time limit was reached with everything saved
              1   a run failed; the others were run all the same
              2   the command line cannot be followed
              128 + n  signal n arrived; everything is saved
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.cells import PRESETS, Cell, numbered
from benchmarks.dmc import TRAIN
from benchmarks.stages import add_names, require_names, run_stages, study_parser, table_of
from curl.errors import exits_with_one_line

TASK = "cartpole_swingup"
TRAINED = "train"
BUDGET = ("env_steps=100000", "eval_every=20000", "eval_episodes=10", "replay.capacity=16000")

# Crops are cut from a larger frame, in the ratio of the paper, 84 of 100. All agents see 44 pixels.
WHOLE = ("~augmentation.query.pad",)
CROPS = ("render_size=52", *WHOLE)
AUGMENTATIONS: dict[str, tuple[str, ...]] = {
    "none": WHOLE,
    "crop": CROPS,
    "crop_gaussian": CROPS,
    "shift": (),
    "color_jitter": WHOLE,
    "random_conv": WHOLE,
    # The rectangle covers the share of the frame that RAD's 10 to 30 of 84 pixels do.
    "cutout_color": (*WHOLE, "augmentation.query.min_edge=5", "augmentation.query.max_edge=16"),
}


@dataclass(frozen=True)
class Trained(Cell):
    """One run; its `variant` is the augmentation."""

    def overrides(self) -> list[str]:
        """What makes the experiment, as arguments of train.py."""
        own = [f"task={self.task}", f"seed={self.seed}", f"augmentation={self.variant}"]
        return [*PRESETS["small"], *BUDGET, *own, *AUGMENTATIONS[self.variant]]


def command_line(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = study_parser("robustness", __doc__)
    add_names(parser, "--augmentations", tuple(AUGMENTATIONS))
    return parser.parse_args(argv)


def drive(arguments: argparse.Namespace, program: tuple[str, ...]) -> int:
    """The command; returns the exit code. `program` is what trains."""
    require_names("--augmentations", arguments.augmentations, tuple(AUGMENTATIONS))
    seeds = numbered(arguments.seeds)
    cells = [Trained(TRAINED, a, TASK, s) for s in seeds for a in arguments.augmentations]
    return run_stages(table_of(arguments), {TRAINED: cells}, arguments, program)


def main(argv: Sequence[str] | None = None, program: tuple[str, ...] = TRAIN) -> int:
    """The command line; returns the exit code."""
    return exits_with_one_line(drive, command_line(argv), program)


if __name__ == "__main__":
    sys.exit(main())
