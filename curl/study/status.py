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
from collections.abc import Sequence
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


@dataclass(frozen=True)
class Status:
    """Where a run stands. `run` is None where its files cannot be read; `note` says why."""

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
        return Status(name, "finished", run, age)
    if age is not None and is_worked_on(folder, age):
        return Status(name, "running", run, age, "" if run else note)
    if note:
        return Status(name, "failed", run, age, note)
    return Status(name, "waiting" if age is None else "stale", run, age)


def find(paths: Sequence[Path]) -> list[Status]:
    """The runs in or below `paths`, sorted. `ValueError` if there is none."""
    folders = {f.resolve() for path in paths for f in run_folders(path, announced=True)}
    if not folders:
        raise ValueError(f"no run in {', '.join(map(str, paths))}")
    return [status(folder, name) for folder, name in named(folders).items()]


def table(found: Sequence[Status], width: int = 120) -> Group:
    """All runs, one row per run, and a line that counts them and says where they are.

    Args:
        width: characters in a line.
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
    drawn = tables.table([*head, *[""] * noted], rows, width=width, right=range(2, len(head)))
    return Group(drawn, Text(f"\n{total}: {told}"))


def _ago(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
