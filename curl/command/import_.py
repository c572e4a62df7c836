"""`python -m curl import FOLDER --dataset NAME --task TASK`: a folder of V-D4RL as a dataset."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from curl.checks import integer
from curl.command.parser import Parser, add_dataset, number
from curl.command.stopping import Stop
from curl.command.tasks import task_settings
from curl.command.writing import CODES, until, writing
from curl.data import vd4rl
from curl.data.dataset import Dataset
from curl.data.episode import Origin
from curl.data.layout import require_free, root
from curl.data.writing import write
from curl.files import require_room

log = logging.getLogger("curl")

IMPORTED = "imported"  # the policy of a dataset that was imported


def parser() -> Parser:
    parser = Parser(
        "import",
        "Import a folder of V-D4RL (Lu et al. 2023) as a local Minari dataset, on which everything "
        "works that\nworks on recorded ones. The folder holds .npz episodes (64 pixels) or .hdf5 "
        "shards (84 pixels).\nIts files are read one episode at a time, and are not changed.",
        examples={
            "vd4rl/main/walker_walk/expert/84px --dataset walker_walk/vd4rl_expert-v0 "
            "--task walker_walk": "All episodes of the folder.",
        },
        codes=CODES,
    )
    parser.add_argument(
        "folder",
        type=Path,
        metavar="FOLDER",
        help="A folder that holds the files themselves, as main/walker_walk/expert/84px.",
    )
    add_dataset(parser)
    parser.add_argument(
        "--task",
        metavar="NAME",
        required=True,
        help="The task that was recorded: a name of configs/task, as walker_walk.",
    )
    parser.add_argument(
        "--action-repeat",
        type=number,
        metavar="N",
        default=vd4rl.ACTION_REPEAT,
        help="Control steps per recorded action. The default is that of V-D4RL, "
        f"{vd4rl.ACTION_REPEAT}.",
    )
    return parser


def main(arguments: Sequence[str]) -> int:
    """The command. Refusals are raised as ValueError or OSError.

    Returns:
        The exit code: 0, or 128 + n after signal n.
    """
    options = parser().parse_args(arguments)
    integer("--action-repeat", options.action_repeat)
    task_settings(options.task)
    require_free(options.dataset)
    return writing(lambda stop: imported(options, stop))


def imported(options: argparse.Namespace, stop: Stop) -> Dataset:
    """Say what the folder holds, and write its episodes."""
    source = vd4rl.find(options.folder)
    log.info("%s", source)
    require_room(root(), source.frame_bytes, f"the dataset {options.dataset}")
    task = task_settings(options.task) | {"action_repeat": options.action_repeat}
    origin = Origin(
        environment=task["env_id"],
        action_repeat=options.action_repeat,
        render_size=source.edge,
        frame_stack=vd4rl.FRAME_STACK,
        action_dim=source.action_dim,
        task=task,
        policy=IMPORTED,
        seed=None,
        imported=str(options.folder.absolute()),
    )
    return write(options.dataset, until(stop, source.episodes()), origin)
