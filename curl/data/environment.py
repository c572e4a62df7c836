"""make_env: a Gymnasium id becomes a chain that yields one RGB frame per agent step.

Gymnasium's own wrappers, where there are any, in this order: flatten the actions, rescale them to
[-1, 1], count control steps, repeat the action (rewards summed, stops at the episode's end),
render once.
"""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import (
    RecordEpisodeStatistics,
    RepeatAction,
    RescaleAction,
    TransformAction,
)
from shimmy import DmControlCompatibilityV0  # registers dm_control/<domain>-<task>-v0

from curl import shifts
from curl.checks import integer
from curl.data.rendering import Frames
from curl.data.seeding import Stream, episode_seed

LARGEST_STATE = 1000  # numbers in an observation; those with more are images
OURS = ("id", "render_mode", "max_episode_steps", "disable_env_checker")  # of gym.make's arguments


def environment_settings(config: Mapping[str, Any], software: bool) -> dict[str, Any]:
    """The arguments of `make_env` that a run's configuration means.

    Args:
        config: with `task`, `render_size` and `shadow_size`. Tasks of older versions lack
            `camera`, `kwargs` and `max_episode_steps`, and older runs lack `reflections` and
            `shift`.
        software: frames are drawn by the CPU.
    """
    task, shadow = config["task"], config["shadow_size"]
    return {
        "env_id": task["env_id"],
        "action_repeat": task["action_repeat"],
        "render_size": config["render_size"],
        "camera": task.get("camera"),
        "kwargs": task.get("kwargs"),
        "max_episode_steps": task.get("max_episode_steps"),
        "shadow_size": (256 if software else None) if shadow == "auto" else shadow,
        "reflections": config.get("reflections", True),
        "shift": config.get("shift", {}),
    }


def make_env(
    *,
    env_id: str,
    action_repeat: int,
    render_size: int = 100,
    camera: int | None = None,
    kwargs: Mapping[str, Any] | None = None,
    max_episode_steps: int | None = None,
    shadow_size: int | None = None,
    reflections: bool = True,
    shift: Mapping[str, Mapping[str, Any]] | None = None,
) -> gym.Env[np.ndarray, np.ndarray]:
    """Build the pixel environment of `env_id`.

    Args:
        env_id: a Gymnasium id, `Id` or `module:Id`, of an environment with a bounded continuous
            action space and `rgb_array` rendering. Action spaces of any shape are flattened.
        action_repeat: simulator control steps per agent step.
        render_size: edge of the square frame, in pixels.
        camera: number of one of the cameras of a MuJoCo model; None: the environment's own
            choice, else the model's first camera, which follows the robot.
        kwargs: more arguments of the environment's constructor.
        max_episode_steps: control steps after which an episode is truncated. None: the
            environment's own limit, which it must have.
        shadow_size: edge of MuJoCo's shadow map in texels; 0: no shadows; None keeps the model's
            own. In software rendering a large map takes most of a frame's time.
        reflections: whether MuJoCo draws what a floor mirrors.
        shift: name of a file of curl/shifts -> its settings; None: the environment as it is. What
            it draws at random comes from the seed of each episode.

    Returns:
        An environment with observations uint8 [render_size, render_size, 3], actions float32
        [A] in [-1, 1] and rewards that are Python floats. At an episode's end
        `info["episode"]` holds its return `r` and its length `l` in control steps.

    Raises:
        ValueError: unknown id, arguments or camera; actions that are not continuous and bounded;
            no `rgb_array` rendering; no time limit; a shift that is unknown or makes no sense here.
    """
    look = shifts.make(shift or {})
    integer("action_repeat", action_repeat)
    integer("render_size", render_size)
    if shadow_size is not None:
        integer("shadow_size", shadow_size, at_least=0)
    if camera is not None:
        integer("task.camera", camera, at_least=0)
    env = _make(env_id, dict(kwargs or {}), max_episode_steps, camera)
    try:
        _require_limit(env_id, env)
        env = _rescaled(env_id, PlainResults(env, env_id))
        env = RepeatAction(RecordEpisodeStatistics(env), action_repeat)
        env = Frames(
            env,
            name=env_id,
            size=render_size,
            camera=camera,
            shadow_size=shadow_size,
            reflections=reflections,
            look=look,
        )
        _try_reset(env_id, env)
    except BaseException:
        env.close()
        raise
    return env


def require_sense(env: gym.Env[Any, Any], shift: Mapping[str, Mapping[str, Any]]) -> None:
    """`ValueError` if another look would make no sense in an environment of `make_env`.

    Args:
        shift: as in `make_env`.
    """
    env.get_wrapper_attr("require_sense")(shift)


