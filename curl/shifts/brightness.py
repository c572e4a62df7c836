"""Too much light on a sensor, as ImageNet-C's `brightness` (Hendrycks and Dietterich 2019).

The value V of a pixel in HSV grows by a constant and is cut off at 1; hue and saturation stay.
All channels of a pixel therefore grow by the factor min(V + c, 1) / V, and black becomes grey. It
does not depend on the size of the frame.
"""

from __future__ import annotations

import numpy as np

from curl.shifts.base import Shift, finished, severity_of

ADDED = (0.1, 0.2, 0.3, 0.4, 0.5)  # to V, of the severities 1 to 5, in hendrycks/robustness


class Brightness(Shift):
    """Brightness of one of the five severities of ImageNet-C."""

    rank = 30

    def __init__(self, *, severity: int) -> None:
        self.added = severity_of(severity, ADDED)

    def after(self, pixels: np.ndarray, time: int) -> np.ndarray:
        value = pixels.max(axis=2, keepdims=True).astype(np.float32)  # [H, W, 1]
        brighter = np.minimum(value + 255 * self.added, 255)
        factor = brighter / np.maximum(value, 1)
        return finished(np.where(value > 0, pixels * factor, brighter))
