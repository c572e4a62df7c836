"""A trained policy as a program that needs nothing of this package: torch.export, and ONNX.

The program is what an agent does in an evaluation, in float32, from the frames of an environment to
its actions: it stacks the frames, takes the view that the run's augmentation evaluates with (for
most of them the centre of the frames), scales pixels, and maps actions to the environment's bounds.

    frames  uint8 [B, S, H, W, 3]  the newest S frames, the oldest one first; an episode's first
                                   frame is repeated
    action  float32 [B, *shape]    in the environment's own bounds and shape

Any agent and augmentation can be exported whose deterministic action PyTorch can trace. What is
written is read again and compared with what the checkpoint did in an episode.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from curl.agents.base import Agent
from curl.data.batch import FrameStacks
from curl.data.seeding import Stream, episode_seed
from curl.run.guard import Watched, reason
from curl.run.policy import Policy

FRAMES, ACTION = "frames", "action"  # what the programs call their input and their output
TORCH_FILE, ONNX_FILE = "policy.pt2", "policy.onnx"
EXTRA = ("onnx", "onnxscript", "onnxruntime")
"""The modules of the extra `onnx`."""

TOLERANCE = 1e-5
"""How far an action may be from the checkpoint's, where 2 is the width of the bounds."""

ROUNDINGS, LARGEST_TOLERANCE = 10, 1e-3
"""A policy may be so sensitive that float32 knows its actions less well than that. Then so many
times the checkpoint's own rounding error is allowed, and never more than the second number."""

STEPS = 100
"""Agent steps of an episode on which the two are compared."""

Acts = Callable[[np.ndarray], np.ndarray]
"""Frames uint8 [B, S, H, W, 3] -> actions float32 [B, *shape]."""


class ExportError(ValueError):
    """A policy that cannot be exported, or that acts differently once it is."""


# -- the program -----------------------------------------------------------------------------------


class SlicedStacks(FrameStacks):
    """Stacks that lie in one piece, whose centre is read by slicing, as every format can say it."""

    def centre(self, size: int) -> Tensor:
        edges = self.height, self.width
        if size > min(edges):
            raise ValueError(f"a window of {size} pixels does not fit frames of {edges}")
        top, left = ((edge - size) // 2 for edge in edges)
        stacks = self.frames.unflatten(0, (-1, self.indices.shape[1]))  # [B, S, H, W, C]
        window = stacks[:, :, top : top + size, left : left + size]
        return window.permute(0, 1, 4, 2, 3).flatten(1, 2)


class Deployed(nn.Module):
    """Frames uint8 [B, S, H, W, 3] -> actions float32 [B, *shape] in the environment's bounds.

    Args:
        agent: acts in float32, on the CPU. Its modules become part of this one.
        space: the action space of the environment itself.
    """

    low: Tensor
    high: Tensor

    def __init__(self, agent: Agent, *, space: gym.spaces.Box, example: Tensor) -> None:
        super().__init__()
        self.act, self.shape = agent.act, space.shape
        for name, module in acting_modules(agent, stacks_of(example)).items():
            self.add_module(name, module.requires_grad_(False))
        for name, bounds in (("low", space.low), ("high", space.high)):
            self.register_buffer(name, torch.as_tensor(bounds, dtype=torch.float32).reshape(-1))

    def forward(self, frames: Tensor) -> Tensor:
        action = self.act(stacks_of(frames), deterministic=True)  # [B, A]
        own = self.low + (action + 1) * (0.5 * (self.high - self.low))
        own = torch.minimum(torch.maximum(own, self.low), self.high)  # rounding may leave them
        return own.reshape(-1, *self.shape)


def stacks_of(frames: Tensor) -> SlicedStacks:
    """Frames uint8 [B, S, H, W, 3] as what an agent acts on."""
    pixels = frames.flatten(0, 1)
    numbers = torch.arange(pixels.shape[0], device=pixels.device)
    return SlicedStacks(pixels, numbers.view(-1, frames.shape[1]))


def acting_modules(agent: Agent, stacks: FrameStacks) -> dict[str, nn.Module]:
    """Those modules of an agent that its deterministic actions call, by the names it gives them."""
    modules = {name: part for name, part in vars(agent).items() if isinstance(part, nn.Module)}
    called: set[nn.Module] = set()
    hooks = [
        part.register_forward_pre_hook(lambda module, _: called.add(module))
        for part in modules.values()
    ]
    try:
        agent.act(stacks, deterministic=True)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: part for name, part in modules.items() if part in called}


def program_of(policy: Policy, space: gym.spaces.Box) -> torch.export.ExportedProgram:
    """The program of a policy that was loaded onto the CPU in float32.

    Raises:
        ExportError: PyTorch cannot trace how the agent acts.
    """
    edge = policy.render_size
    example = torch.zeros(2, policy.frame_stack, edge, edge, 3, dtype=torch.uint8)
    try:
        with torch.no_grad(), quietly():
            module = Deployed(policy.agent, space=space, example=example)
            batch = {FRAMES: {0: torch.export.Dim("batch")}}
            return torch.export.export(module, (example,), dynamic_shapes=batch, strict=False)
    except Exception as error:  # whatever an agent or an augmentation of somebody else does
        name = policy.config["agent"]["name"]
        raise ExportError(f"agent.name={name} cannot be exported: {reason(error)}") from error


# -- files -----------------------------------------------------------------------------------------


def write_torch(program: torch.export.ExportedProgram, path: Path) -> None:
    """Write a program for `torch.export.load`."""
    with quietly():
        torch.export.save(program, path)