def episode_length(env: gym.Env[Any, Any]) -> int:
    """Control steps since the reset of an environment of `make_env`.

    The last agent step of an episode may have fewer of them than `action_repeat`.
    """
    return env.get_wrapper_attr("episode_lengths")


def state_of(env: gym.Env[Any, Any]) -> np.ndarray | None:
    """What an environment of `make_env` observes besides its frames, float64 [K].

    None where it observes no numbers, or an image of its own.
    """
    observed, space = env.get_wrapper_attr("observed"), env.get_wrapper_attr("observed_space")
    try:
        flat = gym.spaces.flatten(space, observed)
    except (NotImplementedError, ValueError, TypeError):
        return None
    state = np.asarray(flat, dtype=np.float64)
    return state if 0 < state.size <= LARGEST_STATE else None


def own_actions(env: gym.Env[Any, Any]) -> gym.spaces.Box:
    """The action space of the environment itself, in its own shape and bounds."""
    return env.get_wrapper_attr("own_actions")


def taken_action(env: gym.Env[Any, Any]) -> np.ndarray:
    """What the environment itself was given last, in its own shape and bounds."""
    return env.get_wrapper_attr("taken")


def constructor(env: gym.Env[Any, Any], task: Mapping[str, Any]) -> dict[str, Any]:
    """What makes such an environment in a program that has Gymnasium and not this package.

    Args:
        env: of `make_env`.
        task: the settings that it was made with: `env_id`, `kwargs` and `max_episode_steps`.

    Returns:
        `id` and `kwargs` of `gym.make(id, render_mode="rgb_array", **kwargs)`. What `render()` then
        draws is what `env` shows, but for its shifts, and for MuJoCo's shadows and reflections if
        they were simplified. Where it is not of the wanted size, it needs area-resampling.
    """
    name, given = task["env_id"], dict(task.get("kwargs") or {})
    if isinstance(env.unwrapped, DmControlCompatibilityV0) and ":" not in name:
        name = f"shimmy:{name}"  # which registers it
    if (limit := task.get("max_episode_steps")) is not None:
        given["max_episode_steps"] = limit
    return {"id": name, "kwargs": given | env.get_wrapper_attr("scene").arguments()}


def state_names(env: gym.Env[Any, Any]) -> list[str]:
    """The names of the numbers of `state_of`, K of them; none where it is None.

    A number of a dictionary has the name of its entry, as `velocity[1]`; others are `state[0]` and
    so on.
    """
    state, space = state_of(env), env.get_wrapper_attr("observed_space")
    if state is None:
        return []
    parts = space.spaces if isinstance(space, gym.spaces.Dict) else {"state": space}
    sizes = {name: gym.spaces.flatdim(part) for name, part in parts.items()}
    return [
        name if size == 1 else f"{name}[{number}]"
        for name, size in sizes.items()
        for number in range(size)
    ]


def frames_per_second(env: gym.Env[Any, Any], action_repeat: int) -> Fraction:
    """Agent steps per second of simulated time, for videos that play at true speed."""
    control = getattr(env.unwrapped, "dt", None)  # Shimmy and MuJoCo: seconds per control step
    if isinstance(control, numbers.Real) and 0 < float(control) < math.inf:
        rate = 1 / Fraction(float(control)).limit_denominator(100_000)
    else:
        rate = Fraction(float(env.metadata.get("render_fps") or 30)).limit_denominator(1000)
    return rate / action_repeat


def display_frame(env: gym.Env[Any, Any]) -> np.ndarray:
    """A frame for people of an environment of `make_env`, uint8 with even sides."""
    return env.get_wrapper_attr("display")()


class PlainResults(gym.Wrapper[Any, Any, Any, Any]):
    """Rewards are Python floats, and `info` has no statistics that ours would collide with.

    Attributes:
        own_actions: the action space of what `gym.make` returned.
        taken: the action that it was given last; None before the first one.
    """

    def __init__(self, env: gym.Env[Any, Any], name: str) -> None:
        super().__init__(env)
        self.name, self.own_actions = name, env.action_space
        self.taken: np.ndarray | None = None

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.taken = action
        observation, reward, terminated, truncated, info = self.env.step(action)
        if np.size(reward) != 1:  # pyright: ignore[reportArgumentType]
            raise ValueError(f"{self.name} returned the reward {reward!r}, which is not one number")
        reward = float(np.asarray(reward).item())
        info = {key: value for key, value in info.items() if key != "episode"}
        return observation, reward, bool(terminated), bool(truncated), info


# -- building --------------------------------------------------------------------------------------


