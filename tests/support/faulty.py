"""Environments of grey frames that fail in one way each, and one that does not (`Sound`).

They fail at their tenth step, in training only (even seeds; those of evaluations are odd) unless
the name says otherwise; an episode has 20 steps.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np

EDGE = 40


def hang_deaf(*_: Any) -> NoReturn:
    """As C code does that looks at no signals."""
    while True:
        with contextlib.suppress(TimeoutError):
            time.sleep(3600)


class Sound(gym.Env[np.ndarray, np.ndarray]):
    """Never fails."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    observation_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    evaluated = False
    length = 20

    def __init__(self, render_mode: str | None = None, edge: int = EDGE) -> None:
        self.render_mode, self.edge, self.time, self.position = render_mode, edge, 0, 0.0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.evaluated = seed is not None and seed % 2 == 1
        self.time, self.position = 0, float(self.np_random.uniform(-1, 1))
        return self.observation(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.time += 1
        self.position = float(np.clip(self.position + 0.1 * action[0], -1, 1))
        reward = self.fail() if self.time == 10 else None
        reward = 1 - abs(self.position) if reward is None else reward
        return self.observation(), reward, False, self.time == self.length, {}

    def observation(self) -> np.ndarray:
        return np.array([self.position], np.float32)

    def render(self) -> np.ndarray:
        level = int(127.5 * (1 + self.position))
        return np.full((self.edge, self.edge, 3), level, np.uint8)

    def fail(self) -> float | None:
        """At the tenth step: the reward, if not the usual one."""
        return None


class Short(Sound):
    """Never fails; its episodes have a single step."""

    length = 1


class Raises(Sound):
    def fail(self) -> float | None:
        if not self.evaluated:
            raise ArithmeticError("the joint broke")
        return None


class NaN(Sound):
    def fail(self) -> float | None:
        return None if self.evaluated else float("nan")


class Infinite(Sound):
    def fail(self) -> float | None:
        return None if self.evaluated else float("inf")


class Hangs(Sound):
    def fail(self) -> float | None:
        if not self.evaluated:
            time.sleep(3600)
        return None


class RaisesInEvaluation(Sound):
    def fail(self) -> float | None:
        if self.evaluated:
            raise ArithmeticError("the joint broke")
        return None


class NaNInEvaluation(Sound):
    def fail(self) -> float | None:
        return float("nan") if self.evaluated else None


class HangsInEvaluation(Sound):
    """In a sleep, which a signal's handler can leave."""

    def fail(self) -> float | None:
        if self.evaluated:
            time.sleep(3600)
        return None


class DeafInEvaluation(Sound):
    """Hangs as C code does that looks at no signals."""

    def fail(self) -> float | None:
        if self.evaluated:
            hang_deaf()
        return None


class SlowInEvaluation(Sound):
    def fail(self) -> float | None:
        if self.evaluated:
            time.sleep(3)
        return None


for kind in (Sound, *Sound.__subclasses__()):
    gym.register(f"{kind.__name__}-v0", entry_point=kind, max_episode_steps=20)
