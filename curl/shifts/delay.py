"""Frames that arrive late: the agent sees what was there some of its steps ago.

Until then it sees the episode's first frame. Rewards and ends of episodes are not late.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from curl.checks import integer
from curl.shifts.base import Shift


class Delay(Shift):
    """Frames that are late by `steps` agent steps."""

    rank = 50

    def __init__(self, *, steps: int) -> None:
        self.steps = integer("steps", steps)

    def draw(self, generator: np.random.Generator) -> None:
        self.history: dict[int, deque[tuple[int, np.ndarray]]] = {}
        """Edge of a frame -> the last ones and their times: videos have larger frames."""

    def after(self, pixels: np.ndarray, time: int) -> np.ndarray:
        seen = self.history.setdefault(len(pixels), deque(maxlen=self.steps + 1))
        if not seen or seen[-1][0] != time:
            seen.append((time, pixels))
        return seen[0][1].copy()
