"""`python -m curl compare RUN ...`: which variant is better, and is it luck?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.text import Text

from curl.command.looks import chosen
from curl.command.parser import Parser, add_out, add_runs, add_seed, names, number, numbers
from curl.study import compare, rendering, report
from curl.study.grid import SHORTCUTS
from curl.tables import make_console


def parser() -> Parser:
    parser = Parser(
        "compare",
        "Compare variants by the evaluations that their runs recorded: interquartile means with "
        "95 %\nbootstrap intervals, permutation tests and probabilities of improvement. Every "
        "variant needs\nthe same tasks and seeds. Nothing is trained or evaluated anew, and no "
        "checkpoint is needed.",
        examples={
            "runs/cartpole_swingup --by label": "All variants of one task, told apart by their "
            "label.",
            "runs --by objective --baseline none --out report": "Every objective against none, "
            "with a report to read.",
            "runs --shift all --out report": "Which augmentation keeps how much of its return on "
            "which look.",
        },
    )
    add_runs(parser, " A file with a curve, seed_<n>.jsonl, will do as well.")
    add = parser.add_argument
    add(
        "--by",
        metavar="KEY",
        default="augmentation",
        help="What tells variants apart: "
        f"{', '.join(SHORTCUTS)}, or the dotted key of any setting. The default is augmentation.",
    )
    add(
        "--at",
        type=number,
        metavar="N",
        help="Compare at this number of env steps, or of updates where the runs learned from a "
        "dataset alone. The default is the smallest budget among the runs.",
    )
    add(
        "--baseline",
        metavar="VARIANT",
        help="Compare every other variant with this one. The default is to compare all pairs.",
    )
    add(
        "--seeds",
        type=numbers,
        metavar="N,N,...",
        help="Take only the runs with these seeds. The default is all of them.",
    )
    add(
        "--shift",
        type=names,
        metavar="NAME,...",
        help="Also compare how much of the return is kept on other looks: names as eval --shift "
        "takes them, or all that runs were evaluated on. This reads what eval --shift has left in "
        "the folders of the runs, and evaluates nothing.",
    )
    add_out(parser, "A folder for report.md, report.html, tables as CSV and figures.")
    add_seed(parser, "The seed of the bootstrap and of the tests.", "--resampling-seed")
    return parser


def main(arguments: Sequence[str]) -> int:
    """The command: prints the comparison and returns 0. Refusals are raised as ValueError."""
    options = parser().parse_args(arguments)
    looks = [] if options.shift is None else options.shift
    if options.shift is not None:
        chosen(looks, "--shift")  # refuses what is no look
    comparison = compare.compare(
        options.runs,
        by=options.by,
        at=options.at,
        baseline=options.baseline,
        seeds=options.seeds,
        looks=looks,
        out=options.out,
        generator=np.random.default_rng(options.resampling_seed),
    )
    console = make_console()
    rendering.terminal(report.title(comparison), report.sections(comparison), console)
    if options.out is not None:
        console.print(Text(f"\nreport: {options.out / 'report.html'}"), soft_wrap=True)
    return 0
