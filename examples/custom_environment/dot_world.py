"""An environment of one's own: a dot that is to be moved to the middle of the picture.

Importing this module registers the environment, so `dot_world:Dot-v0` is an id that curl takes, as
gymnasium.make does.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

EDGE = 64  # pixels


class Dot(gymnasium.Env[np.ndarray, np.ndarray]):
    """The action is the dot's speed in both directions, the reward how near the middle it is."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, render_mode: str | None = None, speed: float = 0.1) -> None:
        self.render_mode, self.speed = render_mode, speed
        self.place = np.zeros(2)  # of the dot, each coordinate in [-1, 1]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = self.np_random.uniform(-1, 1, 2)
        return self.place.astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.place = np.clip(self.place + self.speed * np.asarray(action, float), -1, 1)
        reward = 1 - float(np.linalg.norm(self.place)) / 2**0.5
        return self.place.astype(np.float32), reward, False, False, {}

    def render(self) -> np.ndarray:
        """The dot in white on dark blue, uint8 [EDGE, EDGE, 3]: all that the agent sees."""
        rows, columns = np.mgrid[-1 : 1 : EDGE * 1j, -1 : 1 : EDGE * 1j]
        near = (columns - self.place[0]) ** 2 + (rows - self.place[1]) ** 2 < 0.15**2
        return np.where(near[:, :, None], 255, np.array([20, 20, 60])).astype(np.uint8)


# The time limit is in env steps; without one, the setting task.max_episode_steps is needed.
gymnasium.register("Dot-v0", entry_point="dot_world:Dot", max_episode_steps=100)
