"""The two sides, behind one face: `Ours` in its variants, and `Plain`, CURL in the way of 2020.

Both learn from the same synthetic frames, act in the same environments and run the same loop.
"""

from __future__ import annotations

import inspect
import math
import multiprocessing
import resource
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from unittest import mock

import gymnasium as gym
import numpy as np
import torch

from benchmarks.floor import Shapes
from benchmarks.plain import PlainAgent, PlainReplay
from benchmarks.timing import WARM_UP
from curl.agents.sac import SAC
from curl.augmentations.base import Augmentation
from curl.augmentations.crop import Crop
from curl.data.replay import ReplayBuffer
from curl.hardware.device import choose_precision, has_bfloat16, make_current
from curl.objectives.infonce import InfoNCE

TASK, ACTION_REPEAT = "dm_control/cartpole-swingup-v0", 8
EPISODE = 125  # agent steps: 1000 env steps at an action repeat of 8

# name -> keyword arguments of SAC. One line adds a variant; one whose keyword SAC lacks is skipped.
VARIANTS: dict[str, dict[str, Any]] = {
    "float32": {"precision": torch.float32},
    "bfloat16": {"precision": torch.bfloat16},
    "bfloat16 joint": {"precision": torch.bfloat16, "joint": True},
    "bfloat16 uncaptured": {"precision": torch.bfloat16, "capture": False},
}


def variants(device: torch.device) -> dict[str, dict[str, Any]]:
    """The variants that SAC knows, `device` has the arithmetic for, and that differ there."""
    known = set(inspect.signature(SAC).parameters)
    if device.type != "cuda":
        known.discard("capture")  # nothing is captured there
    fit = {name: v for name, v in VARIANTS.items() if v.keys() <= known}
    if not has_bfloat16(device):
        fit = {name: v for name, v in fit.items() if v["precision"] != torch.bfloat16}
    return fit


def headline(device: torch.device) -> str:
    """The variant that `train.py` runs on `device` unless told otherwise."""
    return str(choose_precision("auto", device)).removeprefix("torch.")


@dataclass(frozen=True)
class Sizes:
    """The paper's sizes on cartpole; tests shrink them."""

    frame: int = 100
    crop: int = 84
    stack: int = 3
    action_dim: int = 1
    hidden: int = 1024
    transitions: int = 2000

    @property
    def shapes(self) -> Shapes:
        return Shapes(3 * self.stack, self.crop, self.action_dim, self.hidden)


class Contender(Protocol):
    """An agent with its replay buffer."""

    def begin(self, frame: np.ndarray) -> None:
        """Open an episode with its first frame, uint8 [H, W, 3]."""

    def add(self, action: np.ndarray, reward: float, terminated: bool, frame: np.ndarray) -> None:
        """Remember the transition to `frame`."""

    def sample(self, batch_size: int) -> Any:
        """Draw a batch and its three crops."""

    def update(self, batch_size: int) -> Any:
        """Sample, and learn from it once."""

    def act(self) -> np.ndarray:
        """A sampled action float32 [A] for the newest frame stack, in host memory."""
        ...


class Ours:
    """`SAC` with InfoNCE, and `ReplayBuffer`; `view` is a crop unless another one is given."""

    def __init__(
        self,
        sizes: Sizes,
        device: torch.device,
        keywords: dict[str, Any],
        view: Augmentation | None = None,
    ) -> None:
        self.generator = torch.Generator(device).manual_seed(0)
        self.view = view or Crop(size=sizes.crop)
        self.agent = SAC(
            channels=3 * sizes.stack,
            action_dim=sizes.action_dim,
            query=self.view,
            key=self.view,
            objective=InfoNCE(latent_dim=50),
            generator=self.generator,
            hidden_dim=sizes.hidden,
            **keywords,
        )
        self.replay = ReplayBuffer(
            capacity=sizes.transitions,
            frame_size=sizes.frame,
            action_dim=sizes.action_dim,
            frame_stack=sizes.stack,
            device=device,
        )

    def begin(self, frame: np.ndarray) -> None:
        self.replay.begin(frame)

    def add(self, action: np.ndarray, reward: float, terminated: bool, frame: np.ndarray) -> None:
        self.replay.add(action, reward, terminated, frame)

    def sample(self, batch_size: int) -> Any:
        batch = self.replay.sample(batch_size, self.generator, self.agent.offsets)
        stacks = (batch.obs, batch.next_obs, batch.obs)
        return batch, [self.view(stack, self.generator) for stack in stacks]

    def update(self, batch_size: int) -> Any:
        batch = self.replay.sample(batch_size, self.generator, self.agent.offsets)
        return self.agent.update(batch)

    def act(self) -> np.ndarray:
        return self.agent.act(self.replay.latest(), deterministic=False)[0].cpu().numpy()


