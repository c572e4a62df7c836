"""Runs that are still going -> how far they are, when they will end, their metrics: one page.

The page has the look of a comparison's, and is made by the same code (rendering.py). It says
nothing about which run is better: that is for `compare`, once they have finished.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from curl.files import write_text
from curl.run.clock import AXES, heading, words
from curl.run.folder import RunFolder
from curl.run.mirror import NOT_METRICS
from curl.study import rendering
from curl.study.report import NONE, Rows, Section
from curl.study.status import Status, find

RATES = ("updates_per_second", "env_steps_per_second", "threads")  # of a machine, not of learning


@dataclass(frozen=True, eq=False)
class Progress:
    """One run so far.

    Attributes:
        status: where it stands.
        training: name -> (float64 [N] positions on the axis, float64 [N] values), finite ones
            only, of every metric of its training rows.
        seconds: trained, over all resumptions.
        speed: steps on the axis per second of training, over the second half of `seconds`; None
            where nothing can be told.
    """

    status: Status
    training: Mapping[str, tuple[np.ndarray, np.ndarray]]
    seconds: float
    speed: float | None

    @property
    def label(self) -> str:
        """What reports call its variant."""
        run = self.status.run
        return str(run.config.get("label", self.status.name)) if run else self.status.name

    @property
    def remaining(self) -> float | None:
        """Seconds until the run reaches its budget; None unless it is running, with a speed."""
        run = self.status.run
        if run is None or self.status.state != "running" or not self.speed:
            return None
        return max((run.budget - run.position) / self.speed - (self.status.age or 0.0), 0.0)


def progress(found: Status) -> Progress:
    """Read the metrics of a run. Lines that are no rows are passed over: it may be writing one."""
    axis = found.run.axis if found.run is not None else AXES[0]
    points: dict[str, list[tuple[int, float]]] = {}
    clock = [(0.0, 0)]  # seconds trained, position
    path = RunFolder(found.folder).metrics
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
            position, kind = int(row[axis]), row["kind"]
            clock.append((float(row.get("wall_time", 0.0)), position))
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
        for name, value in row.items() if kind == "train" else ():
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if name not in NOT_METRICS and number and math.isfinite(value):
                points.setdefault(name, []).append((position, float(value)))
    training = {
        name: (np.array(pairs)[:, 0], np.array(pairs)[:, 1]) for name, pairs in points.items()
    }
    return Progress(found, training, clock[-1][0], _speed(clock))


def _speed(clock: Sequence[tuple[float, int]]) -> float | None:
    """Steps per second over the second half of the time trained, evaluations included."""
    seconds, position = clock[-1]
    since, before = next(point for point in clock if point[0] >= seconds / 2)
    if seconds <= since:  # its only row
        since, before = clock[0]
    return (position - before) / (seconds - since) if seconds > since else None


def write(runs: Sequence[Path], out: Path, *, refresh: float | None = None) -> list[Progress]:
    """Write the page of the runs in or below `runs` to the file `out`; what it shows.

    Args:
        refresh: seconds after which a browser reads the page again; None: never.

    Raises:
        ValueError: there is no run. OSError: the file cannot be written.
    """
    from curl.study import progress_plots  # matplotlib takes a while to import

    found = [progress(each) for each in find(runs)]
    out.parent.mkdir(parents=True, exist_ok=True)
    images = progress_plots.draw(found)
    drawings = {name: svg for name, (_, svg) in images.items()}
    page = rendering.page(title(found), sections(found), drawings, refresh=refresh)
    write_text(out, page)
    return found


def title(found: Sequence[Progress]) -> str:
    """One line: how many runs, where, when."""
    runs, top = f"{len(found)} run{'s' * (len(found) != 1)}", _top(found)
    return f"{runs}{' in ' * bool(top)}{top}, {datetime.now():%Y-%m-%d %H:%M:%S}"


def _top(found: Sequence[Progress]) -> str:
    """The part of their names that all runs share; empty if there is none."""
    return os.path.commonpath([Path(each.status.name).parent for each in found])


def _short(progress: Progress, top: str) -> str:
    return os.path.relpath(progress.status.name, top or ".")


def sections(found: Sequence[Progress]) -> list[Section]:
    """The page, in reading order."""
    trouble = tuple(f"{_short(p, _top(found))}: {p.status.note}" for p in found if p.status.note)
    evaluated = any(p.status.run is not None and len(p.status.run.steps) for p in found)
    learning = any(curves(p) for p in found)
    parts = [
        Section("What went wrong", trouble),
        Section("Progress", table=_progress(found)),
        Section("Returns", figures=("returns",) * evaluated),
        Section("Training", figures=("training",) * learning),
        Section("Newest metrics of training", table=_newest(found), fine_print=True),
        Section("How this was computed", _method(), fine_print=True),
    ]
    return [part for part in parts if part.bullets or part.table or part.figures]


def curves(progress: Progress) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The metrics that say something about learning."""
    return {name: curve for name, curve in progress.training.items() if name not in RATES}


def _progress(found: Sequence[Progress]) -> Rows:
    axes, top = {each.status.run.axis for each in found if each.status.run is not None}, _top(found)
    head = ["run", "state", "done", heading(axes), "return", "highest"]
    rows = [[*head, "ends in", "trained", "per second"]]
    for each in found:
        cells = [_short(each, top), each.status.state, *[NONE] * 7]
        if (run := each.status.run) is not None:
            unit = f" {words(run.axis)}" * (len(axes) > 1)
            position = max(run.position, run.reached)
            cells[2] = f"{min(position / max(run.budget, 1), 1):.0%}"
            cells[3] = f"{position:,} of {run.budget:,}{unit}"
            if len(run.returns):
                cells[4:6] = f"{run.returns[-1]:.1f}", f"{run.returns.max():.1f}"
            if (remaining := each.remaining) is not None:
                cells[6] = f"{duration(remaining)}, {_clock(remaining)}"
            cells[7] = duration(each.seconds)
            cells[8] = NONE if each.speed is None else f"{each.speed:.3g}"
        rows.append(cells)
    return rows


def _newest(found: Sequence[Progress]) -> Rows | None:
    """Metric × run."""
    shown, top = [each for each in found if each.training], _top(found)
    names = list(dict.fromkeys(name for each in shown for name in each.training))
    if not names:
        return None
    rows = [["metric", *(_short(each, top) for each in shown)]]
    for name in names:
        cells = [
            f"{each.training[name][1][-1]:.4g}" if name in each.training else NONE for each in shown
        ]
        rows.append([name, *cells])
    return rows


def _method() -> tuple[str, ...]:
    return (
        "Per second: steps on the axis of the run per second of training, evaluations included, "
        "over the second half of the time trained so far. The end is what that speed predicts.",
        "Return: mean of the newest evaluation. Highest: of all evaluations so far, which is "
        "higher than what the same agent would get again.",
        "The runs are not compared here, because they may be at different places. The command "
        "compare does that, once they have finished.",
    )


def duration(seconds: float) -> str:
    """`42 s`, `12 min`, `3 h 05 min`, `2 d 4 h`."""
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    if hours >= 24:
        return f"{hours // 24} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60:02} min"
    return f"{minutes} min" if minutes else f"{int(seconds)} s"


def _clock(seconds: float) -> str:
    """The time of day in so many seconds, with the day if it is another one."""
    now = datetime.now()
    end = now + timedelta(seconds=seconds)
    return f"{end:%H:%M}" if end.date() == now.date() else f"{end:%a %d %b %H:%M}"
