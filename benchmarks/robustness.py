"""What is an augmentation for? Agents that train on one look are tested on many, on a CPU.

Small agents learn cartpole swing-up on the look that it has, each with another augmentation. Then
`python -m curl eval --shift all` plays the same episodes with each of them on every other look
(docs/shifts.md).

    python -m benchmarks.robustness --jobs 2             # runs what is missing, resumes the rest
    python -m benchmarks.robustness --page               # writes docs/results/robustness.md

Like `python -m benchmarks.dmc` it keeps each finished learning curve as a small file, below
results/robustness, with the returns on other looks beside it, and runs nothing twice.

    exit code 0   everything is finished, or the time limit was reached with everything saved
              1   a run or an evaluation failed; the others were run all the same
              2   the command line cannot be followed
              128 + n  signal n arrived; everything is saved
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.cells import PRESETS, ROOT, Cell, Table, numbered, shown
from benchmarks.dmc import TRAIN
from benchmarks.stages import add_names, require_names, run_stages, study_parser, table_of
from curl.errors import exits_with_one_line
from curl.files import write_json
from curl.run.folder import RunFolder
from curl.study.curves import looks_beside

TASK = "cartpole_swingup"
TRAINED, TESTED = "train", "test"
EPISODES = 10  # on each look
BUDGET = ("env_steps=100000", "eval_every=20000", "eval_episodes=10", "replay.capacity=16000")

# Crops are cut from a larger frame, in the ratio of the paper, 84 of 100. All agents see 44 pixels.
CROPS = ("render_size=52",)
AUGMENTATIONS: dict[str, tuple[str, ...]] = {
    "none": (),
    "crop": CROPS,
    "crop_gaussian": CROPS,
    "shift": (),
    "color_jitter": (),
    "random_conv": (),
    # The rectangle covers the share of the frame that RAD's 10 to 30 of 84 pixels do.
    "cutout_color": ("augmentation.query.min_edge=5", "augmentation.query.max_edge=16"),
}


@dataclass(frozen=True)
class Trained(Cell):
    """One run; its `variant` is the augmentation."""

    def overrides(self) -> list[str]:
        """What makes the experiment, as arguments of train.py."""
        augmentation = {"shift": "shift_small"}.get(self.variant, self.variant)
        own = [f"task={self.task}", f"seed={self.seed}", f"augmentation={augmentation}"]
        return [*PRESETS["small"], *BUDGET, *own, *AUGMENTATIONS[self.variant]]


def test(cells: Sequence[Cell], table: Table, jobs: int, program: Sequence[str]) -> int:
    """Play the finished runs on all looks, and keep their returns beside their curves.

    Args:
        jobs: episodes side by side.
        program: the command line of `python -m curl`.

    Returns:
        The exit code of the evaluation. It keeps what it has played in the run folders.
    """
    finished = [cell for cell in cells if table.curve(cell).exists()]
    folders = [shown(table.folder(cell)) for cell in finished]
    if not folders:
        print(f"{TESTED}: no run is finished")
        return 0
    chosen = ("--shift", "all", "--episodes", str(EPISODES), "--processes", str(jobs))
    code = subprocess.run([*program, "eval", *folders, *chosen], cwd=ROOT).returncode
    for cell in finished:
        for file in RunFolder(table.folder(cell)).all_looks():
            content = json.loads(file.read_text(encoding="utf-8"))
            write_json(looks_beside(table.curve(cell)), content | {"run": str(cell)})
    return code


def command_line(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = study_parser("robustness", __doc__)
    add_names(parser, "--stages", (TRAINED, TESTED))
    add_names(parser, "--augmentations", tuple(AUGMENTATIONS))
    return parser.parse_args(argv)


def drive(
    arguments: argparse.Namespace, program: tuple[str, ...], commands: tuple[str, ...]
) -> int:
    """The command; returns the exit code. `program` is what trains, `commands` what evaluates."""
    if arguments.page:
        from benchmarks.robustness_page import write_page

        for path in write_page(arguments.results.resolve()):
            print(shown(path))
        return 0
    require_names("--stages", arguments.stages, (TRAINED, TESTED))
    require_names("--augmentations", arguments.augmentations, tuple(AUGMENTATIONS))
    seeds, table = numbered(arguments.seeds), table_of(arguments)
    cells = [Trained(TRAINED, a, TASK, s) for s in seeds for a in arguments.augmentations]
    if TRAINED in arguments.stages:
        code = run_stages(table, {TRAINED: cells}, arguments, program)
        if code or arguments.plan:
            return code
    return test(cells, table, arguments.jobs, commands) if TESTED in arguments.stages else 0


def main(
    argv: Sequence[str] | None = None,
    program: tuple[str, ...] = TRAIN,
    commands: tuple[str, ...] = (sys.executable, "-m", "curl"),
) -> int:
    """The command line; returns the exit code."""
    return exits_with_one_line(drive, command_line(argv), program, commands)


if __name__ == "__main__":
    sys.exit(main())
