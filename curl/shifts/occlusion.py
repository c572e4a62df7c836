"""Something before the lens: a rectangle of one colour hides a part of each frame.

Its share of the frame, its aspect ratio and its place are drawn as in Random Erasing (Zhong et al.
2020, algorithm 1), once per episode. Where it differs: it has one random colour instead of a random
one in each pixel, and stays through the episode, as dirt on a lens does.
"""

from __future__ import annotations

import math

import numpy as np

from curl.checks import real
from curl.shifts.base import Shift


class Occlusion(Shift):
    """A rectangle that hides between `min_area` and `max_area` of the frame.

    Args:
        min_area: the smallest share of the frame. max_area: the largest.
        aspect: the height over the width is drawn between it and 1 / it.
    """

    rank = 10

    def __init__(self, *, min_area: float, max_area: float, aspect: float) -> None:
        self.min_area = real("min_area", min_area, low=0, high=1, open_low=True)
        self.max_area = real("max_area", max_area, low=self.min_area, high=1)
        self.aspect = real("aspect", aspect, low=0, high=1, open_low=True)

    def draw(self, generator: np.random.Generator) -> None:
        area = generator.uniform(self.min_area, self.max_area)
        # A rectangle that would be longer than the frame is made shorter, and so wider.
        low, high = max(self.aspect, area), min(1 / self.aspect, 1 / area)
        ratio = generator.uniform(low, high)
        self.height, self.width = math.sqrt(area * ratio), math.sqrt(area / ratio)
        self.top = generator.uniform(0, 1 - self.height)
        self.left = generator.uniform(0, 1 - self.width)
        self.colour = generator.integers(0, 256, 3, np.uint8)

    def after(self, pixels: np.ndarray, time: int) -> np.ndarray:
        edge = len(pixels)
        rows = span(self.top, self.height, edge)
        columns = span(self.left, self.width, edge)
        hidden = pixels.copy()
        hidden[rows, columns] = self.colour
        return hidden


def span(begin: float, length: float, edge: int) -> slice:
    """Pixels from a share of the edge on: at least one, and all within the frame."""
    count = min(max(round(length * edge), 1), edge)
    first = min(round(begin * edge), edge - count)
    return slice(first, first + count)
