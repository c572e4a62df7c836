"""What the processes of environments import by name: they cannot import a test module."""

from __future__ import annotations

import time
from typing import Any

import gymnasium as gym

from curl.run.evaluation import make_stacked_env
from support import faulty  # noqa: F401  registers environments


class Endless(gym.Env):
    """Does not come back from its first step."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    action_space = observation_space = gym.spaces.Box(-1.0, 1.0, (1,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        while True:
            time.sleep(0.1)


def make_here(settings: Any, frame_stack: int) -> Any:
    """`make_stacked_env` for processes that import this module, and so register faulty.py's."""
    return make_stacked_env(settings, frame_stack)