def _make(
    env_id: str, kwargs: dict[str, Any], max_episode_steps: int | None, camera: int | None
) -> gym.Env[Any, Any]:
    if taken := [key for key in kwargs if key in OURS or not isinstance(key, str)]:
        raise ValueError(
            f"task.kwargs cannot hold {', '.join(map(repr, taken))}: it holds the named arguments "
            f"of the environment's constructor, without {', '.join(OURS)}"
        )
    within = kwargs.get("render_kwargs")
    drawing = {**kwargs, **within} if isinstance(within, Mapping) else kwargs
    named = [drawing[key] for key in ("camera_id", "camera_name") if drawing.get(key) is not None]
    if camera is not None and named:
        raise ValueError(
            f"task.camera={camera} and the camera {named[0]!r} in task.kwargs: set task.camera=null"
        )
    if max_episode_steps is not None:
        integer("task.max_episode_steps", max_episode_steps)
    try:
        # Gymnasium's own checker warns of observations, which are not used here, and of frames,
        # actions and rewards, which are checked below.
        return gym.make(
            env_id,
            max_episode_steps=max_episode_steps,
            disable_env_checker=True,
            render_mode="rgb_array",
            **kwargs,
        )
    except gym.error.DependencyNotInstalled as error:
        raise ValueError(f"{env_id} needs a package that is not installed: {error}") from error
    except Exception as error:  # whatever somebody's constructor raises
        if _is_unknown(env_id, error):
            raise ValueError(f"unknown environment {env_id!r}: {error}") from error
        hint = "; task.kwargs holds its arguments" if isinstance(error, TypeError) else ""
        cause = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"{env_id} cannot be made with rgb_array rendering: {cause}{hint}"
        ) from error


def _is_unknown(env_id: str, error: Exception) -> bool:
    """Whether `gym.make` knows no such id, or its module is not there."""
    if isinstance(error, ModuleNotFoundError):
        return ":" in env_id and (error.name or env_id) in env_id
    return isinstance(error, gym.error.UnregisteredEnv) or "Malformed" in str(error)


def _require_limit(env_id: str, env: gym.Env[Any, Any]) -> None:
    """Refuse an environment whose episodes may never end: evaluations would not end either."""
    if env.spec is not None and env.spec.max_episode_steps is not None:
        return
    if isinstance(env.unwrapped, DmControlCompatibilityV0):
        limits = ("_step_limit", "_time_limit")  # control.Environment's, composer.Environment's
        if any(getattr(env.unwrapped, name, math.inf) < math.inf for name in limits):
            return
    raise ValueError(
        f"{env_id} has no time limit of its own: set task.max_episode_steps, the control steps "
        "after which an episode is cut off"
    )


def _rescaled(env_id: str, env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """Actions float32 [A] in [-1, 1]; `ValueError` unless they are continuous and bounded."""
    space = env.action_space
    if not isinstance(space, gym.spaces.Box) or not np.issubdtype(space.dtype, np.floating):
        raise ValueError(
            f"{env_id} has the actions {space}; continuous ones are needed, a Box of floats"
        )
    low, high = space.low.reshape(-1), space.high.reshape(-1)
    if not low.size:
        raise ValueError(f"{env_id} has the actions {space}, which have no component")
    with np.errstate(over="ignore", invalid="ignore"):
        width = (high - low).astype(np.float32)
    for component in np.flatnonzero(~(np.isfinite(width) & (width > 0))):
        place = ", ".join(str(i) for i in np.unravel_index(component, space.shape or (1,)))
        raise ValueError(
            f"{env_id} bounds component {place} of its actions by low={low[component]:g} and "
            f"high={high[component]:g}; both must be finite numbers, and low < high"
        )
    if len(space.shape) != 1:
        flat = gym.spaces.Box(low, high, dtype=space.dtype.type)
        env = TransformAction(env, lambda action: action.reshape(space.shape), flat)
    with warnings.catch_warnings():  # rescaling a float64 box overflows harmlessly in float32
        warnings.simplefilter("ignore", RuntimeWarning)
        return RescaleAction(env, np.float32(-1.0), np.float32(1.0))


def _try_reset(env_id: str, env: gym.Env[Any, Any]) -> None:
    """Draw a first frame now, so that what cannot be drawn is refused before a run is opened.

    It is seeded, so that all instances begin alike even if their first reset prepares something.
    """
    try:
        env.reset(seed=episode_seed(0, Stream.TRAINING, 0))
    except ValueError:
        raise
    except Exception as error:
        cause = f"{type(error).__name__}: {error}"
        raise ValueError(f"{env_id}: its first reset or frame failed: {cause}") from error
