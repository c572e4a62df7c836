"""A saved run in Python: its policy, which acts on frames, and its environment.

    policy = curl.load("runs/cartpole_swingup/curl-crop-infonce/seed_1")
    action = policy.predict(frames)

A policy needs neither an environment nor OpenGL. It computes what an evaluation computes, bit for
bit, where device, precision and batch are the same.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from curl import schema
from curl.agents.base import Agent
from curl.checks import integer
from curl.data.batch import FrameStacks
from curl.data.seeding import Stream, generator_seed
from curl.hardware.device import (
    choose_device,
    choose_opengl,
    choose_precision,
    load_renderer,
    prepare_device,
    renders_in_software,
)
from curl.run.build import build_agent
from curl.run.checkpoint import (
    CheckpointError,
    Checkpoints,
    clock_of,
    read_state,
    refuse_foreign_content,
    sizes_of,
)
from curl.run.clock import Clock, words
from curl.run.folder import RunFolder, read_config

if TYPE_CHECKING:
    import gymnasium as gym

Pixels = TypeVar("Pixels", np.ndarray, Tensor)


class Policy:
    """A trained agent that acts. `load` makes it.

    Attributes:
        agent: the agent itself.
        config: all settings of its run.
        device: where it computes.
        frame_stack: S, the number of frames in an observation.
        render_size: the edge of a frame, in pixels.
        action_dim: A.
        clock: how far its run was: env steps, agent steps and updates.
    """

    def __init__(
        self,
        agent: Agent,
        *,
        config: dict[str, Any],
        device: torch.device,
        action_dim: int,
        clock: Clock,
    ) -> None:
        self.agent, self.config, self.device = agent, config, device
        self.action_dim, self.clock = action_dim, clock
        self.frame_stack = integer("frame_stack", config["frame_stack"])
        self.render_size = integer("render_size", config["render_size"])
        self._stack: deque[Tensor] = deque(maxlen=self.frame_stack)

    def __repr__(self) -> str:
        done = f"{self.clock.now:,} {words(self.clock.axis)}"
        return f"<Policy of {self.config['task']['name']} after {done}, on {self.device}>"

    @property
    def env_steps(self) -> int:
        """How many env steps its run had made."""
        return self.clock.env_steps

    @torch.no_grad()
    def predict(self, frames: Pixels, deterministic: bool = True) -> Pixels:
        """The actions for stacks of frames.

        Args:
            frames: uint8 [S, H, W, 3], one stack with its oldest frame first, or [B, S, H, W, 3];
                a NumPy array, or a tensor on any device. H and W are `render_size`.
            deterministic: the mean action, as in evaluations. Otherwise an action is drawn, as in
                training.

        Returns:
            float32 [A] or [B, A] in [-1, 1]: an array if `frames` is one, else a tensor on the
            device of `frames`.

        Raises:
            ValueError: `frames` is something else; one line says what.
        """
        one = (self.frame_stack, self.render_size, self.render_size, 3)
        pixels = self._pixels("frames", frames, one, batched=True)
        batch = pixels.reshape(-1, *one)
        rows = torch.arange(len(batch) * self.frame_stack, device=self.device)
        stacks = FrameStacks(batch.flatten(0, 1), rows.view(len(batch), self.frame_stack))
        action = self.agent.act(stacks, deterministic=deterministic)
        return _like(frames, action if pixels.ndim > len(one) else action[0])

    def reset(self) -> None:
        """Forget the frames of the episode so far. Call it whenever the environment is reset."""
        self._stack.clear()

    def step(self, frame: Pixels, deterministic: bool = True) -> Pixels:
        """The action for the newest frame of an episode. The policy keeps the frames before it.

        The first frame after `reset` fills the whole stack, as in training and evaluation.

        Args:
            frame: uint8 [H, W, 3], a NumPy array, or a tensor on any device.
            deterministic: see `predict`.

        Returns:
            float32 [A] in [-1, 1]: an array if `frame` is one, else a tensor on its device.

        Raises:
            ValueError: `frame` is something else; the frames that are kept stay as they were.
        """
        newest = self._pixels("frame", frame, (self.render_size, self.render_size, 3)).clone()
        missing = self.frame_stack - len(self._stack) if not self._stack else 1
        self._stack.extend([newest] * missing)
        action = self.predict(torch.stack(tuple(self._stack)), deterministic)
        return _like(frame, action)

    def _pixels(
        self, name: str, given: Any, shape: tuple[int, ...], *, batched: bool = False
    ) -> Tensor:
        """What was given as a contiguous tensor on the policy's device; `ValueError` if it misfits.

        Args:
            shape: what it must have, after a batch size of at least 1 if it is `batched`.
        """
        wanted = f"uint8 {list(shape)}" + (f" or [B, {', '.join(map(str, shape))}]" * batched)
        if not isinstance(given, (np.ndarray, Tensor)):
            found = type(given).__name__
            raise ValueError(
                f"{name} must be a NumPy array or a tensor, {wanted}, got a value of type {found}"
            )
        size, kind = tuple(given.shape), str(given.dtype).removeprefix("torch.")
        rest = size[1:] if batched and len(size) == len(shape) + 1 and size[0] else size
        if kind != "uint8" or rest != shape:
            raise ValueError(f"{name} must be {wanted}, got {kind} {list(size)}")
        if isinstance(given, np.ndarray):  # torch takes neither read-only nor reversed arrays
            given = torch.from_numpy(np.require(given, requirements=["C", "W"]))
        return given.to(self.device).contiguous()


def _like(given: Pixels, action: Tensor) -> Pixels:
    """`action` as what was given: an array, or a tensor on the same device."""
    if isinstance(given, np.ndarray):
        return action.cpu().numpy()
    return action.to(given.device)


# -- loading ---------------------------------------------------------------------------------------


def load(
    run: str | Path,
    *,
    device: str | torch.device = "auto",
    seed: int = 0,
    precision: str | None = None,
) -> Policy:
    """The policy of a saved run.

    It opens no environment, unless the checkpoint is an old one of an agent that does not tell how
    many components its actions have. On CUDA `device` becomes PyTorch's current device, and float32
    products are computed in float32 instead of TF32, as in training.

    Args:
        run: the folder of a run, of which the newest sound checkpoint is taken, or one of its
            state files, checkpoints/state-<position>.pt.
        device: auto, cpu, cuda or cuda:<number>.
        seed: of the actions that are drawn with `deterministic=False`.
        precision: of its convolutions: auto, float32 or bfloat16; None: what the run's settings
            say.

    Raises:
        CheckpointError: a ValueError in one line: there is no such run, it has no sound checkpoint,
            or another program saved it.
    """
    run, chosen = Path(run), choose_device(str(device))
    if precision is not None:
        choose_precision(precision, chosen)  # or refuse the name
    prepare_device(chosen)
    state = read(run)
    with refuse_foreign_content(run), settings_of(run):
        config = schema.checked(state["config"], schema.Policy)
        if precision is not None:
            config["precision"] = precision
        action_dim = saved_action_dim(state) or environments_action_dim(config, chosen)
        clock = clock_of(state)
        generator = torch.Generator(chosen).manual_seed(generator_seed(seed, Stream.LEARNING))
        with torch.random.fork_rng(devices=[chosen] if chosen.type == "cuda" else []):
            agent = build_agent(config, action_dim=action_dim, generator=generator)
        agent.load(state["agent"])
    return Policy(agent, config=config, device=chosen, action_dim=action_dim, clock=clock)


def read(run: Path) -> dict[str, Any]:
    """The state of a run folder's newest sound checkpoint, or of a state file.

    Raises:
        CheckpointError: there is none.
    """
    if not run.exists():
        raise CheckpointError(f"{run} does not exist")
    return Checkpoints(run).newest_state() if run.is_dir() else read_state(run)


@contextlib.contextmanager
def settings_of(run: Path) -> Iterator[None]:
    """Refusals say of which run they are. Another version may have saved a setting of it."""
    try:
        yield
    except CheckpointError:
        raise
    except schema.SettingsError as error:
        line = f"{run} has settings that this version does not take: {error}"
        raise CheckpointError(line) from None
    except ValueError as error:
        raise CheckpointError(f"{run} cannot be loaded: {error}") from None


def saved_action_dim(state: Mapping[str, Any]) -> int | None:
    """A, as the checkpoint says it; None if it does not.

    Checkpoints of versions that did not save it are of SAC, whose actor ends with the mean and the
    logarithm of the standard deviation of each component.
    """
    if (sizes := sizes_of(state)) is not None:
        return sizes.action_dim
    actor = state["agent"].get("modules", {}).get("actor", {})
    output = actor.get("policy.output.bias")  # [2 A]
    return len(output) // 2 if isinstance(output, Tensor) and output.ndim == 1 else None


def environments_action_dim(config: Mapping[str, Any], device: torch.device) -> int:
    """A, as the environment of a configuration says it."""
    with contextlib.closing(_make_env(config, device, "auto")) as env:
        return int(env.action_space.shape[0])  # pyright: ignore[reportOptionalSubscript]


# -- the environment -------------------------------------------------------------------------------


def make_env(
    run: str | Path | Policy | Mapping[str, Any],
    *,
    shift: Mapping[str, Mapping[str, Any]] | None = None,
    device: str = "auto",
    opengl: str = "auto",
) -> gym.Env[np.ndarray, np.ndarray]:
    """The Gymnasium environment of a run: the frames that its agent learned from.

    Observations are uint8 [H, W, 3]: one frame, and no stack of them, which `Policy.step` keeps.
    Actions are float32 [A] in [-1, 1]. A step repeats its action as often as the run did.

    Args:
        run: the folder of a run, one of its state files, a policy, or a configuration.
        shift: another look than that of the run: name of a file of curl/shifts -> its settings;
            None: the look of the run; {}: the environment as it is.
        device: auto, cpu, cuda or cuda:<number>; a GPU draws the frames if it is one.
        opengl: auto, egl, osmesa or glfw; what draws them. MUJOCO_GL overrules it.

    Raises:
        ValueError: there is no such run or environment, or settings of it are wrong; one line.
        OpenGLError: nothing can draw here.
    """
    if isinstance(run, Mapping):
        config = run
    elif isinstance(run, Policy):
        config = run.config
    else:
        config = saved_config(Path(run))
    scene = schema.checked(config, schema.Scene)
    scene |= {} if shift is None else {"shift": shift}
    return _make_env(scene, choose_device(device), opengl)


def saved_config(run: Path) -> dict[str, Any]:
    """The settings of a run folder or of a state file, with what the run found `auto` to mean."""
    if not RunFolder(run).config.exists():
        return read(run)["config"]
    config = read_config(run)
    used = config.get(schema.USED)
    if isinstance(used, Mapping) and config.get("shadow_size") == "auto":
        config["shadow_size"] = used.get("shadow_size", "auto")
    return config


def _make_env(
    config: Mapping[str, Any], device: torch.device, opengl: str
) -> gym.Env[np.ndarray, np.ndarray]:
    backend = choose_opengl(opengl, device)
    load_renderer(backend)
    from curl.data import environment  # after the OpenGL backend has been chosen

    settings = environment.environment_settings(config, renders_in_software(backend, device))
    return environment.make_env(**settings)
