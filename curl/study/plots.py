"""The figures of a comparison: name -> PNG and SVG, drawn without a display."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from curl.run.clock import words
from curl.study import drawing, heat_map
from curl.study.analysis import THRESHOLDS, Comparison
from curl.study.drawing import REFERENCE
from curl.study.grid import EVERY_TASK
from curl.study.published import published, reference_lines
from curl.study.statistics import AGGREGATES

PUBLISHED = "CURL, published"


def draw(comparison: Comparison) -> dict[str, tuple[bytes, bytes]]:
    """All figures that the comparison has numbers for: name -> (PNG, SVG)."""
    figures: dict[str, Callable[[Comparison], Figure]] = {"curves": curves, "scores": scores}
    if comparison.aggregates:
        figures |= {"aggregates": aggregates, "profiles": profiles}
    if comparison.pairs:
        figures["improvement"] = improvement
    if comparison.looks is not None:
        figures["looks"] = heat_map.looks
    with matplotlib.rc_context(drawing.STYLE):
        return {name: drawing.encode(figure(comparison)) for name, figure in figures.items()}


def save(images: dict[str, tuple[bytes, bytes]], folder: Path) -> None:
    """Write each figure as PNG and SVG."""
    for name, (png, svg) in images.items():
        (folder / f"{name}.png").write_bytes(png)
        (folder / f"{name}.svg").write_bytes(svg)


def curves(comparison: Comparison) -> Figure:
    """IQM and band over the axis for each task, and each run faintly, unfinished ones too."""
    grid, looks = comparison.grid, drawing.looks(comparison.grid.variants)
    together = len(comparison.normalised) > 1 and bool(comparison.curves)
    figure, axes = drawing.panels(len(grid.tasks) + together)
    entries = dict(looks)
    for task, ax in zip(grid.tasks, axes, strict=False):
        for (variant, where, _), run in grid.runs.items():
            if where == task:
                kept = run.steps <= grid.at
                x, y = run.steps[kept] / 1000, run.returns[kept]
                ax.plot(x, y, linewidth=0.6, alpha=0.35, **looks[variant])
        for variant in grid.variants:
            if cell := comparison.cells.get((variant, task)):
                drawing.band(ax, grid.steps / 1000, cell.curve, looks[variant])
        for step, level in reference_lines(task, grid.at, grid.axis).items():
            ax.axhline(level, **REFERENCE)
            # On the left, where curves are still low.
            ax.annotate(f"{step // 1000}k", (0, level), **drawing.NOTE)
            entries[PUBLISHED] = REFERENCE
        ax.set(title=task, xlabel=f"{words(grid.axis)} (thousands)", ylabel="return")
    if together:
        ax = axes[-1]
        for variant, curve in comparison.curves.items():
            drawing.band(ax, grid.steps / 1000, curve, looks[variant])
        ax.set(
            title=f"{EVERY_TASK}, normalised",
            xlabel=f"{words(grid.axis)} (thousands)",
            ylabel="score",
        )
    drawing.legend(figure, entries)
    return figure


def scores(comparison: Comparison) -> Figure:
    """Every run's score as a dot above IQM and interval, for each task."""
    grid, looks = comparison.grid, drawing.looks(comparison.grid.variants)
    figure, axes = drawing.panels(len(grid.tasks))
    figure.set_figheight(figure.get_figheight() * (0.4 + 0.1 * len(grid.variants)))
    entries = {"one run": drawing.dot(5, 0.7), "IQM and 95 % interval": drawing.dot(7, 1)}
    for task, ax in zip(grid.tasks, axes, strict=True):
        rows = []
        for y, variant in enumerate(grid.variants):
            cell, colour = comparison.cells.get((variant, task)), looks[variant]["color"]
            rows.append((variant, cell.score if cell else None, colour))
            if cell is not None:
                last = cell.returns[:, -1]
                height = np.full(len(last), y - 0.25)
                ax.scatter(last, height, s=14, color=colour, alpha=0.7, linewidth=0)
        drawing.bars(ax, rows)
        if reference := published(task, grid.at, grid.axis):
            ax.axvline(reference[0], **REFERENCE)
            entries[PUBLISHED] = REFERENCE
        ax.set(title=task, xlabel=f"return at {grid.at:,} {words(grid.axis)}")
    drawing.legend(figure, entries)
    return figure


def aggregates(comparison: Comparison) -> Figure:
    """IQM, median, mean and optimality gap with their intervals, one panel per statistic."""
    grid, looks = comparison.grid, drawing.looks(comparison.grid.variants)
    figure = Figure(figsize=(10.8, 1.1 + 0.28 * len(grid.variants)), layout="constrained")
    axes: Any = figure.subplots(1, len(AGGREGATES), sharey=True)
    for ax, name in zip(axes, AGGREGATES, strict=True):
        found = [comparison.aggregates.get(variant, {}).get(name) for variant in grid.variants]
        colours = [looks[variant]["color"] for variant in grid.variants]
        drawing.bars(ax, list(zip(grid.variants, found, colours, strict=True)))
        better = "lower" if name == "optimality gap" else "higher"
        ax.set(title=name, xlabel=f"normalised score ({better} is better)")
        ax.locator_params(axis="x", nbins=4)
    return figure


def profiles(comparison: Comparison) -> Figure:
    """Share of runs that score above a threshold, averaged over tasks."""
    looks = drawing.looks(comparison.grid.variants)
    figure, (ax,) = drawing.panels(1)
    for variant, profile in comparison.profiles.items():
        drawing.band(ax, THRESHOLDS, profile, looks[variant])
    ax.set(xlabel="normalised score", ylabel="share of runs above it")
    ax.set(xlim=(0, 1), ylim=(-0.02, 1.02))
    drawing.legend(figure, {variant: looks[variant] for variant in comparison.profiles})
    return figure


def improvement(comparison: Comparison) -> Figure:
    """Probability of improvement of each pair; what crosses 0.5 cannot be told apart."""
    several = len(comparison.grid.tasks) > 1
    rows = []
    for pair in comparison.pairs:
        label = f"{pair.first} > {pair.second}" + f"  ({pair.task})" * several
        rows.append((label, pair.probability, drawing.COLOURS[0] if pair.told_apart else "0.45"))
    figure = Figure(figsize=(7.2, 1 + 0.28 * len(rows)), layout="constrained")
    ax = figure.subplots()
    drawing.bars(ax, rows)
    ax.axvline(0.5, color="0.2", linewidth=1)
    ax.set(xlim=(0, 1.02), xlabel="probability of improvement (blue: told apart)")
    return figure
