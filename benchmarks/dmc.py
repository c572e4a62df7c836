"""The results table, piece by piece: `python -m benchmarks.dmc --preset small --jobs 2`.

Runs what is missing, resumes what is unfinished, and keeps each finished learning curve as a small
file below results/dmc, so that figures from different days and machines add up. Nothing is run
twice. A stop, by `--minutes` or a signal, leaves everything saved; the same command goes on.

    exit code 0   everything is finished, or the time limit was reached with everything saved
              1   a run failed; the others were run all the same
              2   the command line cannot be followed
              128 + n  signal n arrived; everything is saved
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.cells import (
    PRESETS,
    ROOT,
    TASKS,
    VARIANTS,
    Cell,
    Found,
    Table,
    cells,
    compose_all,
    listed,
    note_commit,
    numbered,
    shown,
)
from benchmarks.fleet import Fleet
from curl.checks import integer, real
from curl.command.sweep import ending
from curl.errors import BAD_INPUT, HUNG, exits_with_one_line
from curl.hardware.limits import available_cores
from curl.run.clock import words
from curl.run.folder import IN_USE, OTHER_RUN, Holder, RunFolder, holder
from curl.study.curves import curve_files, read_curve
from curl.study.runs import read_run
from curl.version import commit_of

TRAIN = (sys.executable, str(ROOT / "train.py"))
ATTEMPTS = 3  # times that a run is started in one call if signals keep killing it
RECENT = 20_000  # env steps over which the speed of a run is taken


@dataclass(frozen=True)
class Options:
    """How the runs are run.

    Attributes:
        jobs: runs side by side.
        deadline: of `time.monotonic`; None: no time limit.
        threads: CPU threads of each run.
        device: as train.py has it.
        every: seconds between two status reports.
        program: the command line that a run's overrides are appended to.
        commit: what the curve files call this version of the code.
        eval_processes: environments that each run evaluates side by side; None: its own choice.
    """

    jobs: int = 1
    deadline: float | None = None
    threads: int = 1
    device: str = "auto"
    every: float = 300.0
    program: tuple[str, ...] = TRAIN
    commit: str = "unknown"
    eval_processes: int | None = None


@dataclass
class Outcome:
    """What a call did, a list of cells each."""

    finished: list[Cell] = field(default_factory=list)
    unfinished: list[Cell] = field(default_factory=list)
    failed: dict[Cell, str] = field(default_factory=dict)


class Driver:
    """Runs cells in their order, some side by side."""

    def __init__(
        self, table: Table, today: Mapping[Cell, dict[str, Any]], options: Options
    ) -> None:
        self.table, self.today, self.options = table, today, options
        self.fleet = Fleet(at_once=options.jobs, deadline=options.deadline, say=say)
        self.pending: list[Cell] = []
        self.starts: Counter[Cell] = Counter()
        self.outcome = Outcome()
        self._waiting_for: dict[Cell, Holder] = {}
        self._printed: dict[Cell, int] = {}  # bytes of the output file before the newest start

    def run(self, found: Sequence[Found]) -> Outcome:
        """Run every cell that is not finished."""
        self.fleet.listen()
        self.pending = [each.cell for each in found if each.state != "finished"]
        by_name = {str(cell): cell for cell in self.pending}
        report = time.monotonic() + min(self.options.every, 30)
        while self.fleet.running or (self.pending and not self.fleet.stopping):
            for name, code in self.fleet.check().items():
                self._ended(by_name[name], code)
            self._launch()
            if time.monotonic() >= report:
                report = time.monotonic() + self.options.every
                for name in self.fleet.running:
                    say(progress(name, self.table.folder(by_name[name])))
            time.sleep(0.2)
        self.outcome.unfinished += self.pending
        return self.outcome

    def _launch(self) -> None:
        """Start cells while there is room; one that another process works on is left for later."""
        for cell in list(self.pending):
            if not self.fleet.has_room:
                return
            if other := holder(self.table.folder(cell)):
                if self._waiting_for.get(cell) != other:
                    say(f"{cell} waits: {other} works on it")
                self._waiting_for[cell] = other
                continue
            self.pending.remove(cell)
            try:
                self._take(cell)
            except (OSError, ValueError) as error:
                self._fail(cell, str(error))

    def _take(self, cell: Cell) -> None:
        """Do what is left to do about a cell that nobody works on."""
        state = self.table.look(cell, self.today[cell]).state
        if state == "finished":  # by another driver, since the plan was made
            self.outcome.finished.append(cell)
            return
        self.table.put_aside(cell, self.today[cell])
        if state == "collectable":
            self._collect(cell)
            return
        folder = self.table.folder(cell)
        note_commit(folder, self.options.commit)
        output = RunFolder(folder).output
        self._printed[cell] = output.stat().st_size if output.exists() else 0
        self.starts[cell] += 1
        threads = str(self.options.threads)
        overrides = [
            *cell.overrides(),
            *(f"run_dir={quoted(folder)}", "logger.wandb=disabled", "video=false"),
            *(f"threads={threads}", f"device={self.options.device}"),
        ]
        if self.options.eval_processes is not None:
            overrides.append(f"eval_processes={self.options.eval_processes}")
        self.fleet.start(
            str(cell),
            [*self.options.program, *overrides],
            output,
            env=os.environ | {"OMP_NUM_THREADS": threads},
            cwd=ROOT,
        )
        say(f"{cell} {'goes on' if RunFolder(folder).metrics.exists() else 'begins'}")

    def _collect(self, cell: Cell) -> None:
        path = self.table.collect(cell)
        curve = read_curve(path)
        self.outcome.finished.append(cell)
        mean, spent = curve.returns[-1].mean(), duration(curve.wall_seconds[-1])
        say(f"{cell} is finished: return {mean:.1f} after {spent}; {shown(path)}")

    def _ended(self, cell: Cell, code: int) -> None:
        folder = self.table.folder(cell)
        told = printed(RunFolder(folder).output, self._printed[cell])
        again = self.starts[cell] < ATTEMPTS
        if code == 0:
            try:
                self._collect(cell)
            except (OSError, ValueError) as error:
                self._fail(cell, str(error))
        elif self.fleet.stopping and ended_by_signal(code):
            self.outcome.unfinished.append(cell)
            say(f"{progress(str(cell), folder)}; stopped")
        elif code == BAD_INPUT and again and IN_USE in told:  # another driver was faster
            self.pending.insert(0, cell)
        elif code == BAD_INPUT and again and OTHER_RUN in told:
            say(f"{cell}: {shown(folder)} has other settings and is kept apart")
            self.table.put_aside(cell, {})
            self.pending.insert(0, cell)
        elif (code < 0 or code == HUNG) and again and not self.fleet.stopping:
            say(f"{cell} {ending(code)}; it goes on from its checkpoint")
            self.pending.insert(0, cell)
        elif ended_by_signal(code):
            self._fail(cell, ending(code))
        else:
            why = failure_line(folder, told)
            self._fail(
                cell, f"{why or ending(code)}; its output: {shown(RunFolder(folder).output)}"
            )

    def _fail(self, cell: Cell, why: str) -> None:
        self.outcome.failed[cell] = why
        say(f"{cell} failed: {why}")


def ended_by_signal(code: int) -> bool:
    """Whether a run was killed by a signal, or stopped by one with its checkpoint written."""
    return code < 0 or code > 128


def quoted(path: Path) -> str:
    """A path as a value on Hydra's command line, whatever characters it has."""
    escaped = str(path).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def say(line: str) -> None:
    """Print a line with the time of day."""
    print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)


