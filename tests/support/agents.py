"""Small SAC and CURL agents, batches for them, and which of their weights moved."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from curl.agents.sac import SAC
from curl.augmentations.crop import Crop
from curl.data.batch import Batch, FrameStacks
from curl.learning.contrast import ContrastViews
from curl.objectives.infonce import InfoNCE

ACTIONS, SIZE = 2, 20
MODULES = {"trunk", "actor", "critic", "target_trunk", "target_critic", "objective", "log_alpha"}


def make_agent(seed: int = 0, *, contrastive: bool = True, **settings: Any) -> SAC:
    """A small agent; `seed` sets its weights, its generator starts from 0."""
    torch.manual_seed(seed)
    return SAC(
        **{
            "channels": 9,
            "action_dim": ACTIONS,
            "query": Crop(size=SIZE),
            "key": Crop(size=SIZE),
            "objective": InfoNCE(latent_dim=16) if contrastive else None,
            "generator": torch.Generator().manual_seed(0),
            "hidden_dim": 32,
            "latent_dim": 16,
            **settings,
        }
    )


def make_batch(seed: int = 0, count: int = 12, edge: int = 24) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(256, (20, edge, edge, 3), generator=generator).byte()
    obs, next_obs = torch.randint(20, (2, count, 3), generator=generator)
    return Batch(
        FrameStacks(frames, obs),
        2 * torch.rand(count, ACTIONS, generator=generator) - 1,
        torch.rand(count, 1, generator=generator),
        torch.rand(count, 1, generator=generator) < 0.25,
        FrameStacks(frames, next_obs),
    )


def key_view(agent: SAC, batch: Batch) -> ContrastViews:
    """Another view of the same stacks: mirrored."""
    return ContrastViews(agent.key.evaluate(batch.obs).flip(-1))


def everything(agent: SAC) -> dict[str, Tensor]:
    """Copies of all parameters and averages, by dotted name."""
    named = {"log_alpha": agent.log_alpha}
    for name in MODULES - {"log_alpha"}:
        module = getattr(agent, name)
        if module is not None:
            named |= {f"{name}.{key}": value for key, value in module.state_dict().items()}
    return {name: tensor.detach().clone() for name, tensor in named.items()}


def changed(agent: SAC, before: dict[str, Tensor], depth: int = 1) -> set[str]:
    """The dotted names, cut after `depth` parts, under which something moved."""
    after = everything(agent)
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    return {".".join(name.split(".")[:depth]) for name in moved}
