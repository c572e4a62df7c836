"""Memory and file handles over a long run: `python -m benchmarks.soak [--agent-steps 50000]`.

The real trainer with evaluations, videos and checkpoints, a tiny agent and a synthetic environment
of 20 x 20 pixels. Every 1000 agent steps the resident memory and the open file handles are read
from /proc (Linux). The buffer is small, so it is full after the first tenth.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from rich.console import Console

from curl.data.environment import make_env
from curl.data.replay import ReplayBuffer
from curl.data.seeding import seed_everything
from curl.hardware.processor import Threads
from curl.run.build import build_agent
from curl.run.checkpoint import Checkpoints
from curl.run.evaluation import Evaluator
from curl.run.folder import RunFolder
from curl.run.logger import Logger
from curl.run.online import OnlineTrainer

EDGE, EPISODE, EVERY = 20, 100, 1000  # pixels, agent steps, agent steps between samples


class Dot(gym.Env[np.ndarray, np.ndarray]):
    """A grey level that actions move; the reward is its nearness to the middle."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    observation_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode, self.time, self.level = render_mode, 0, np.zeros(1, np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.time, self.level = 0, self.np_random.uniform(-1, 1, 1).astype(np.float32)
        return self.level, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.time += 1
        self.level = np.clip(self.level + 0.1 * action, -1, 1).astype(np.float32)
        return self.level, 1 - abs(float(self.level[0])), False, self.time == EPISODE, {}

    def render(self) -> np.ndarray:
        pixels = np.full((EDGE, EDGE, 3), int(127.5 * (1 + self.level[0])), np.uint8)
        pixels[: EDGE // 2, :2] = (255, 0, 0)  # so that no frame is of one colour
        return pixels


class Sampled(OnlineTrainer):
    """A trainer that notes its process's memory and handles."""

    def __init__(self, *, time_limit: float, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.samples: list[tuple[int, float, int]] = []  # agent steps, MB, handles
        self.deadline = time.monotonic() + time_limit

    def step(self, action: torch.Tensor) -> None:
        super().step(action)
        if self.agent_steps % EVERY == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            megabytes = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
            self.samples.append((self.agent_steps, megabytes, len(os.listdir("/proc/self/fd"))))
            if time.monotonic() > self.deadline:
                self.budget = self.env_steps


def soak(agent_steps: int, folder: Path, time_limit: float) -> dict[str, Any]:
    """Train for `agent_steps`, or `time_limit` seconds; the samples and what they amount to."""
    torch.set_num_threads(1)
    gym.register(
        "SoakDot-v0", entry_point=lambda **settings: Dot(**settings), max_episode_steps=EPISODE
    )
    crop = {"name": "crop", "size": 18}
    agent_settings = {"name": "sac", "discount": 0.99, "hidden_dim": 8, "latent_dim": 8}
    agent_settings |= {"learning_rate": 1e-3, "alpha_learning_rate": 1e-4, "alpha_beta1": 0.5}
    agent_settings |= {"initial_temperature": 0.1, "critic_tau": 0.01, "encoder_tau": 0.05}
    agent_settings |= {"actor_update_every": 2, "target_update_every": 2, "capture": False}
    agent_settings |= {"second_encoder_step": False, "joint": False}
    config = {"agent": agent_settings, "objective": {"name": "infonce"}, "frame_stack": 3}
    config |= {"augmentation": {"query": crop, "key": crop}, "precision": "float32"}
    device = torch.device("cpu")
    generator = seed_everything(1, device)
    environment = {"env_id": "SoakDot-v0", "action_repeat": 1, "render_size": EDGE}
    agent = build_agent(config, action_dim=1, generator=generator)
    console = Console(quiet=True)
    logger = Logger(folder=folder, wandb="disabled", budget=agent_steps, console=console)
    trainer = Sampled(
        time_limit=time_limit,
        agent=agent,
        env=make_env(**environment),
        evaluator=Evaluator(settings=environment, episodes=1, frame_stack=3, device=device),
        replay=ReplayBuffer(capacity=2000, frame_size=EDGE, action_dim=1),
        logger=logger,
        checkpoints=Checkpoints(folder),
        generator=generator,
        config=config,
        seed=1,
        env_steps=agent_steps,
        batch_size=4,
        threads=Threads(torch.get_num_threads()),
        updates_per_step=1,
        initial_steps=500,
        eval_every=1000,
        checkpoint_every=1000,
        save_replay=True,
        log_every=100,
        video=True,
        env_timeout=300,
    )
    began = time.monotonic()
    try:
        trainer.run()
    finally:
        logger.close()
    steps, memory, handles = (np.array(column) for column in zip(*trainer.samples, strict=True))
    late = steps >= steps[-1] / 10
    slope = float(np.polyfit(steps[late], memory[late], 1)[0]) if late.sum() > 1 else 0.0
    at = {
        f"{p} %": round(float(np.interp(steps[-1] * p / 100, steps, memory)), 1)
        for p in (10, 50, 100)
    }
    return {
        "agent_steps": int(steps[-1]),
        "seconds": round(time.monotonic() - began, 1),
        "rss_mb": at,
        "rss_mb_per_10k_steps": round(slope * 1e4, 3),  # from 10 % on
        "handles": {"first": int(handles[0]), "last": int(handles[-1]), "most": int(max(handles))},
        "evaluations": len(list(RunFolder(folder).videos.glob("*.mp4"))),
        "samples": [list(sample) for sample in trainer.samples],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory and file handles over a long run")
    parser.add_argument("--agent-steps", type=int, default=50_000)
    parser.add_argument("--time-limit", type=float, default=3600, help="seconds (default 3600)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = soak(arguments.agent_steps, Path(folder), arguments.time_limit)
    for name, value in result.items():
        if name != "samples":
            print(f"{name}: {value}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