def printed(output: Path, since: int) -> str:
    """What a run printed, from a byte of its output file on."""
    with output.open("rb") as file:
        file.seek(since)
        return file.read().decode(errors="replace")


def failure_line(folder: Path, told: str) -> str:
    """Why a run failed, in one line.

    That is what it noted in its folder, else its error message, else the last line it printed.
    """
    if noted := RunFolder(folder).failed_because():
        return noted
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or [""])[-1].removeprefix("error: ")


def progress(name: str, folder: Path) -> str:
    """Where a run stands, in one line."""
    try:
        run = read_run(folder, name)
    except (ValueError, OSError):
        return f"{name}  starting"
    line = f"{name}  {run.position:,} of {run.budget:,} {words(run.axis)}"
    if len(run.returns):
        line += f", return {run.returns[-1]:.1f} at {run.reached:,}"
    if rate := speed(folder, run.axis):
        left = (run.budget - run.position) / rate
        line += f", {rate:.1f} {words(run.axis)}/s, {duration(left)} left"
    return line


def speed(folder: Path, axis: str) -> float | None:
    """Steps on the axis per second of wall time of a run lately, evaluations included.

    None if it is not known yet.
    """
    points: list[tuple[float, float]] = []
    path = RunFolder(folder).metrics
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
            learning = row["kind"] == "train" and row["updates_per_second"] > 0
            if learning:
                points.append((float(row[axis]), float(row["wall_time"])))
        except (ValueError, TypeError, KeyError):
            continue
    points = [point for point in points if point[0] >= points[-1][0] - RECENT]
    if len(points) < 2 or points[-1][1] <= points[0][1]:
        return None
    return (points[-1][0] - points[0][0]) / (points[-1][1] - points[0][1])


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3.4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


