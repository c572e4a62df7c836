"""Saved runs whose agents have learned nothing, for what asks only that a run can be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from curl.data.seeding import seed_everything
from curl.run.build import build_agent
from curl.run.checkpoint import Checkpoints
from curl.run.folder import write_config
from support.configuration import composed

PENDULUM = {
    "task": "pendulum",
    "task.action_repeat": 4,
    "task.max_episode_steps": 40,
    "render_size": 24,
    "augmentation.query.size": 20,
    "augmentation.key.size": 20,
    "precision": "float32",
    "replay.capacity": 50,
    "video": False,
    "logger.wandb": "disabled",
}


def settings(**changes: Any) -> dict[str, Any]:
    """A small configuration; dots of keys are written as __."""
    wanted = PENDULUM | {key.replace("__", "."): value for key, value in changes.items()}
    found = composed(*(f"{key}={value}" for key, value in wanted.items() if value is not None))
    small: dict[str, Any] = {"hidden_dim": 16, "latent_dim": 8}
    if "convolution_init" in found["agent"]:
        small["convolution_init"] = "orthogonal"  # which looks at all pixels from the beginning
    return found | {"agent": found["agent"] | small}


def save(folder: Path, config: dict[str, Any], *, action_dim: int = 1, env_steps: int = 24) -> Path:
    """Save a run with an agent of random weights, whose actions depend on what it sees."""
    generator = seed_everything(3, torch.device("cpu"))
    agent = build_agent(config, action_dim=action_dim, generator=generator)
    with torch.no_grad():
        for parameter in agent.actor.parameters():  # pyright: ignore[reportAttributeAccessIssue]
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    state = {
        "agent": agent.state(),
        "config": config,
        "counters": {"env_steps": env_steps, "agent_steps": env_steps // 4},
        "sizes": {
            "action_dim": action_dim,
            "observation": [config["frame_stack"], *[config["render_size"]] * 2, 3],
        },
    }
    Checkpoints(folder).save(env_steps, state)
    write_config(folder, config)
    return folder
