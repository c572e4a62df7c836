"""How far runs are, told by their files alone.

Reads the files of the runs and nothing else, so it serves whatever started them, from any machine
that sees the folders.

    waiting   a sweep has named it and not begun it
    running   a process holds its lock; on another machine: its files changed minutes ago
    finished  the last evaluation is at its budget
    failed    it ended with an error, which is in failure.txt
    stale     unfinished, and no process works on it: stopped or killed; the same command resumes it
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group
from rich.text import Text

from curl import tables
from curl.run.clock import heading, words
from curl.run.folder import RunFolder, is_worked_on, run_folders
from curl.study.runs import Run, named, read_run

STATES = {"running": "cyan", "waiting": "dim", "finished": "green", "failed": "red"}
STATES |= {"stale": "yellow"}
CURVE, CURVE_WIDTH = "returns", 16  # the heading of the column of curves; characters of a curve


@dataclass(frozen=True)
class Status:
    """Where a run stands. `run` is None where its files cannot be read; `note` says why."""

    folder: Path
    name: str
    state: str
    run: Run | None
    age: float | None  # seconds since its files changed
    note: str = ""


def status(folder: Path, name: str | None = None) -> Status:
    """The state of the run in `folder`."""
    name = name or folder.as_posix()
    files = RunFolder(folder)
    note, run = files.failed_because(), None
    if files.config.exists():
        try:
            run = read_run(folder, name)
            _ = run.budget
        except (ValueError, OSError) as error:
            note, run = str(error), None
    changed = files.changed()
    age = None if changed is None else max(time.time() - changed, 0.0)
    if run is not None and run.reached >= run.budget:
        return Status(folder, name, "finished", run, age)
    if age is not None and is_worked_on(folder, age):
        return Status(folder, name, "running", run, age, "" if run else note)
    if note:
        return Status(folder, name, "failed", run, age, note)
    return Status(folder, name, "waiting" if age is None else "stale", run, age)


def find(paths: Sequence[Path]) -> list[Status]:
    """The runs in or below `paths`, sorted. `ValueError` if there is none."""
    folders = {f.resolve() for path in paths for f in run_folders(path, announced=True)}
    if not folders:
        raise ValueError(f"no run in {', '.join(map(str, paths))}")
    return [status(folder, name) for folder, name in named(folders).items()]


def table(found: Sequence[Status], width: int = 120, encoding: str = "utf-8") -> Group:
    """All runs, one row per run, and a line that counts them and says where they are.

    The last column but one is the curve of returns, which goes first where there is no room.

    Args:
        width: characters in a line.
        encoding: of the terminal, for the curves.
    """
    top = os.path.commonpath([Path(each.name).parent for each in found])
    axes = {each.run.axis for each in found if each.run is not None}
    head = ["run", "state", heading(axes), "of", "return", "at", "updated"]
    noted = any(each.note for each in found)
    rows: list[list[Text]] = []
    for each in found:
        run, cells = each.run, ["-"] * 4
        if run is not None:
            unit = f" {words(run.axis)}" * (len(axes) > 1)
            cells[:2] = f"{max(run.position, run.reached):,}", f"{run.budget:,}{unit}"
            if run.reached >= 0:
                cells[2:] = f"{run.returns[-1]:.1f}", f"{run.reached:,}"
        cells += [_ago(each.age)] + [each.note] * noted
        state = Text(each.state, style=STATES[each.state])
        rows.append([Text(os.path.relpath(each.name, top)), state, *map(Text, cells)])
    counts = Counter(each.state for each in found)
    told = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    total = f"{len(found)} run{'s' * (len(found) != 1)}{' in ' * bool(top)}{top}"
    head += [""] * noted
    right = [*range(2, len(head))]
    if any(curves := _curves(found, encoding)):
        place = head.index("updated")
        longer = [*head[:place], CURVE, *head[place:]]
        with_curves = [
            [*row[:place], Text(curve or "-"), *row[place:]]
            for row, curve in zip(rows, curves, strict=True)
        ]
        # Without columns, a line more per run is no matter.
        if tables.fits(longer, with_curves, width) or not tables.fits(head, rows, width):
            head, rows = longer, with_curves
            right = [i + (i > place) for i in right if i != place] + [place + 1]
    drawn = tables.table(head, rows, width=width, right=right)
    return Group(drawn, Text(f"\n{total}: {told}"))


def _curves(found: Sequence[Status], encoding: str) -> list[str]:
    """The returns of each run as a line; empty before its first evaluation.

    The runs of one task share their scale: from 0, or a lower return, to the highest of them.
    """
    scales: dict[str, list[float]] = {}
    for each in found:
        if each.run is not None:
            scales.setdefault(task_of(each.run), [0.0]).extend(each.run.returns.tolist())
    curves = []
    for each in found:
        returns = [] if each.run is None else each.run.returns.tolist()
        scale = [] if each.run is None else scales[task_of(each.run)]
        curves.append(
            tables.sparkline(
                returns,
                low=min(scale, default=0.0),
                high=max(scale, default=0.0),
                width=CURVE_WIDTH,
                encoding=encoding,
            )
        )
    return curves


def task_of(run: Run) -> str:
    """What the task of a run is called; its configuration may be that of an older version."""
    task = run.config.get("task")
    return str(task.get("name")) if isinstance(task, Mapping) else ""


def _ago(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