# -- the plan ------------------------------------------------------------------------------------


def seconds_per_agent_step(
    table: Table, preset: str, processor: str
) -> dict[tuple[str, str], list[float]]:
    """(variant, task) -> wall seconds per agent step of the curves made on this processor."""
    found: dict[tuple[str, str], list[float]] = {}
    for path in curve_files(table.results / preset):
        curve = read_curve(path)
        machine = curve.header["used"].get("machine", {})
        if machine.get("processor") != processor:
            continue
        steps = int(curve.steps[-1]) / curve.config["task"]["action_repeat"]
        key = (curve.header["variant"], curve.header["task"])
        found.setdefault(key, []).append(float(curve.wall_seconds[-1]) / steps)
    return found


def estimate(
    each: Found, action_repeat: int, measured: Mapping[tuple[str, str], Sequence[float]]
) -> float | None:
    """Seconds that a cell still takes: from curves of its own kind, else of its task, else any."""
    cell = each.cell
    own = measured.get((cell.variant, cell.task), ())
    same_task = [s for (_, task), found in measured.items() if task == cell.task for s in found]
    anything = [s for found in measured.values() for s in found]
    for rates in (own, same_task, anything):
        if rates:
            return (each.budget - each.position) / action_repeat * statistics.median(rates)
    return None


def plan(
    found: Sequence[Found],
    today: Mapping[Cell, dict[str, Any]],
    table: Table,
    *,
    jobs: int,
    processor: str,
) -> list[str]:
    """What there is, what will run, and how long it takes, as lines."""
    lines = []
    groups: dict[tuple[str, str], list[Found]] = {}
    for each in found:
        groups.setdefault((each.cell.task, each.cell.variant), []).append(each)
    width = max(len(f"{task}, {variant}") for task, variant in groups)
    for (task, variant), group in groups.items():
        parts = []
        for state in ("finished", "collectable", "unfinished", "missing"):
            seeds = [each for each in group if each.state == state]
            if seeds:
                told = [
                    f"{each.cell.seed}" + f" at {each.position:,}" * (state == "unfinished")
                    for each in seeds
                ]
                parts.append(f"{state}: {', '.join(told)}")
        lines.append(f"{f'{task}, {variant}':{width}}   {';  '.join(parts)}")
    lines += [other for each in found for other in each.others]
    newer = sorted({key for each in found for key in each.newer})
    if newer:
        count = sum(bool(each.newer) for each in found)
        lines.append(f"{count} curves count that were made before {', '.join(newer)} existed")
    left = [each for each in found if each.state in ("unfinished", "missing")]
    if not left:
        return [*lines, "nothing is left to run"]
    measured = seconds_per_agent_step(table, left[0].cell.preset, processor)
    repeats = {each.cell: today[each.cell]["task"]["action_repeat"] for each in left}
    times = [estimate(each, repeats[each.cell], measured) for each in left]
    known = [seconds for seconds in times if seconds is not None]
    runs = f"{len(left)} of {len(found)} runs are left, {jobs} side by side"
    if not known:
        lines.append(
            f"{runs}; no curve of this preset was made on this processor ({processor}) yet"
        )
    else:
        lines.append(f"{runs}: about {duration(sum(known) / min(jobs, len(left)))}")
    return lines


def this_machine(device: str) -> dict[str, Any]:
    """Processor and device as train.py finds them; ValueError in its words if it does not.

    In a process of its own, so that the driver itself never opens the GPU.
    """
    program = "import json, sys; from curl.hardware.device import choose_device, machine\n"
    program += "from curl.errors import BAD_INPUT, exits_with_one_line\n"
    program += "def job():\n device = choose_device(sys.argv[1])\n"
    program += " print(json.dumps(machine(device) | {'device': str(device)}))\n return 0\n"
    program += "sys.exit(exits_with_one_line(job))"
    ended = subprocess.run(
        [sys.executable, "-c", program, device], cwd=ROOT, capture_output=True, text=True
    )
    if ended.returncode:
        told = [line for line in ended.stderr.splitlines() if line.strip()] or ["no reason given"]
        raise ValueError(told[-1].removeprefix("error: "))
    return json.loads(ended.stdout.splitlines()[-1])


