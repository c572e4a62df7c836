"""Inspections of agents that nothing has trained, in the environment of grey frames."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import torch

from curl.data.environment import environment_settings, make_env
from curl.inspection.analysis import Inspection
from curl.inspection.experience import Experience, gather
from curl.inspection.inspect import analyse
from curl.run.build import build_agent
from curl.run.clock import Clock
from curl.run.policy import Policy
from support import faulty  # noqa: F401  which registers the environment
from support.configuration import composed
from support.programs import SETTINGS

SMALL = {
    **{key: value for key, value in SETTINGS.items() if not key.startswith("agent.")},
    "task.env_id": "Sound-v0",
    "task.action_repeat": 1,
}


def settings(*overrides: str) -> dict[str, Any]:
    """A small configuration, with these overrides after the others."""
    small = (f"{key}={value}" for key, value in SMALL.items())
    return copy.deepcopy(composed(*small, *overrides))  # others read the same one


def make_policy(*overrides: str, **agent: Any) -> Policy:
    """A policy with random weights; `agent` changes settings of the agent."""
    config = settings(*overrides)
    sizes = {"hidden_dim": 16, "latent_dim": 8, **agent}
    config["agent"] |= {key: value for key, value in sizes.items() if key in config["agent"]}
    torch.manual_seed(0)
    agent_ = build_agent(config, action_dim=1, generator=torch.Generator().manual_seed(0))
    clock = Clock(env_steps=40, agent_steps=40, updates=20)
    return Policy(agent_, config=config, device=torch.device("cpu"), action_dim=1, clock=clock)


def episodes(policy: Policy, count: int = 3) -> Experience:
    env = make_env(**environment_settings(policy.config, software=True))
    try:
        return gather(policy, env, episodes=count, seed=0)
    finally:
        env.close()


def inspected(policy: Policy, count: int = 3) -> Inspection:
    generator = torch.Generator().manual_seed(0)
    return analyse(Path("runs/nowhere"), policy, episodes(policy, count), generator)


@functools.cache
def plain() -> Inspection:
    """That of CURL."""
    return inspected(make_policy())
