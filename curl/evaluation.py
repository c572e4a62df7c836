"""Roll out a policy, deterministically, and record what it does."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import av
import gymnasium as gym
import numpy as np
import torch
from gymnasium.wrappers import FrameStackObservation

from curl.agents.base import Agent
from curl.batch import stack_of
from curl.environment import display_frame, frames_per_second


def evaluate(
    agent: Agent,
    env: gym.Env[Any, Any],
    *,
    episodes: int,
    frame_stack: int,
    seed: int,
    device: torch.device,
    video: Path | None = None,
    action_repeat: int = 1,
) -> list[float]:
    """Returns of `episodes` deterministic episodes, seeded `seed`, `seed` + 1, ...

    Args:
        env: from `make_env`.
        video: an MP4 of the first episode is written there.

    Returns:
        Undiscounted returns, one float an episode.
    """
    stacked = FrameStackObservation(env, frame_stack)
    returns, shots = [], []
    for episode in range(episodes):
        frames, _ = stacked.reset(seed=seed + episode)
        total, over = 0.0, False
        while not over:
            if video is not None and episode == 0:
                shots.append(display_frame(env))
            obs = stack_of(torch.as_tensor(np.asarray(frames)).to(device))
            action = agent.act(obs, deterministic=True)[0].cpu().numpy()
            frames, reward, terminated, truncated, _ = stacked.step(action)
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    if video is not None:
        write_video(video, shots, frames_per_second(env, action_repeat))
    return returns


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
