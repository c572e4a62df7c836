"""Every file of configs/agent with small networks and views, and noise to learn from."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from curl.agents.base import Agent
from curl.data.replay import ReplayBuffer
from curl.registry import find
from curl.schema import constructor_of
from support.configuration import composed
from support.paths import CONFIGS

AGENTS = sorted(path.stem for path in (CONFIGS / "agent").glob("*.yaml"))
EDGE, SIZE, ACTIONS = 40, 36, 2


@functools.cache
def parts_of(agent: str) -> frozenset[str]:
    """The names that the agent's constructor takes."""
    name = composed(f"agent={agent}")["agent"]["name"]
    return frozenset(constructor_of(find(Agent, "curl.agents", name))[0])


def combinations(objectives: Sequence[str]) -> list[tuple[str, str]]:
    """Every agent with each of these objectives, or with none if it takes none."""
    return [
        (agent, objective)
        for agent in AGENTS
        for objective in objectives
        if objective == "none" or "objective" in parts_of(agent)
    ]


def configuration(agent: str, objective: str, **settings: Any) -> dict[str, Any]:
    """The agent's own, with small networks and views."""
    augmentation = "crop" if "query" in parts_of(agent) else "none"
    config = composed(
        *(f"agent={agent}", f"objective={objective}", f"augmentation={augmentation}"),
        *(f"augmentation.{side}.size={SIZE}" for side in ("query", "key")),
        *("precision=float32", f"render_size={EDGE}"),
    )
    small = {"hidden_dim": 16, "latent_dim": 8}
    small = {key: value for key, value in small.items() if key in config["agent"]}
    return config | {"agent": config["agent"] | small | settings}


def filled(replay: ReplayBuffer, episodes: int = 8) -> ReplayBuffer:
    """Episodes of noise, of 25 steps, every second one terminated."""
    rng = np.random.default_rng(0)
    for episode in range(episodes):
        replay.begin(rng.integers(0, 255, (EDGE, EDGE, 3), np.uint8))
        for step in range(25):
            frame = rng.integers(0, 255, (EDGE, EDGE, 3), np.uint8)
            over = step == 24 and episode % 2 == 0
            replay.add(rng.uniform(-1, 1, ACTIONS), rng.normal(), over, frame)
    return replay


def tensors(state: Any, path: str = "") -> dict[str, Tensor]:
    """Copies of all tensors in nested dicts and lists, by dotted path."""
    if isinstance(state, Tensor):
        return {path: state.detach().clone()}
    items = state.items() if isinstance(state, dict) else enumerate(state)
    nested = [(f"{path}.{key}", value) for key, value in items if not isinstance(value, str)]
    return {
        name: tensor
        for inner, value in nested
        if isinstance(value, (dict, list, tuple, Tensor))
        for name, tensor in tensors(value, inner).items()
    }
