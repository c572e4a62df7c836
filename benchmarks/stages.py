"""Studies whose runs come in stages, where a later stage begins from what an earlier one left."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.cells import ROOT, Cell, Table, compose_all, listed
from benchmarks.dmc import Driver, Options, deadline_of, this_commit
from curl.checks import choice, integer


def study_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """The options that the command lines of all studies share.

    Args:
        name: of the module below benchmarks, and of the study's folders below results and runs.
        description: of the command.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_names(parser, "--seeds", ("1", "2", "3"))
    add = parser.add_argument
    add("--jobs", type=int, default=1, help="runs side by side; default: 1")
    add("--minutes", type=float, help="stop after these, with everything saved; default: never")
    add("--nice", type=int, default=19, help="priority of the runs, 0 to 19; default: 19")
    add("--results", type=Path, default=ROOT / "results" / name, help="folder of the curves")
    add("--runs", type=Path, default=ROOT / "runs" / name, help="folder of the run folders")
    add("--plan", action="store_true", help="say what would be run, and run nothing")
    add("--page", action="store_true", help="write the page of results from the curves")
    return parser


def add_names(parser: argparse.ArgumentParser, option: str, default: Sequence[str]) -> None:
    """An option that takes names with commas between them."""
    told = ",".join(default)
    parser.add_argument(
        option, type=listed, default=list(default), metavar="A,B", help=f"default: {told}"
    )


def require_names(option: str, values: Sequence[str], known: Sequence[str]) -> None:
    """`ValueError` if a name is unknown, or named twice, or if there is none."""
    for value in values:
        choice(option, value, tuple(known))
    if len(set(values)) < len(values) or not values:
        raise ValueError(f"{option} needs at least one name, and each name once")


def table_of(arguments: argparse.Namespace) -> Table:
    """The files that the command line of a study names."""
    return Table(results=arguments.results.resolve(), runs=arguments.runs.resolve())


def run_stages(
    table: Table,
    planned: Mapping[str, Sequence[Cell]],
    arguments: argparse.Namespace,
    program: tuple[str, ...],
    prepare: Callable[[], None] = lambda: None,
) -> int:
    """Run the cells of each stage, one stage after another; returns the exit code.

    Args:
        table: their files.
        planned: stage -> its cells, in the order in which they run.
        arguments: of a `study_parser`.
        program: what trains.
        prepare: is called once before anything runs.
    """
    began = time.monotonic()
    jobs, nice = integer("--jobs", arguments.jobs), integer("--nice", arguments.nice, at_least=0)
    deadline = deadline_of(arguments.minutes, began)
    composed = {stage: compose_all(cells) for stage, cells in planned.items()}
    for stage, cells in planned.items():
        states = [table.look(cell, composed[stage][cell]).state for cell in cells]
        told = ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(states))
        print(f"{stage}: {len(cells)} runs: {told}")
    if arguments.plan:
        return 0
    prepare()
    sys.stdout.flush()
    if hasattr(os, "nice"):
        os.nice(nice)
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
