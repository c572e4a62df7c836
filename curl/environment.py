"""make_env: a Gymnasium id becomes a chain that yields one RGB frame per agent step.

Gymnasium's own wrappers, in this order: rescale actions to [-1, 1], repeat the action (rewards
summed, stops at the episode's end), render once, make the frame a contiguous uint8 square.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import shimmy  # noqa: F401  registers dm_control/<domain>-<task>-v0
import torch
from gymnasium.wrappers import (
    AddRenderObservation,
    RecordEpisodeStatistics,
    RepeatAction,
    RescaleAction,
    TransformObservation,
)

from curl.checks import whole


def environment_settings(config: Mapping[str, Any], software: bool) -> dict[str, Any]:
    """The arguments of `make_env` that a run's configuration means.

    Args:
        config: with `task`, `render_size` and `shadow_size`.
        software: frames are drawn by the CPU.
    """
    task, shadow = config["task"], config["shadow_size"]
    return {
        "env_id": task["env_id"],
        "action_repeat": task["action_repeat"],
        "render_size": config["render_size"],
        "camera": task.get("camera", 0),
        "shadow_size": (256 if software else None) if shadow == "auto" else shadow,
    }


def make_env(
    *,
    env_id: str,
    action_repeat: int,
    render_size: int = 100,
    camera: int = 0,
    shadow_size: int | None = None,
) -> gym.Env[np.ndarray, np.ndarray]:
    """Build the pixel environment of `env_id`.

    Args:
        env_id: a Gymnasium id with a continuous action space and `rgb_array` rendering.
        action_repeat: simulator control steps per agent step.
        render_size: edge of the square frame, in pixels.
        camera: dm_control camera number.
        shadow_size: edge of MuJoCo's shadow map in texels; None keeps the model's own. In
            software rendering a 2048 map takes most of a frame's time.

    Returns:
        An environment with observations uint8 [render_size, render_size, 3] and actions float32
        [A] in [-1, 1]. `info["episode"]["r"]` holds the return at an episode's end.

    Raises:
        ValueError: unknown id, discrete actions, or no `rgb_array` rendering.
    """
    whole("action_repeat", action_repeat)
    whole("render_size", render_size)
    env = _make(env_id, render_size, camera)
    space = env.action_space
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
        raise ValueError(f"{env_id} has actions {env.action_space}; continuous ones are needed")
    physics = getattr(env.unwrapped, "physics", None)
    if shadow_size is not None and physics is not None:
        physics.model.vis.quality.shadowsize = whole("shadow_size", shadow_size)
    with warnings.catch_warnings():  # rescaling a float64 box overflows harmlessly in float32
        warnings.simplefilter("ignore", RuntimeWarning)
        env = RescaleAction(env, np.float32(-1.0), np.float32(1.0))
    # dm_control and MuJoCo rewards are float64; the sum over the repeat stays exact in float64
    env = RecordEpisodeStatistics(RepeatAction(env, action_repeat))
    env = AddRenderObservation(env, render_only=True)
    frame = gym.spaces.Box(0, 255, (render_size, render_size, 3), np.uint8)
    return TransformObservation(env, lambda pixels: square(pixels, render_size), frame)


def frames_per_second(env: gym.Env[Any, Any], action_repeat: int) -> float:
    """Agent steps per second of simulated time, for videos that play at true speed."""
    control = getattr(env.unwrapped, "dt", None)  # Shimmy and MuJoCo: seconds per control step
    if isinstance(control, (int, float)) and control > 0:
        return 1.0 / (control * action_repeat)
    return float(env.metadata.get("render_fps") or 30) / action_repeat


def display_frame(env: gym.Env[Any, Any], size: int = 256) -> np.ndarray:
    """A frame for people, uint8 with even sides: larger than the agent's where MuJoCo draws it."""
    physics = getattr(env.unwrapped, "physics", None)
    if physics is not None:
        camera = getattr(env.unwrapped, "render_kwargs", {}).get("camera_id", 0)
        pixels = physics.render(height=size, width=size, camera_id=camera)
    else:
        pixels = np.asarray(env.render())
    height, width = pixels.shape[0] // 2 * 2, pixels.shape[1] // 2 * 2
    return np.ascontiguousarray(pixels[:height, :width])


def square(pixels: np.ndarray, size: int) -> np.ndarray:
    """Area-resample `pixels` [H, W, 3] to a contiguous uint8 [size, size, 3] if it is not that."""
    if pixels.shape[:2] == (size, size):
        return np.ascontiguousarray(pixels)  # Shimmy's frames have negative strides
    image = torch.as_tensor(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].float()
    image = torch.nn.functional.interpolate(image, size=(size, size), mode="area")
    return image[0].round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def _make(env_id: str, size: int, camera: int) -> gym.Env[Any, Any]:
    try:
        spec = gym.spec(env_id)
    except (gym.error.Error, ImportError) as error:
        raise ValueError(f"unknown environment {env_id!r}: {error}") from None
    keywords: dict[str, Any] = {}
    if env_id.startswith("dm_control/"):
        keywords["render_kwargs"] = {"width": size, "height": size, "camera_id": camera}
    elif str(spec.entry_point).startswith("gymnasium.envs.mujoco"):
        keywords = {"width": size, "height": size}
    try:
        return gym.make(env_id, render_mode="rgb_array", **keywords)
    except gym.error.DependencyNotInstalled as error:
        raise ValueError(f"{env_id} needs a package that is not installed: {error}") from None
    except (gym.error.Error, ImportError, AssertionError, TypeError) as error:
        raise ValueError(f"{env_id} cannot be made with rgb_array rendering: {error}") from None
