"""Pixel data of a known behaviour policy, of which the best that can be learnt is known.

A bandit of one step per episode, and a chain that is left at its right end. Agents learn from the
data alone. `learn` is the offline loop without its chores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from curl.agents.base import Agent
from curl.augmentations.none import NoAugmentation
from curl.data.batch import stack_of
from curl.data.replay import ReplayBuffer

EDGE = 20  # pixels
PLACES = 5  # of the chain, which is begun at the first one and left at the last one
LONGEST = 20  # steps of an episode in the chain
Frame = np.ndarray


def bandit_frame(sign: int) -> Frame:
    """White or black."""
    return np.full((EDGE, EDGE, 3), 255 if sign > 0 else 0, np.uint8)


def bandit(
    reward: Callable[[float, int], float], *, low: float, high: float, seed: int, count: int = 300
) -> ReplayBuffer:
    """Actions uniform in [low, high] at frames of either sign; `reward` of action and sign."""
    rng = np.random.default_rng(seed)
    replay = ReplayBuffer(capacity=2 * count, frame_size=EDGE, action_dim=1, frame_stack=1)
    for _ in range(count):
        sign, action = int(rng.choice([-1, 1])), float(rng.uniform(low, high))
        replay.begin(bandit_frame(sign))
        replay.add(np.array([action]), reward(action, sign), True, bandit_frame(sign))
    return replay


def chain_frame(place: int) -> Frame:
    """A white bar on black."""
    pixels = np.zeros((EDGE, EDGE, 3), np.uint8)
    width = EDGE // PLACES
    pixels[:, place * width : (place + 1) * width] = 255
    return pixels


def after(place: int, action: float) -> int:
    """Positive actions go right, others left; the left end is a wall."""
    return max(0, place + (1 if action > 0 else -1))


def chain(*, right: float, seed: int, episodes: int = 40) -> ReplayBuffer:
    """Actions about 0.6 with probability `right`, else about -0.6; leaving the chain pays 1."""
    rng = np.random.default_rng(seed)
    replay = ReplayBuffer(
        capacity=episodes * (LONGEST + 1), frame_size=EDGE, action_dim=1, frame_stack=1
    )
    for _ in range(episodes):
        place = 0
        replay.begin(chain_frame(place))
        for _ in range(LONGEST):
            action = rng.choice([0.6, -0.6], p=[right, 1 - right]) + rng.uniform(-0.2, 0.2)
            place = after(place, action)
            over = place == PLACES - 1
            replay.add(np.array([action]), float(over), over, chain_frame(place))
            if over:
                break
    return replay


def steps_to_the_end(agent: Agent) -> int:
    """How long the agent takes to leave the chain; `LONGEST` if it does not."""
    place = 0
    for step in range(LONGEST):
        if place == PLACES - 1:
            return step
        place = after(place, action_at(agent, chain_frame(place)))
    return LONGEST


def action_at(agent: Agent, frame: Frame) -> float:
    """The deterministic action."""
    return agent.act(stack_of(torch.as_tensor(frame[None])), deterministic=True).item()


def make(kind: Callable[..., Agent], *, seed: int = 0, **settings: Any) -> Agent:
    """A small agent that sees all of such a frame; `seed` sets its weights and its generator."""
    torch.manual_seed(seed)
    return kind(
        **{
            "channels": 3,
            "action_dim": 1,
            "query": NoAugmentation(size=EDGE),
            "key": NoAugmentation(size=EDGE),
            "objective": None,
            "generator": torch.Generator().manual_seed(seed),
            "strides": (2, 2),
            "filters": 8,
            "hidden_dim": 32,
            "latent_dim": 8,
            "learning_rate": 1e-3,
            "critic_tau": 0.05,
            **settings,
        }
    )


def learn(agent: Agent, replay: ReplayBuffer, updates: int, *, seed: int = 0) -> dict[str, Tensor]:
    """Train on batches of 32; the metrics of the last update."""
    generator, metrics = torch.Generator().manual_seed(seed), {}
    for _ in range(updates):
        metrics = agent.update(replay.sample(32, generator, agent.offsets))
    return metrics
