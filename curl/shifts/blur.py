"""A lens out of focus, as ImageNet-C's `defocus_blur` (Hendrycks and Dietterich 2019).

Every pixel becomes the mean over a disk around it. The published radii, in pixels, are those of
images of 224 x 224, so here they are shares of the frame's edge: a frame of 100 pixels that is
enlarged to 224 looks as blurred as theirs. Where it differs: the disk is antialiased by the area of
each pixel that it covers, since a radius is no longer a whole number, and not by a small Gaussian.
Edges are mirrored, as there.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from curl.shifts.base import Shift, finished, severity_of

RADII = (3, 4, 6, 8, 10)  # pixels, of the severities 1 to 5, in hendrycks/robustness
PUBLISHED_EDGE = 224  # pixels of the images for which they are meant
SAMPLES = 16  # per pixel and axis, of the disk's area


class Blur(Shift):
    """Blur of one of the five severities of ImageNet-C."""

    rank = 20

    def __init__(self, *, severity: int) -> None:
        self.radius = severity_of(severity, RADII) / PUBLISHED_EDGE

    def after(self, pixels: np.ndarray, time: int) -> np.ndarray:
        height, width = pixels.shape[:2]
        kernel = disk(self.radius * width)
        reach = len(kernel) // 2
        padded = np.pad(pixels, [(reach, reach), (reach, reach), (0, 0)], mode="reflect")
        padded = padded.astype(np.float32)
        total = np.zeros(pixels.shape, np.float32)
        for row, column in np.argwhere(kernel):
            window = padded[row : row + height, column : column + width]
            total += kernel[row, column] * window
        return finished(total)


@functools.cache
def disk(radius: float) -> np.ndarray:
    """float32 [K, K], K odd, of sum 1: how much of each pixel a disk of that radius covers."""
    reach = max(math.ceil(radius - 0.5), 0)
    edge = 2 * reach + 1
    places = (np.arange(edge * SAMPLES) + 0.5) / SAMPLES - edge / 2
    inside = places[:, None] ** 2 + places**2 <= radius**2
    covered = inside.reshape(edge, SAMPLES, edge, SAMPLES).mean(axis=(1, 3))
    if not covered.any():  # a disk that is smaller than one sample
        covered[reach, reach] = 1
    return (covered / covered.sum()).astype(np.float32)
