"""What an agent sees on each look, as pictures: a strip of frames per look, and a sheet of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import image
from matplotlib.figure import Figure

COUNT = 8  # frames of a strip
GAP = 2  # pixels between them
HEIGHT = 0.88  # inches, of a strip on the sheet
STYLE: dict[Any, Any] = {"font.size": 8, "savefig.dpi": 100, "image.interpolation": "nearest"}


def strip(frames: np.ndarray) -> np.ndarray:
    """Frames of an episode, evenly spaced in time and side by side.

    Args:
        frames: uint8 [T, H, W, 3].

    Returns:
        uint8 [H, W', 3], with white gaps.
    """
    count = min(COUNT, len(frames))
    shown = frames[np.linspace(0, len(frames) - 1, count).round().astype(int)]
    gaps = [(0, 0), (0, 0), (0, GAP), (0, 0)]
    wide = np.pad(shown, gaps, constant_values=255)
    return np.concatenate(list(wide), axis=1)[:, :-GAP]


def save_strip(frames: np.ndarray, path: Path) -> None:
    """Write the strip of an episode as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.imsave(path, strip(frames))


def save_sheet(strips: Mapping[str, Path], path: Path, title: str) -> bool:
    """Write one PNG with several strips.

    Args:
        strips: what a row is called -> the strip in it. There is no row where no file is.

    Returns:
        Whether there was any row.
    """
    rows = {label: image.imread(file) for label, file in strips.items() if file.exists()}
    if not rows:
        return False
    with matplotlib.rc_context(STYLE):
        widest = max(pixels.shape[1] / pixels.shape[0] for pixels in rows.values())
        size = (HEIGHT * widest + 1.6, HEIGHT * len(rows) + 0.4)
        figure = Figure(figsize=size, layout="constrained")
        axes: Any = figure.subplots(len(rows), 1, squeeze=False)
        for ax, (label, pixels) in zip(axes[:, 0], rows.items(), strict=True):
            ax.imshow(pixels)
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            ax.set_ylabel(label, rotation=0, ha="right", va="center")
        figure.suptitle(title, fontsize=9, x=0.01, ha="left")
        aside = path.with_name(f"{path.name}.aside")
        figure.savefig(aside, format="png", pil_kwargs={"optimize": True})
        aside.replace(path)
    return True
