"""Behaviour cloning: its loss, what it trains, and a known policy that it recovers from pixels."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from curl.agents.bc import BC
from curl.augmentations.none import NoAugmentation
from curl.data.batch import FrameStacks
from curl.data.replay import ReplayBuffer
from curl.objectives.infonce import InfoNCE
from support.agents import make_batch

SIZE = 24


def make_agent(*, contrastive: bool = False, channels: int = 9, **settings: Any) -> BC:
    torch.manual_seed(settings.pop("seed", 0))
    return BC(
        **{
            "channels": channels,
            "action_dim": 2,
            "query": NoAugmentation(size=SIZE),
            "key": NoAugmentation(size=SIZE),
            "objective": InfoNCE(latent_dim=8) if contrastive else None,
            "generator": torch.Generator().manual_seed(0),
            "filters": 8,
            "hidden_dim": 32,
            "latent_dim": 8,
            **settings,
        }
    )


def moved(agent: BC, **settings: Any) -> set[str]:
    """The parts that one update moves."""
    parts = {"trunk": agent.trunk, "projection": agent.actor.projection}
    parts |= {"policy": agent.actor.policy, "key_encoder": agent.auxiliary.key_encoder}
    before = {name: [p.clone() for p in part.parameters()] for name, part in parts.items()}
    agent.update(make_batch(edge=SIZE))
    after = {name: [*part.parameters()] for name, part in parts.items()}
    return {n for n in parts if any(map(lambda a, b: not a.equal(b), before[n], after[n]))}


def test_the_loss_is_the_mean_squared_error_of_the_action() -> None:
    agent, batch = make_agent(), make_batch(edge=SIZE)
    action = agent.act(batch.obs, deterministic=True)
    by_hand = ((action - batch.action) ** 2).sum() / action.numel()
    assert agent.update(batch)["actor_loss"] == pytest.approx(by_hand.item(), rel=1e-5)


def test_acting_adds_no_noise() -> None:
    agent, obs = make_agent(), make_batch(edge=SIZE).obs
    assert agent.act(obs, deterministic=False).equal(agent.act(obs, deterministic=True))


def test_rewards_are_never_read() -> None:
    one, other, batch = make_agent(), make_agent(), make_batch(edge=SIZE)
    one.update(batch)
    batch.reward.fill_(float("nan"))
    other.update(batch)
    for p, q in zip(one.actor.parameters(), other.actor.parameters(), strict=True):
        assert p.equal(q)


def test_cloning_trains_everything() -> None:
    assert moved(make_agent()) == {"trunk", "projection", "policy", "key_encoder"}


def test_a_detached_encoder_is_trained_by_the_objective_alone() -> None:
    """It moves as without the cloned policy: the data's actions make no difference."""
    one, other = (make_agent(contrastive=True, detach_encoder=True) for _ in range(2))
    batch = make_batch(edge=SIZE)
    everything = {"trunk", "projection", "policy", "key_encoder"}
    assert moved(make_agent(contrastive=True, detach_encoder=True)) == everything
    one.update(batch)
    batch.action.neg_()
    other.update(batch)
    for p, q in zip(one.encoder.parameters(), other.encoder.parameters(), strict=True):
        assert p.equal(q)
    changed = zip(one.actor.policy.parameters(), other.actor.policy.parameters(), strict=True)
    assert not all(p.equal(q) for p, q in changed)


def test_an_encoder_that_nothing_trains_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^detach_encoder=true leaves the encoder to"):
        make_agent(detach_encoder=True)


def test_on_a_frozen_trunk_cloning_trains_the_projection() -> None:
    agent = make_agent(detach_encoder=True, frozen=True)
    assert moved(agent) == {"projection", "policy", "key_encoder"}


def test_the_key_encoder_is_an_average_or_the_query_encoder_itself() -> None:
    averaged = make_agent(contrastive=True, encoder_tau=0.25)
    key = [p.clone() for p in averaged.auxiliary.key_encoder.parameters()]
    averaged.update(make_batch(edge=SIZE))
    pairs = zip(
        key, averaged.encoder.parameters(), averaged.auxiliary.key_encoder.parameters(), strict=True
    )
    for before, query, after in pairs:
        torch.testing.assert_close(after, 0.75 * before + 0.25 * query)
    shared = make_agent(contrastive=True, shared_key_encoder=True)
    assert shared.auxiliary.key_encoder is shared.encoder


# -- a known policy ------------------------------------------------------------------------------


def frame(position: int, level: int) -> np.ndarray:
    """A bar of 4 columns on black."""
    pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
    pixels[:, position : position + 4] = level
    return pixels


def linear_action(position: int, level: int) -> np.ndarray:
    """Linear in both."""
    x, y = position / 10 - 1, level / 127.5 - 1  # each in [-1, 1]
    return np.array([0.8 * x, 0.5 * y - 0.3 * x])


def test_a_linear_policy_is_recovered_from_pixels() -> None:
    """On bars that are not in the data: the mean error of seeds 0 to 7 is at most 0.031."""
    rng = np.random.default_rng(0)
    bars = list(zip(rng.integers(21, size=380), rng.integers(60, 256, size=380), strict=True))
    held_out = [bar for bar in bars if sum(bar) % 4 == 0]
    known = [bar for bar in bars if sum(bar) % 4]
    replay = ReplayBuffer(capacity=400, frame_size=SIZE, action_dim=2, frame_stack=1)
    replay.begin(frame(*known[0]))
    for bar, following in pairwise(known):
        replay.add(linear_action(*bar), 0.0, False, frame(*following))
    agent = make_agent(channels=3, learning_rate=1e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(400):
        agent.update(replay.sample(32, generator))

    frames = torch.as_tensor(np.stack([frame(*bar) for bar in held_out]))
    stacks = FrameStacks(frames, torch.arange(len(frames))[:, None])
    wanted = torch.as_tensor(np.stack([linear_action(*bar) for bar in held_out]))
    error = (agent.act(stacks, deterministic=True) - wanted).abs()
    assert len(held_out) > 60 and wanted.abs().mean() > 0.3
    assert error.mean() < 0.06
