"""How figures look: colours, panels, bands, interval bars, legends, PNG and SVG."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from curl.study.statistics import Estimate

Look = dict[str, Any]

# Okabe and Ito's colours, told apart by colour-blind readers too (yellow left out: pale on white).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", ":", "-.")
STYLE: Any = {
    **{"font.family": "DejaVu Sans", "font.size": 9, "axes.titlesize": 10, "legend.frameon": False},
    **{"axes.spines.top": False, "axes.spines.right": False},
    **{"axes.grid": True, "grid.alpha": 0.25, "axes.axisbelow": True},
    "figure.constrained_layout.h_pad": 0.08,
    "svg.hashsalt": "curl",  # the same numbers give the same file
}
ASIDE: dict[str, Any] = {"va": "center", "fontsize": 7, "color": "0.4"}
PANEL = (3.6, 2.7)  # inches
REFERENCE: Look = {"color": "0.35", "linestyle": (0, (4, 3)), "linewidth": 1}
NOTE: dict[str, Any] = {
    **{"xycoords": ("axes fraction", "data"), "xytext": (2, 3), "textcoords": "offset points"},
    **{"ha": "left", "fontsize": 7},
    "bbox": {"facecolor": "white", "alpha": 0.7, "pad": 0.5, "linewidth": 0},
}


def looks(names: Iterable[str]) -> dict[str, Look]:
    """Name -> its colour and line, the same in every figure."""
    return {
        name: {
            "color": COLOURS[i % len(COLOURS)],
            "linestyle": LINES[i // len(COLOURS) % len(LINES)],
        }
        for i, name in enumerate(names)
    }


def dot(size: float, alpha: float) -> Look:
    """A grey dot, for legends."""
    return {"color": "0.3", "linestyle": "", "marker": "o", "markersize": size, "alpha": alpha}


def panels(count: int) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels, up to three in a row."""
    columns = 2 if count == 4 else min(count, 3)
    rows = math.ceil(count / columns)
    size = (max(columns * PANEL[0], 5), rows * PANEL[1] + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]


def legend(figure: Figure, entries: dict[str, Look]) -> None:
    """One legend above all panels."""
    handles = [Line2D([], [], label=name, **{"linewidth": 2, **e}) for name, e in entries.items()]
    columns = min(len(handles), int(figure.get_figwidth() // 2))
    figure.legend(handles=handles, loc="outside upper center", ncols=columns)


def band(ax: Axes, x: np.ndarray, curve: np.ndarray, look: Look) -> None:
    """A line and its interval: x [E], curve [3, E]."""
    ax.plot(x, curve[0], linewidth=1.8, marker="o" if len(x) == 1 else None, **look)
    ax.fill_between(x, curve[1], curve[2], color=look["color"], alpha=0.18, linewidth=0)


def bars(ax: Axes, rows: Sequence[tuple[str, Estimate | None, str]]) -> None:
    """Rows of label, estimate and colour, the first on top."""
    for y, (_, estimate, colour) in enumerate(rows):
        if estimate is None:
            ax.text(0.02, y, "incomplete", transform=ax.get_yaxis_transform(), **ASIDE)
        else:
            ends = [estimate.low, estimate.high]
            ax.plot(ends, [y, y], lw=6, alpha=0.3, color=colour, solid_capstyle="butt")
            ax.plot(estimate.value, y, marker="o", markersize=6, color=colour)
    ax.set_yticks(range(len(rows)), [label for label, _, _ in rows])
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.grid(visible=False, axis="y")


def encode(figure: Figure) -> tuple[bytes, bytes]:
    """PNG and SVG; nothing in them depends on the day."""
    png, svg = io.BytesIO(), io.BytesIO()
    figure.savefig(png, format="png", dpi=120, metadata={"Software": None})
    figure.savefig(svg, format="svg", metadata={"Date": None})
    return png.getvalue(), svg.getvalue()
