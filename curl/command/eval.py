"""`python -m curl eval RUN ...`: evaluate saved agents, print a table and leave evaluation.json."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from curl.checks import integer
from curl.command import looking
from curl.command.looks import chosen
from curl.command.parser import (
    Parser,
    add_device,
    add_opengl,
    add_out,
    add_runs,
    add_seed,
    names,
    number,
)
from curl.errors import BAD_INPUT, refuse
from curl.files import write_json
from curl.hardware.device import choose_device, choose_opengl, load_renderer, prepare_device
from curl.run.clock import ENV_STEPS, heading
from curl.run.folder import CHECKPOINTS, EVALUATION, SHIFTS, STATE, RunFolder, run_folders
from curl.run.guard import StopSignal, reason
from curl.tables import make_console, table


def parser() -> Parser:
    parser = Parser(
        "eval",
        "Let saved agents act deterministically in new episodes. The command prints the mean "
        "return of\neach run with its sample standard deviation and its 95 % interval, and writes "
        f"them with all\nreturns to {EVALUATION} in the folder of the run.",
        examples={
            "runs/cartpole_swingup/curl-crop-infonce/seed_1": "Ten episodes of one run's newest "
            "sound checkpoint.",
            "runs --episodes 20 --out scores.json": "All runs below runs, and one file with all "
            "results.",
            f"runs/.../{CHECKPOINTS}/{STATE}-50000.pt --video": "One checkpoint, and a video of "
            "its first episode.",
            "runs --shift all --episodes 20": "The same episodes on every look of configs/shift, "
            "beside the look that each run trained on.",
        },
        codes={"128+n": "Signal n ended the command; the results so far were printed and written."},
    )
    add_runs(parser, " A state file of a checkpoint will do as well.")
    parser.add_argument(
        "--episodes",
        type=number,
        metavar="N",
        default=10,
        help="How many episodes each agent plays. The default is 10.",
    )
    add_seed(
        parser,
        "The seed of the episodes: agents that are evaluated with the same seed play the same "
        "ones, and no training episode is among them.",
    )
    parser.add_argument(
        "--video",
        action="store_true",
        help="Write an MP4 of the first episode into the folder of the run; with --shift, one for "
        "each look.",
    )
    parser.add_argument(
        "--shift",
        type=names,
        metavar="NAME,...",
        help="Evaluate on other looks, too: names of configs/shift, or all, which leaves out what "
        "makes no sense on a task. noise:severity=5 sets a setting. Returns go to the folder "
        f"{SHIFTS} of the run, with frames of each look, and episodes that are there already are "
        "not played again.",
    )
    add_device(parser)
    add_opengl(parser)
    parser.add_argument(
        "--processes",
        type=number,
        metavar="N",
        default=1,
        help="How many episodes are played side by side, each in a process of its own. "
        "The default is 1.",
    )
    add_out(parser, "A JSON file for the results of all runs.")
    return parser


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit code. Refusals are raised as ValueError or OpenGLError."""
    return evaluate_all(parser().parse_args(arguments))


def evaluate_all(options: argparse.Namespace) -> int:
    """Evaluate each run. One that fails is reported, and the others are evaluated all the same.

    Returns:
        The exit code: 0, or 2 if anything failed, or 128 + n after signal n.
    """
    integer("--episodes", options.episodes)
    integer("--processes", options.processes)
    integer("--seed", options.seed, at_least=0)
    looks = None if options.shift is None else chosen(options.shift, "--shift")
    device = choose_device(options.device)
    prepare_device(device)
    backend = choose_opengl(options.opengl, device)
    load_renderer(backend)
    from curl.run import scoring  # after the OpenGL backend has been chosen

    asked = StopSignal(
        lambda text: print(text, file=sys.stderr),
        what="stopping; results of the runs evaluated so far follow",
    )
    results: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    how: dict[str, Any] = {
        "episodes": options.episodes,
        "seed": options.seed,
        "video": options.video,
        "device": device,
        "backend": backend,
        "processes": options.processes,
        "stop": lambda: asked.number is not None,
    }
    for run in each_run(options.runs):
        try:
            if looks is None:
                result = scoring.evaluate_run(run, **how)
            else:
                result = looking.evaluate(run, looks, **how)
        except InterruptedError:
            break
        except Exception as error:
            if os.environ.get("CURL_TRACEBACK"):
                traceback.print_exc()
            expected = isinstance(error, (ValueError, OSError))
            text = str(error) if expected else reason(error)
            refuse(text if str(run) in text else f"{run}: {text}")
            failed.append({"run": str(run), "error": text})
            continue
        results.append(result)
        for failure in result.get("failures", ()):
            refuse(failure)
    if results:
        (show if looks is None else looking.show)(results)
    complete = not failed and not any("failures" in result for result in results)
    if options.out is not None:
        try:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            write_json(options.out, [*results, *failed])
        except OSError as error:
            refuse(f"{options.out} could not be written: {error.strerror}")
            complete = False
    if asked.number is not None:
        return 128 + asked.number
    return 0 if complete else BAD_INPUT


def each_run(paths: Iterable[Path]) -> Iterator[Path]:
    """Run folders and state files as they are given; of another folder the runs in it, sorted.

    A folder without any run is handed on, so that whoever reads it says what it lacks.
    """
    for path in paths:
        below = []
        if path.is_dir() and not RunFolder(path).states():
            below = sorted(run_folders(path))
        yield from below or [path]


def show(results: Sequence[dict[str, Any]]) -> None:
    """Print a table with one row for each run, and the files that were written."""
    axes = [r.get("axis", ENV_STEPS) for r in results]
    head = ("run", heading(axes), "episodes", "mean return", "sample std", "95 % interval")
    rows = []
    for axis, r in zip(axes, results, strict=True):
        low, high = r["interval"] or (None, None)
        interval = "-" if low is None else f"[{low:.1f}, {high:.1f}]"
        std = "-" if r["std"] is None else f"{r['std']:.1f}"
        cells = (f"{r[axis]:,}", str(r["episodes"]), f"{r['mean']:.1f}", std, interval)
        rows.append((r["run"], *cells))
    console = make_console()
    console.print(table(head, rows, width=console.width, right=range(1, len(head))))
    for r in results:
        files = " ".join(f for f in (r["file"], r.get("video")) if f)
        console.print(Text(files), soft_wrap=True)
