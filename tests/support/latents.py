"""Random latents for any objective, built from the offsets that it declares."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from curl.objectives.base import Latents, Objective

D, A = 8, 2  # sizes of a latent and of an action


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def masks(offsets: tuple[int, ...], steps: Tensor) -> Tensor:
    """bool [offsets, B]: is the episode, with `steps` [B] observations left, still on?"""
    return torch.tensor(offsets, dtype=torch.int64)[:, None] <= steps


def random_latents(
    objective: Objective, count: int = 16, *, seed: int = 1, steps: Tensor | None = None
) -> Latents:
    """`count` transitions; the queries want a gradient, and all come out of a LayerNorm.

    Args:
        steps: int64 [count], agent steps from the observation to the last of its episode; None for
            episodes that outlast every offset. Actions and rewards past the end are NaN. Of every
            16 episodes that end in time the last 8 are terminated; past the end this is random.
    """
    last = max(*objective.query_offsets, *objective.key_offsets, 1)
    if steps is None:
        steps = torch.full((count,), last + 1)
    action, reward = randn(last, count, A, seed=seed + 2), randn(last, count, 1, seed=seed + 3)
    final = torch.arange(last)[:, None] == steps - 1
    terminated = final & (torch.arange(count) % 16 >= 8)
    ended = ~masks(tuple(range(1, last + 1)), steps)
    query = randn(len(objective.query_offsets), count, D, seed=seed)
    key = randn(len(objective.key_offsets), count, D, seed=seed + 1)
    return Latents(
        query=F.layer_norm(query, [D]).requires_grad_(),
        key=F.layer_norm(key, [D]),
        valid=masks(objective.key_offsets, steps),
        query_valid=masks(objective.query_offsets, steps),
        action=action.masked_fill(ended[..., None], torch.nan),
        reward=reward.masked_fill(ended[..., None], torch.nan),
        terminated=torch.where(ended, randn(last, count, seed=seed + 4) > 0, terminated)[..., None],
    )


def ragged(count: int) -> Tensor:
    """Steps left of `count` transitions: 0, 1, 2, ..., 7, 0, 1, ...: tails and whole windows."""
    return torch.arange(count) % 8
