"""Environments with and without shifts, and the frames of their episodes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import yaml

from curl.data.environment import environment_settings, make_env
from support.paths import CONFIGS

SIZE = 48


def configured(name: str) -> dict[str, dict[str, Any]]:
    """The settings of a file of configs/shift."""
    return yaml.safe_load((CONFIGS / "shift" / f"{name}.yaml").read_text())


@contextlib.contextmanager
def looking(
    task: str, shift: dict[str, dict[str, Any]] | None = None, size: int = SIZE
) -> Iterator[gym.Env[Any, Any]]:
    """The environment of a file of configs/task under a shift."""
    settings = yaml.safe_load(Path(CONFIGS / "task" / f"{task}.yaml").read_text())
    config = {"task": settings, "render_size": size, "shadow_size": 64, "shift": shift or {}}
    with contextlib.closing(make_env(**environment_settings(config, software=True))) as env:
        yield env


def episode(
    env: gym.Env[Any, Any], seed: int = 3, steps: int = 4
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames uint8 [steps + 1, H, W, 3], rewards and states of an episode of random actions."""
    actions = np.random.default_rng(seed).uniform(-1, 1, (steps, *(env.action_space.shape or ())))
    frames, rewards = [env.reset(seed=seed)[0]], []
    states = [env.get_wrapper_attr("observed")]
    for action in actions.astype(np.float32):
        frame, reward, *_ = env.step(action)
        frames.append(frame)
        rewards.append(reward)
        states.append(env.get_wrapper_attr("observed"))
    space = env.get_wrapper_attr("observed_space")
    flat = [gym.spaces.flatten(space, state) for state in states]
    return np.stack(frames), np.array(rewards), np.stack(flat)
