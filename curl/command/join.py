"""`python -m curl join A B --dataset NAME`: several datasets of one environment become one."""

from __future__ import annotations

from collections.abc import Sequence

from curl.command.parser import Parser, add_dataset
from curl.command.writing import CODES, until, writing
from curl.data.dataset import read
from curl.data.joining import joined_episodes, joined_origin
from curl.data.layout import require_free, root
from curl.data.writing import write
from curl.files import require_room


def parser() -> Parser:
    parser = Parser(
        "join",
        "Write the episodes of several datasets as one new dataset, in the order of the datasets. "
        "They must\nhave the same environment, action repeat, size of frames and size of actions.",
        examples={
            "walker_walk/medium-v0 walker_walk/expert-v0 --dataset walker_walk/medium_expert-v0": (
                "The episodes of a medium agent, and behind them those of an expert."
            ),
        },
        codes=CODES,
    )
    parser.add_argument(
        "names",
        nargs="+",
        metavar="NAME",
        help="The names of local datasets, at least two. They stay as they are.",
    )
    add_dataset(parser)
    return parser


def main(arguments: Sequence[str]) -> int:
    """The command. Refusals are raised as ValueError or OSError.

    Returns:
        The exit code: 0, or 128 + n after signal n.
    """
    options = parser().parse_args(arguments)
    require_free(options.dataset)
    parts = [read(name) for name in options.names]
    origin = joined_origin(parts)
    require_room(root(), sum(part.size for part in parts), f"the dataset {options.dataset}")
    return writing(lambda stop: write(options.dataset, until(stop, joined_episodes(parts)), origin))
