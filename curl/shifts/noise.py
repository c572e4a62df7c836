"""Gaussian noise of a sensor, as ImageNet-C's `gaussian_noise` (Hendrycks and Dietterich 2019).

Pixels in [0, 1] become x + N(0, sigma^2), cut off at 0 and 1, independently for each pixel,
channel and frame. The noise does not depend on the size of the frame. Where it differs: values are
rounded, and not cut, to uint8.
"""

from __future__ import annotations

import numpy as np

from curl.shifts.base import Shift, finished, severity_of

SIGMAS = (0.08, 0.12, 0.18, 0.26, 0.38)  # of the severities 1 to 5, in hendrycks/robustness


class Noise(Shift):
    """Noise of one of the five severities of ImageNet-C."""

    rank = 40

    def __init__(self, *, severity: int) -> None:
        self.sigma = severity_of(severity, SIGMAS)

    def after(self, pixels: np.ndarray, time: int) -> np.ndarray:
        noise = self.generator(time).standard_normal(pixels.shape, dtype=np.float32)
        return finished(pixels + 255 * self.sigma * noise)
