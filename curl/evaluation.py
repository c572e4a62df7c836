"""Roll out a policy, deterministically, and record what it does."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import av
import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv
from gymnasium.wrappers import FrameStackObservation

from curl.agents.base import Agent
from curl.batch import FrameStacks, stack_of
from curl.checks import whole
from curl.environment import display_frame, frames_per_second, make_env


class Evaluator:
    """Deterministic episodes in environments of their own, one after another or side by side.

    Args:
        settings: arguments of `make_env`.
        episodes: how many; episode i is seeded with the given seed + i in either case.
        frame_stack: S.
        device: where the agent is.
        processes: 1 steps one environment here; more steps that many beside each other, in
            processes that are started once, and acts on all of them in one batch.
    """

    def __init__(
        self,
        *,
        settings: Mapping[str, Any],
        episodes: int,
        frame_stack: int,
        device: torch.device,
        processes: int = 1,
    ) -> None:
        self.settings, self.device = dict(settings), device
        self.episodes = whole("eval_episodes", episodes)
        self.frame_stack = whole("frame_stack", frame_stack)
        self.processes = min(whole("eval_processes", processes), episodes)
        self._vector: AsyncVectorEnv | None = None

    def __call__(
        self,
        agent: Agent,
        *,
        seed: int,
        video: Path | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> list[float]:
        """Undiscounted returns, one float an episode; `video` shows the first as an MP4.

        Raises:
            InterruptedError: `stop`, asked before every step, said so.
        """
        self._stop = stop
        if self.processes > 1:
            seeds = range(seed, seed + self.episodes)
            if video is not None:
                self._one_by_one(agent, seeds[:1], video)
            groups = [seeds[i : i + self.processes] for i in range(0, len(seeds), self.processes)]
            return [value for group in groups for value in self._side_by_side(agent, group)]
        return self._one_by_one(agent, range(seed, seed + self.episodes), video)

    def close(self) -> None:
        """End the processes."""
        if self._vector is not None:
            self._vector.close()
            self._vector = None

    def _go_on(self) -> None:
        if self._stop():
            raise InterruptedError("the evaluation was broken off")

    def _one_by_one(self, agent: Agent, seeds: Iterable[int], video: Path | None) -> list[float]:
        env = make_stacked_env(self.settings, self.frame_stack)
        returns: list[float] = []
        shots: list[np.ndarray] = []
        try:
            for seed in seeds:
                frames, _ = env.reset(seed=seed)
                total, over = 0.0, False
                while not over:
                    self._go_on()
                    if video is not None and not returns:
                        shots.append(display_frame(env))
                    obs = stack_of(torch.as_tensor(np.asarray(frames)).to(self.device))
                    action = agent.act(obs, deterministic=True)[0].cpu().numpy()
                    frames, reward, terminated, truncated, _ = env.step(action)
                    total, over = total + float(reward), terminated or truncated
                returns.append(total)
            if video is not None:
                repeat = self.settings["action_repeat"]
                write_video(video, shots, frames_per_second(env, repeat))
        finally:
            env.close()
        return returns

    def _side_by_side(self, agent: Agent, seeds: range) -> list[float]:
        if self._vector is None:  # not fork: EGL hangs under it
            make = functools.partial(make_stacked_env, self.settings, self.frame_stack)
            self._vector = AsyncVectorEnv([make] * self.processes, context="forkserver")
        count = self.processes
        frames, _ = self._vector.reset(seed=[seeds[i % len(seeds)] for i in range(count)])
        totals, over = np.zeros(count), np.zeros(count, dtype=bool)
        while not over.all():
            self._go_on()
            pixels = torch.as_tensor(frames).to(self.device).flatten(0, 1)  # [count * S, H, W, 3]
            rows = torch.arange(len(pixels), device=self.device).view(count, self.frame_stack)
            actions = agent.act(FrameStacks(pixels, rows), deterministic=True)
            frames, rewards, terminated, truncated, _ = self._vector.step(actions.cpu().numpy())
            totals += np.where(over, 0.0, rewards)
            over |= terminated | truncated
        return [float(total) for total in totals[: len(seeds)]]


def make_stacked_env(settings: Mapping[str, Any], frame_stack: int) -> gym.Env[Any, Any]:
    """`make_env` with observations uint8 [S, H, W, 3]; an episode's first frame is repeated."""
    return FrameStackObservation(make_env(**settings), frame_stack)


def write_video(path: Path, frames: Iterable[np.ndarray], fps: float) -> None:
    """Write frames, uint8 [H, W, 3] with even H and W, as an H.264 MP4; aside, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".aside.mp4")
    with av.open(str(aside), "w") as container:
        stream: Any = None
        for pixels in frames:
            if stream is None:
                stream = container.add_stream("libx264", rate=max(1, round(fps)))
                stream.height, stream.width = pixels.shape[:2]
                stream.pix_fmt, stream.options = "yuv420p", {"crf": "20"}
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                container.mux(packet)
        if stream is not None:
            for packet in stream.encode():
                container.mux(packet)
    aside.replace(path)