def read_torch(path: Path) -> Acts:
    """What a file of `write_torch` does."""
    with quietly():
        module = torch.export.load(path).module()

    @torch.no_grad()
    def act(frames: np.ndarray) -> np.ndarray:
        return module(torch.from_numpy(frames)).numpy()

    return act


def write_onnx(program: torch.export.ExportedProgram, path: Path) -> None:
    """Translate a program to ONNX, weights included.

    Raises:
        ExportError: it has no counterpart there.
    """
    try:
        with quietly():
            translated = torch.onnx.export(
                program,
                input_names=[FRAMES],
                output_names=[ACTION],
                dynamo=True,
                verbose=False,
            )
            assert translated is not None
            name_batch(translated.model)
            translated.save(path, external_data=False)
    except Exception as error:
        raise ExportError(f"the policy cannot be translated to ONNX: {reason(error)}") from error


def name_batch(model: Any) -> None:
    """Call the first axis of what goes in and comes out `batch`, instead of a generated name."""
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.shape[0] = "batch"


def read_onnx(path: Path) -> Acts:
    """What ONNX Runtime makes of a file of `write_onnx`, on one thread of the CPU."""
    import onnxruntime  # pyright: ignore[reportMissingImports]  of the extra onnx

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def act(frames: np.ndarray) -> np.ndarray:
        return np.asarray(session.run([ACTION], {FRAMES: frames})[0])

    return act


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep the exporters' notices to themselves: none of them is for a user of this package."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


# -- what the checkpoint does, and whether the program does the same -------------------------------


def acted(
    policy: Policy,
    env: gym.Env[np.ndarray, np.ndarray],
    *,
    seed: int,
    steps: int = STEPS,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[np.ndarray, np.ndarray]:
    """The beginning of an episode of evaluation.

    Args:
        env: of `curl.make_env`.
        seed: of the evaluation.
        steps: agent steps, or fewer if the episode ends.
        stop: asked before every step.

    Returns:
        The stacks that the policy saw, uint8 [N, S, H, W, 3], and the actions that the environment
        itself was given then, float64 [N, *shape].

    Raises:
        ValueError: what the environment raised.
        InterruptedError: `stop` said so.
    """
    from curl.data.environment import taken_action  # after the OpenGL backend has been chosen

    watched = Watched(env, None)
    policy.reset()
    frames = [np.array(watched.reset(seed=episode_seed(seed, Stream.EVALUATION, 0)))]
    actions: list[np.ndarray] = []
    over = False
    while not over and len(actions) < steps:
        if stop():
            raise InterruptedError("the export was interrupted")
        frame, _, terminated, truncated = watched.step(policy.step(frames[-1]))
        actions.append(np.array(taken_action(env), dtype=np.float64))
        frames.append(np.array(frame))
        over = terminated or truncated
    newest = np.arange(len(actions))[:, None]
    rows = np.maximum(newest + np.arange(1 - policy.frame_stack, 1), 0)  # [N, S]
    return np.stack(frames)[rows], np.stack(actions)


def exact(policy: Policy, stacks: np.ndarray) -> np.ndarray:
    """What the checkpoint would do without rounding: its actions, computed in float64.

    Args:
        stacks: uint8 [N, S, H, W, 3].

    Returns:
        float64 [N, A] in [-1, 1].
    """
    pixels = torch.from_numpy(stacks).flatten(0, 1)
    seen = FrameStacks(pixels, torch.arange(len(pixels)).view(len(stacks), -1))
    parts = acting_modules(policy.agent, seen[:1]).values()
    try:
        for part in parts:
            part.double()
        with torch.no_grad(), InFloat64():
            return policy.agent.act(seen, deterministic=True).numpy()
    finally:
        for part in parts:
            part.float()  # which are the same numbers again


class InFloat64(TorchDispatchMode):
    """Whatever is computed in float32 is computed in float64."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*tree_map(widened, args), **tree_map(widened, kwargs or {}))


def widened(value: Any) -> Any:
    """A float32 tensor, or the name of that type, as float64; anything else as it is."""
    if isinstance(value, Tensor) and value.dtype == torch.float32:
        return value.double()
    return torch.float64 if value is torch.float32 else value


def tolerance(rounding: float) -> float:
    """How far a program may be from the checkpoint, whose rounding error this is."""
    return min(max(TOLERANCE, ROUNDINGS * rounding), LARGEST_TOLERANCE)


def largest_difference(found: np.ndarray, actions: np.ndarray, space: gym.spaces.Box) -> float:
    """How far actions [N, *shape] are from others at most, where 2 is the width of their bounds.

    NaN if one of them is.
    """
    if found.shape != actions.shape:
        raise ExportError(f"actions are {list(found.shape)}, not {list(actions.shape)}")
    half = (space.high.astype(np.float64) - space.low.astype(np.float64)) / 2
    return float(np.max(np.abs(found - actions) / half))


def require_same(
    name: str,
    act: Acts,
    stacks: np.ndarray,
    actions: np.ndarray,
    space: gym.spaces.Box,
    *,
    allowed: float,
) -> float:
    """Let a program act on one stack after another, as in an episode, and on all in one batch.

    Returns:
        Its largest difference from `actions`.

    Raises:
        ExportError: it is more than allowed.
    """
    singles = np.concatenate([act(stacks[i : i + 1]) for i in range(len(stacks))])
    found = [largest_difference(each, actions, space) for each in (singles, act(stacks))]
    difference = float(np.max(found))  # NaN if one is
    if not difference <= allowed:
        raise ExportError(
            f"{name} does not act as the checkpoint does: in {len(stacks)} steps the actions "
            f"differ by up to {difference:.2g} of half the width of their bounds; {allowed:.2g} "
            "is allowed"
        )
    return difference
