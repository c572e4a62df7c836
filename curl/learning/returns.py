"""n-step returns: what a window of transitions is worth, up to the value it bootstraps from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from curl.data.batch import Batch, FrameStacks


def n_step_return(
    reward: Sequence[Tensor], terminated: Sequence[Tensor], valid: Sequence[Tensor], discount: float
) -> tuple[Tensor, Tensor]:
    """R and Gamma of the target y = R + Gamma V(s'), Sutton and Barto (2018), eq. 7.1.

    The window covers the first k of its n transitions, those that lie within the episode:
    R = sum_{i < k} gamma^i r_i, and s' is what was observed after the last of them. Gamma is
    gamma^k, or 0 where that last transition terminated the episode. An episode that was truncated,
    or whose next transition is not there yet, is bootstrapped.

    Args:
        reward: n times float32 [B, 1], the rewards of consecutive transitions.
        terminated: n times bool [B, 1].
        valid: n times bool [B], whether the transition lies within the episode of the first one.
            Once False, it stays False. What the others hold there does not matter.
        discount: gamma.

    Returns:
        R and Gamma, each float32 [B, 1].
    """
    value, factor = torch.zeros_like(reward[0]), torch.ones_like(reward[0])
    for r, over, inside in zip(reward, terminated, valid, strict=True):
        inside = inside[:, None]
        value = value + torch.where(inside, factor * r, 0)
        factor = torch.where(inside, factor * discount * (~over).float(), factor)
    return value, factor


def n_step(batch: Batch, steps: int, discount: float) -> tuple[Tensor, Tensor, FrameStacks]:
    """`n_step_return` of the transitions that follow each one of a batch, and the stacks s'.

    Args:
        batch: its `future` has the offsets 2 to `steps`.
        steps: n; 1 is the transition alone.

    Returns:
        R [B, 1], Gamma [B, 1], s' as B stacks.
    """
    later = [batch.future[offset] for offset in range(2, steps + 1)]
    first = torch.ones(len(batch.reward), dtype=torch.bool, device=batch.reward.device)
    value, factor = n_step_return(
        [batch.reward, *(each.reward for each in later)],
        [batch.terminated, *(each.terminated for each in later)],
        [first, *(each.valid for each in later)],
        discount,
    )
    # Past the end of an episode, a later stack is the last one of the episode.
    return value, factor, later[-1].obs if later else batch.next_obs
