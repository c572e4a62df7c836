"""The figures of runs that are still going: name -> PNG and SVG, drawn without a display."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from curl.run.clock import words
from curl.study import drawing
from curl.study.drawing import Look
from curl.study.progress import Progress, curves
from curl.study.runs import Run
from curl.study.statistics import iqm
from curl.study.status import task_of

Place = tuple[str, str]  # task and axis: runs of one place share a panel


def draw(found: Sequence[Progress]) -> dict[str, tuple[bytes, bytes]]:
    """All figures that the runs have numbers for: name -> (PNG, SVG)."""
    figures: dict[str, Callable[[Sequence[Progress]], Figure | None]] = {
        "returns": returns,
        "training": training,
    }
    with matplotlib.rc_context(drawing.STYLE):
        drawn = {name: figure(found) for name, figure in figures.items()}
        return {name: drawing.encode(it) for name, it in drawn.items() if it is not None}


def returns(found: Sequence[Progress]) -> Figure | None:
    """Evaluations of every run, and the IQM of each label, one panel per task."""
    evaluated = [(each.label, run) for each in found if (run := each.status.run) and len(run.steps)]
    if not evaluated:
        return None
    looks = drawing.looks(dict.fromkeys(label for label, _ in evaluated))
    places: dict[Place, list[tuple[str, Run]]] = {}
    for label, run in evaluated:
        places.setdefault((task_of(run), run.axis), []).append((label, run))
    figure, axes = drawing.panels(len(places))
    for ((task, axis), there), ax in zip(places.items(), axes, strict=True):
        for label in dict.fromkeys(label for label, _ in there):
            _together(ax, [run for name, run in there if name == label], looks[label])
        ax.set_xlim(0, max(run.budget for _, run in there) / 1000)
        ax.set(title=task, xlabel=f"{words(axis)} (thousands)", ylabel="return")
    drawing.legend(figure, looks)
    return figure


def _together(ax: Axes, runs: Sequence[Run], look: Look) -> None:
    """Each run faintly, and their IQM at the positions at which all of them were evaluated."""
    for run in runs if len(runs) > 1 else ():
        ax.plot(run.steps / 1000, run.returns, linewidth=0.8, alpha=0.5, **look)
    shared = sorted(set.intersection(*({*run.steps.tolist()} for run in runs)))
    if shared:
        at = np.stack([run.returns[np.isin(run.steps, shared)] for run in runs], axis=-1)
        marker: Any = "o" if len(shared) == 1 else None
        ax.plot(np.array(shared) / 1000, iqm(at[:, None]), linewidth=1.8, marker=marker, **look)


def training(found: Sequence[Progress]) -> Figure | None:
    """Every metric of training, one panel per metric and axis."""
    learning = [(each, run.axis) for each in found if curves(each) and (run := each.status.run)]
    if not learning:
        return None
    looks = drawing.looks(dict.fromkeys(each.label for each, _ in learning))
    places = dict.fromkeys((name, axis) for each, axis in learning for name in curves(each))
    figure, axes = drawing.panels(len(places))
    for (name, axis), ax in zip(places, axes, strict=True):
        for each, counted in learning:
            if counted == axis and name in each.training:
                positions, values = each.training[name]
                ax.plot(positions / 1000, values, linewidth=0.9, alpha=0.8, **looks[each.label])
        ax.set(title=name.replace("_", " "), xlabel=f"{words(axis)} (thousands)")
    drawing.legend(figure, looks)
    return figure
