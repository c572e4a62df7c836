"""What an encoder learns of a known state: `python -m benchmarks.probe [--json results/probe.json]`.

Frames are drawn from a state that is known: a cart and a pole whose place, angle and speed wander
under random actions. The real agent learns from them for some hundred updates, with the reward
always 0, so that the objective is all that there is to learn from. Then a ridge regression, fitted
on other episodes, reads the state out of the evaluation view's latent. Held-out R^2, against that
of the same encoder untrained, says what the objective put there.

One row an objective x augmentation, means over seeds: `r2` of place, sine and cosine of the angle
(of an untrained encoder: `r2_untrained`), `r2_speed` of the pole, the objective's `accuracy` and
`effective_rank`, and the median milliseconds of an update at this size.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from curl.agents.sac import SAC
from curl.batch import FrameStacks
from curl.hardware import machine, seed_everything
from curl.replay import ReplayBuffer
from train import build_agent

CONFIGS = Path(__file__).parents[1] / "configs"
EDGE, EPISODES, STEPS = 48, 40, 50  # pixels, episodes, agent steps of each
SCALED = ("size", "pad", "min_edge", "max_edge")  # knobs in pixels of a 100 x 100 frame
NAMES = ("place", "sine", "cosine", "speed")


def draw(place: float, angle: float) -> np.ndarray:
    """uint8 [EDGE, EDGE, 3]: a cart at `place` in [-1, 1], its pole `angle` radians from upright."""
    y, x = np.mgrid[0:EDGE, 0:EDGE] / EDGE
    pivot_x, pivot_y, length = 0.5 + 0.2 * place, 0.55, 0.25
    along = (x - pivot_x) * np.sin(angle) - (y - pivot_y) * np.cos(angle)
    aside = np.hypot(
        x - pivot_x - np.clip(along, 0, length) * np.sin(angle),
        y - pivot_y + np.clip(along, 0, length) * np.cos(angle),
    )
    pole = np.clip(1.5 - aside * EDGE, 0, 1)[..., None]
    cart = (np.abs(x - pivot_x) < 0.1) & (np.abs(y - pivot_y) < 0.05)
    frame = np.array([40, 60, 90]) * (1 + 0.3 * y[..., None])  # a sky
    frame = np.where(cart[..., None], [150, 150, 150], frame)
    return ((1 - pole) * frame + pole * np.array([220, 160, 60])).astype(np.uint8)


def record(seed: int, episodes: int = EPISODES) -> tuple[ReplayBuffer, np.ndarray]:
    """A buffer of episodes, and the state [frames, 4] at each of its frames (see NAMES)."""
    rng = np.random.default_rng(seed)
    replay = ReplayBuffer(capacity=episodes * (STEPS + 1), frame_size=EDGE, action_dim=1)
    states = []
    for _ in range(episodes):
        place, angle = rng.uniform(-1, 1), rng.uniform(-np.pi, np.pi)
        speed, drift = rng.normal(0, 0.15), rng.normal(0, 0.05)
        for step in range(STEPS + 1):
            action = rng.uniform(-1, 1, 1).astype(np.float32)
            if step:
                speed = 0.95 * speed + 0.1 * float(action[0])
                drift = 0.9 * drift + rng.normal(0, 0.03)
                place, angle = float(np.clip(place + drift, -1, 1)), angle + speed
                replay.add(action, 0.0, False, draw(place, angle))
            else:
                replay.begin(draw(place, angle))
            states.append([place, np.sin(angle), np.cos(angle), speed])
    return replay, np.array(states)


def make_agent(objective: str, augmentation: str, seed: int) -> SAC:
    """The agent of `configs/`, smaller, and with pixel sizes scaled from 100 to EDGE."""
    generator = seed_everything(seed, torch.device("cpu"))
    agent = OmegaConf.load(CONFIGS / "agent" / "curl.yaml")
    agent.learning_rate, agent.hidden_dim = 1e-3, 64
    config = {
        "agent": OmegaConf.to_container(agent),
        "augmentation": scaled(load("augmentation", augmentation)),
        "objective": load("objective", objective),
        "frame_stack": 3,
        "precision": "float32",
    }
    return build_agent(config, action_dim=1, generator=generator)


def load(group: str, name: str) -> Any:
    return OmegaConf.to_container(OmegaConf.load(CONFIGS / group / f"{name}.yaml"))


def scaled(settings: Any) -> Any:
    if isinstance(settings, dict):
        return {k: pixels(v) if k in SCALED else scaled(v) for k, v in settings.items()}
    return [scaled(value) for value in settings] if isinstance(settings, list) else settings


def pixels(value: int) -> int:
    return max(1, round(value * EDGE / 100))


@torch.no_grad()
def latents(agent: SAC, replay: ReplayBuffer) -> np.ndarray:
    """Of the evaluation view at every frame, float64 [frames, D]."""
    found = []
    for newest in torch.arange(replay.written).split(256):
        rows = torch.maximum(newest[:, None] - torch.arange(2, -1, -1), replay.start[newest, None])
        view = agent.query.evaluate(FrameStacks(replay.frames, rows))
        found.append(agent.encoder[1](agent.encoder[0](view)))
    return torch.cat(found).double().numpy()


def decode(agent: SAC, fit: tuple[Any, Any], test: tuple[Any, Any]) -> np.ndarray:
    """Held-out R^2 [4] of a ridge regression from latent to state; replay and states each."""
    x, y = latents(agent, fit[0]), fit[1]
    mean, spread = x.mean(0), x.std(0) + 1e-6
    x = np.c_[(x - mean) / spread, np.ones(len(x))]
    weights = np.linalg.solve(x.T @ x + 1e-2 * len(x) * np.eye(x.shape[1]), x.T @ y)
    x, y = np.c_[(latents(agent, test[0]) - mean) / spread, np.ones(len(test[1]))], test[1]
    return 1 - ((x @ weights - y) ** 2).mean(0) / y.var(0)


def probe(
    objective: str, augmentation: str, *, seed: int, updates: int, batch_size: int = 64
) -> dict[str, float]:
    """One row of the table."""
    learning, fit, test = record(seed), record(seed + 1000), record(seed + 2000)
    agent = make_agent(objective, augmentation, seed)
    before = decode(agent, fit, test)
    metrics: dict[str, Any] = {}
    seconds = []
    for _ in range(updates):
        batch = learning[0].sample(batch_size, agent.generator, agent.offsets)
        begin = time.perf_counter()
        metrics |= agent.update(batch)
        seconds.append(time.perf_counter() - begin)
    after = decode(agent, fit, test)
    row = {
        "r2": after[:3].mean(),
        "r2_untrained": before[:3].mean(),
        "r2_speed": after[3],
        "r2_speed_untrained": before[3],
        "ms_per_update": 1e3 * statistics.median(seconds),
    }
    for name in ("accuracy", "effective_rank", "positive_similarity", "negative_similarity"):
        if f"contrastive_{name}" in metrics:
            row[name] = metrics[f"contrastive_{name}"].item()
    return {name: float(value) for name, value in row.items()}
