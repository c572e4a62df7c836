"""The figure of a comparison on several looks: variants × looks, one panel per task."""

from __future__ import annotations

import math
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from curl.study.analysis import Comparison
from curl.study.sections import NONE

CELL = (0.62, 0.36)  # inches
COLOURS = "viridis"
NOTHING = "0.9"  # the colour of a cell without a ratio


def looks(comparison: Comparison) -> Figure:
    """Text: the return. Colour: its ratio to the training look, from 0 to 1 and above."""
    found, grid = comparison.looks, comparison.grid
    assert found is not None
    names, variants = found.names, grid.variants
    widest = max(map(len, variants))
    size = (
        CELL[0] * len(names) + 0.08 * widest + 1.4,
        (CELL[1] * len(variants) + 0.4) * len(grid.tasks) + 0.09 * max(map(len, names)) + 0.4,
    )
    figure = Figure(figsize=size, layout="constrained")
    axes: Any = figure.subplots(len(grid.tasks), 1, squeeze=False, sharex=True)
    colours = matplotlib.colormaps[COLOURS].with_extremes(bad=NOTHING)
    image: Any = None
    for task, ax in zip(grid.tasks, axes[:, 0], strict=True):
        ratios = np.full((len(variants), len(names)), np.nan)
        for row, variant in enumerate(variants):
            for column, name in enumerate(names):
                cell = found.cells.get((variant, task, name))
                if cell is not None:
                    ratios[row, column] = cell.ratio.value
                text = NONE if cell is None else f"{cell.score.value:.0f}"
                dark = not math.isnan(ratios[row, column]) and ratios[row, column] < 0.6
                colour = "white" if dark else "black"
                ax.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
        image = ax.imshow(np.ma.masked_invalid(ratios), cmap=colours, vmin=0, vmax=1, aspect="auto")
        ax.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
        ax.set_yticks(range(len(variants)), variants)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        ax.grid(visible=False)
        ax.set_title(task, loc="left")
    figure.colorbar(
        image, ax=axes[:, 0].tolist(), label="ratio to the training look", extend="both"
    )
    return figure