class Plain:
    """`PlainAgent` and `PlainReplay`; frame stacks are built as the environment goes."""

    def __init__(self, sizes: Sizes, device: torch.device) -> None:
        self.agent = PlainAgent(
            sizes.action_dim,
            hidden_dim=sizes.hidden,
            device=device,
            channels=3 * sizes.stack,
            image_size=sizes.crop,
        )
        shape = (3 * sizes.stack, sizes.frame, sizes.frame)
        self.replay = PlainReplay(sizes.transitions, sizes.action_dim, device, shape, sizes.crop)
        self.frames: deque[np.ndarray] = deque(maxlen=sizes.stack)
        self.updates = 0

    def begin(self, frame: np.ndarray) -> None:
        self.frames.extend([frame.transpose(2, 0, 1)] * (self.frames.maxlen or 0))
        self.stack = np.concatenate(self.frames)  # [C, H, W]

    def add(self, action: np.ndarray, reward: float, terminated: bool, frame: np.ndarray) -> None:
        before = self.stack
        self.frames.append(frame.transpose(2, 0, 1))
        self.stack = np.concatenate(self.frames)
        self.replay.add(before, action, reward, self.stack, terminated)

    def sample(self, batch_size: int) -> Any:
        return self.replay.sample_curl(batch_size)

    def update(self, batch_size: int) -> Any:
        self.agent.batch_size = batch_size
        self.updates += 1
        return self.agent.update(self.replay, self.updates - 1)

    def act(self) -> np.ndarray:
        return self.agent.act(self.stack)


def build(name: str, sizes: Sizes, device: torch.device) -> Contender:
    """`plain` or a variant by name, with a replay buffer full of random frames."""
    torch.manual_seed(0)
    if name == "plain":
        contender: Contender = Plain(sizes, device)
    else:
        contender = Ours(sizes, device, variants(device)[name])
    fill(contender, sizes)
    return contender


def fill(contender: Contender, sizes: Sizes) -> None:
    """Fill the replay buffer of a contender with random frames."""
    rng = np.random.default_rng(0)
    for step in range(sizes.transitions):
        if step % EPISODE == 0:
            contender.begin(rng.integers(0, 256, (sizes.frame, sizes.frame, 3), np.uint8))
        frame = rng.integers(0, 256, (sizes.frame, sizes.frame, 3), np.uint8)
        action = rng.uniform(-1, 1, sizes.action_dim).astype(np.float32)
        contender.add(action, float(rng.uniform()), False, frame)


class Steps:
    """Random actions in an environment: one agent step with its frame a call."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self.env, self.rng = env, np.random.default_rng(0)
        env.reset(seed=0)

    def __call__(self) -> None:
        assert self.env.action_space.shape is not None
        action = self.rng.uniform(-1, 1, self.env.action_space.shape).astype(np.float32)
        _, _, terminated, truncated, _ = self.env.step(action)
        if terminated or truncated:
            self.env.reset()


class Loop:
    """Training: act, update, step, remember; one agent step a call."""

    def __init__(self, contender: Contender, env: gym.Env[Any, Any], batch_size: int) -> None:
        self.contender, self.env, self.batch_size = contender, env, batch_size
        contender.begin(env.reset(seed=0)[0])

    def __call__(self) -> None:
        action = self.contender.act()
        self.contender.update(self.batch_size)
        frame, reward, terminated, truncated, _ = self.env.step(action)
        self.contender.add(action, float(reward), terminated, frame)
        if terminated or truncated:
            self.contender.begin(self.env.reset()[0])


# -- memory --------------------------------------------------------------------------------------


def replay_bytes(sizes: Sizes, transitions: int = 100_000) -> dict[str, int]:
    """Bytes of a full replay buffer of either side, without allocating one."""
    with mock.patch("curl.data.replay.free_bytes", return_value=math.inf):
        ours = ReplayBuffer(
            capacity=transitions,
            frame_size=sizes.frame,
            action_dim=sizes.action_dim,
            frame_stack=sizes.stack,
            device=torch.device("meta"),
        )
    arrays = [v for v in vars(ours).values() if isinstance(v, (torch.Tensor, np.ndarray))]
    shape = (3 * sizes.stack, sizes.frame, sizes.frame)
    single = PlainReplay(1, sizes.action_dim, obs_shape=shape, crop_size=sizes.crop)
    return {
        "ours": sum(array.nbytes for array in arrays),
        "plain": single.count_bytes * transitions,
    }


def peak_memory(name: str, batch_size: int, sizes: Sizes, device: torch.device) -> dict[str, Any]:
    """Peak memory of a fresh process that fills its replay buffer and updates a few times."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        arguments = (name, batch_size, sizes, device, torch.get_num_threads())
        return pool.submit(_peak_memory, *arguments).result()


def _peak_memory(
    name: str, batch_size: int, sizes: Sizes, device: torch.device, threads: int
) -> dict[str, Any]:
    torch.set_num_threads(threads)
    make_current(device)
    contender = build(name, sizes, device)
    for _ in range(2 * WARM_UP[device.type]):
        contender.update(batch_size)
    gpu = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return {"peak_rss_bytes": peak_rss(), "peak_gpu_bytes": gpu}


def peak_rss() -> int:
    """Peak resident bytes of this process; Linux' own count does not include its parent's."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    for line in lines:
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: bytes