def this_commit() -> str:
    """CURL_COMMIT, else what git says, `+changes` behind it where tracked code was edited."""
    if named := os.environ.get("CURL_COMMIT"):
        return named
    return commit_of(ROOT, ":!results", ":!docs", ":!*.md") or "unknown"


# -- the command line ----------------------------------------------------------------------------


def deadline_of(minutes: float | None, began: float) -> float | None:
    """When `--minutes` are over, of `time.monotonic`; None: never. `ValueError` if not above 0."""
    if minutes is None:
        return None
    return began + 60 * real("--minutes", minutes, low=0, open_low=True)


def command_line(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.dmc",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--preset", default="small", help=f"{', '.join(PRESETS)}; default: small")
    add("--tasks", type=listed, default=list(TASKS), metavar="A,B", help="default: the paper's six")
    add(
        *("--variants",),
        **{"type": listed, "default": ["curl", "crop_only"], "metavar": "A,B"},
        help=f"of {', '.join(VARIANTS)}; default: curl,crop_only",
    )
    add("--seeds", type=listed, default=["1", "2", "3"], metavar="1,2", help="default: 1,2,3")
    add("--jobs", type=int, default=1, help="runs side by side; default: 1")
    add("--minutes", type=float, help="stop after these, with everything saved; default: never")
    add("--threads", type=int, default=1, help="CPU threads of each run; default: 1")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:<number>")
    add(
        "--nice",
        type=int,
        default=19,
        help="priority of the runs, 0 to 19; default: 19, the lowest",
    )
    add("--every", type=float, default=300, metavar="SECONDS", help="between status reports")
    add("--results", type=Path, default=ROOT / "results/dmc", help="folder of the curve files")
    add("--runs", type=Path, default=ROOT / "runs/dmc", help="folder of the run folders")
    add("--plan", action="store_true", help="say what would be run, and run nothing")
    add("--page", action="store_true", help="write docs/results.md from the curves; run nothing")
    return parser.parse_args(argv)


def drive(arguments: argparse.Namespace, program: tuple[str, ...]) -> int:
    """The command; returns the exit code. `program` is what trains."""
    began = time.monotonic()
    if arguments.page:
        from benchmarks.results_page import write_page

        for path in write_page(arguments.results.resolve()):
            print(shown(path))
        return 0
    seeds = numbered(arguments.seeds)
    jobs = integer("--jobs", arguments.jobs)
    integer("--threads", arguments.threads)
    integer("--nice", arguments.nice, at_least=0)
    real("--every", arguments.every, low=0, open_low=True)
    deadline = deadline_of(arguments.minutes, began)
    wanted = cells(arguments.preset, arguments.tasks, arguments.variants, seeds)
    machine = this_machine(arguments.device)
    today = compose_all(wanted)
    table = Table(results=arguments.results.resolve(), runs=arguments.runs.resolve())
    found = [table.look(cell, today[cell]) for cell in wanted]
    budget = today[wanted[0]]["env_steps"]
    print(
        f"preset {arguments.preset}, {budget:,} env steps each, on {machine['device']} "
        f"({machine['processor']}); curves: {shown(table.results)}"
    )
    for line in plan(found, today, table, jobs=jobs, processor=machine["processor"]):
        print(line)
    if arguments.plan:
        return 0
    sys.stdout.flush()
    if hasattr(os, "nice"):
        os.nice(arguments.nice)
    on_cpu = machine["device"] == "cpu"  # where a run evaluates one episode after another
    options = Options(
        jobs=jobs,
        deadline=deadline,
        threads=arguments.threads,
        device=arguments.device,
        every=arguments.every,
        program=program,
        commit=this_commit(),
        eval_processes=None if on_cpu else max(1, min(10, available_cores() // jobs)),
    )
    driver = Driver(table, today, options)
    outcome = driver.run(found)
    done = sum(each.state == "finished" for each in found) + len(outcome.finished)
    left = len(found) - done - len(outcome.failed)
    why = f" ({driver.fleet.why_stopped})" if driver.fleet.stopping else ""
    say(f"{done} of {len(found)} finished, {left} left, {len(outcome.failed)} failed{why}")
    for cell, reason in outcome.failed.items():
        print(f"failed: {cell}: {reason}", file=sys.stderr)
    if driver.fleet.signals:
        return 128 + driver.fleet.signals[0]
    return 1 if outcome.failed else 0


def main(argv: Sequence[str] | None = None, program: tuple[str, ...] = TRAIN) -> int:
    """The command line; returns the exit code."""
    return exits_with_one_line(drive, command_line(argv), program)


if __name__ == "__main__":
    sys.exit(main())
