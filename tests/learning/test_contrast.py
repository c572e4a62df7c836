"""The agent's contrastive half: windows out of the replay buffer, and the paper's ablations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from curl import augmentations
from curl.agents.sac import SAC
from curl.augmentations.base import Augmentation
from curl.data.batch import Batch, FrameStacks, Metrics, join
from curl.learning.capture import WARM_UP, Captured
from curl.objectives.base import Latents, Objective
from support.agents import SIZE, changed, everything, key_view, make_agent, make_batch
from support.replays import EDGE, EPISODES, make_batch_of
from support.tape import Recordings


class Newest(Augmentation):
    """The centre of a stack; counts what it is asked for."""

    size = SIZE

    def __init__(self) -> None:
        self.drawn = 0

    def __call__(self, stacks: FrameStacks, generator: torch.Generator) -> Tensor:
        self.drawn += len(stacks)
        return stacks.centre(SIZE)

    def evaluate(self, stacks: FrameStacks) -> Tensor:
        return stacks.centre(SIZE)


class Noted(Objective):
    """Keeps the latents that it is given; its loss is their distance."""

    def __init__(self, queries: tuple[int, ...], keys: tuple[int, ...], rows: int | None) -> None:
        super().__init__()
        self.query_offsets, self.key_offsets, self.rows = queries, keys, rows

    def forward(self, latents: Latents) -> tuple[Tensor, Metrics]:
        self.latents = latents
        key = latents.key[-1] if self.key_offsets else 0
        return (latents.query[0] - key).square().sum(), {}


def episode_of(number: int) -> int:
    return int(np.searchsorted(np.cumsum([steps + 1 for steps in EPISODES]), number, "right"))


def noting_agent(
    queries: tuple[int, ...] = (0,), keys: tuple[int, ...] = (0,), rows: int | None = None, **s: Any
) -> SAC:
    views = {"query": Newest(), "key": Newest()}
    return make_agent(objective=Noted(queries, keys, rows), **views, **s)


def latents_of(agent: SAC) -> Latents:
    assert isinstance(agent.objective, Noted)
    return agent.objective.latents


def test_windows_hold_what_was_observed_then() -> None:
    """Each latent is that of the frame at its offset; keys past the episode's end are not valid."""
    agent = noting_agent(queries=(0, 1, 2), keys=(1, 2, 3), rows=10)
    agent.update(make_batch_of(agent, 16))  # filters see more than the centre from here on
    batch = make_batch_of(agent, 16)
    assert agent.offsets == (1, 2, 3) and tuple(batch.future) == agent.offsets
    views = agent.contrast.views(batch, agent.generator, 0)
    assert views is not None
    latents = agent.contrast.latents(
        agent.encoder, agent.key_encoder, agent.trunk(batch.obs.centre(SIZE)), views
    )
    assert latents.query.shape == latents.key.shape == (3, 10, 16)
    newest = batch.obs.centre(SIZE)[:10, -1, 0, 0].tolist()
    for row, number in enumerate(newest):
        for offset in (0, 1, 2, 3):
            there = episode_of(number + offset) == episode_of(number) and number + offset < 28
            if offset:
                assert latents.valid[offset - 1, row] == there
            if there and offset < 3:
                expected = encode(agent.encoder, number + offset)
                torch.testing.assert_close(latents.query[offset, row], expected)
                done = torch.tensor([number + offset + 1, -number - offset - 1]) / 100
                if offset == 0 or latents.valid[offset, row]:
                    torch.testing.assert_close(latents.action[offset, row], done)
            if there and offset:
                expected = encode(agent.key_encoder, number + offset)
                torch.testing.assert_close(latents.key[offset - 1, row], expected)
    assert latents.query.requires_grad and not latents.key.requires_grad


def test_rewards_and_ends_are_those_of_the_actions() -> None:
    """Row n of each belongs to the action that led to frame number + n + 1, within the episode."""
    agent = noting_agent(queries=(0, 2, 3), keys=(0, 1, 3), rows=10)
    agent.update(batch := make_batch_of(agent, 16))
    latents = latents_of(agent)
    assert latents.action.shape == (3, 10, 2)
    assert latents.reward.shape == latents.terminated.shape == (3, 10, 1)
    assert latents.reward.dtype == torch.float32 and latents.terminated.dtype == torch.bool
    last = [sum(EPISODES[: e + 1]) + e for e in range(len(EPISODES))]  # frame of each episode
    ended = 0
    for row, number in enumerate(batch.obs.centre(SIZE)[:10, -1, 0, 0].tolist()):
        end = last[episode_of(number)]
        for n in range(3):
            if number + n + 1 <= end:
                assert latents.reward[n, row] == number + n + 1
                over = number + n + 1 == end != last[-1]
                assert latents.terminated[n, row] == over
                ended += over
        for offsets, valid in (((0, 2, 3), latents.query_valid), ((0, 1, 3), latents.valid)):
            assert valid[:, row].tolist() == [number + offset <= end for offset in offsets]
    assert ended


@pytest.mark.parametrize("shared", [False, True])
def test_an_objective_without_keys_draws_no_key_view(shared: bool) -> None:
    """Nothing passes the key encoder; the latents of the queries are there, and their masks."""
    agent = noting_agent(queries=(0, 1), keys=(), rows=5, shared_key_encoder=shared)
    passes: list[int] = []
    agent.target_trunk.register_forward_hook(lambda _, args, __: passes.append(len(args[0])))
    agent.update(make_batch_of(agent, 16))
    latents = latents_of(agent)
    assert passes == [16]  # the critic's target
    assert agent.key.drawn == 0 and agent.query.drawn == 32 + 5
    assert latents.query.shape == (2, 5, 16) and latents.key.shape == (0, 5, 16)
    assert latents.valid.shape == (0, 5) and latents.valid.dtype == torch.bool
    assert latents.query_valid.all() and latents.query_valid.shape == (2, 5)
    assert latents.action.shape == (1, 5, 2)


def encode(encoder: nn.ModuleList, number: int) -> Tensor:
    """The latent of the stack that ends at frame `number`."""
    start = sum(steps + 1 for steps in EPISODES[: episode_of(number)])
    frames = [max(number - back, start) for back in (2, 1, 0)]
    pixels = torch.tensor(frames, dtype=torch.uint8).repeat_interleave(3)
    return encoder[1](encoder[0](pixels.view(1, 9, 1, 1).expand(1, 9, SIZE, SIZE)))[0].detach()


def test_stacks_of_several_stores_are_joined() -> None:
    batch, frames = make_batch(), torch.randint(256, (5, EDGE, EDGE, 3)).byte()
    other = FrameStacks(frames, torch.tensor([[0, 4, 2]]))
    wanted = torch.cat([batch.obs.whole(), other.whole(), batch.next_obs.whole()])
    assert torch.equal(join([batch.obs, other, batch.next_obs]).whole(), wanted)
    assert join([batch.obs, batch.next_obs]).frames is batch.obs.frames


@pytest.mark.parametrize("clean", [False, True])
def test_sac_sees_a_pair_of_views(clean: bool) -> None:
    """`translate` puts both observations at one place; a clean critic sees evaluation views."""
    seen: list[Tensor] = []
    view = augmentations.make("translate", size=EDGE + 8)
    agent = make_agent(query=view, key=view, contrastive=False, clean_critic=clean)
    agent._captured = Captured(
        lambda *views: seen.extend(views) or {}, period=1, generator=agent.generator, eager=True
    )
    batch = make_batch(count=40)
    agent.update(replace(batch, next_obs=batch.obs))
    obs, next_obs = seen[0], seen[4]
    middle = view.evaluate(batch.obs)
    assert torch.equal(obs, next_obs) and torch.equal(obs, middle) is clean


def test_the_critics_view_is_not_drawn_again() -> None:
    """Two views for SAC, one key; the window's other queries come on top, for `rows` rows."""
    agent = noting_agent()
    agent.update(make_batch_of(agent, 16))
    assert (agent.query.drawn, agent.key.drawn) == (32, 16)
    agent = noting_agent(queries=(0, 1), keys=(1,), rows=5)
    agent.update(make_batch_of(agent, 16))
    assert (agent.query.drawn, agent.key.drawn) == (32 + 5, 5)


def test_a_shared_key_encoder_is_the_query_encoder() -> None:
    agent = noting_agent(shared_key_encoder=True)
    agent.update(make_batch_of(agent, 16))
    latents = latents_of(agent)
    assert torch.equal(latents.query, latents.key) and not latents.key.requires_grad
    agent = noting_agent(critic_tau=0.0, encoder_tau=0.0)
    agent.update(make_batch_of(agent, 16))
    assert not torch.equal(latents_of(agent).query, latents_of(agent).key)


@pytest.mark.parametrize("joint", [False, True])
def test_with_a_detached_encoder_the_contrast_alone_trains_convolutions(joint: bool) -> None:
    agent, batch = make_agent(detach_encoder=True, joint=joint), make_batch()
    features = agent.trunk(agent.query.evaluate(batch.obs))
    loss, _ = agent.critic_loss(features, batch.action, batch.reward)
    assert torch.autograd.grad(loss, [*agent.trunk.parameters()], allow_unused=True)[0] is None
    before = everything(agent)
    agent.update(batch)
    assert {"trunk", "critic"} <= changed(agent, before)
    alone = make_agent(detach_encoder=True, contrastive=False)
    before = everything(alone)
    alone.update(batch)
    assert "trunk" not in changed(alone, before) and "critic" in changed(alone, before)


def test_first_frame_only_hides_motion_from_the_contrast() -> None:
    def latents(second: int, **settings: Any) -> Tensor:
        agent, batch = noting_agent(**settings), make_batch()
        rows = torch.tensor([[0, second, second]] * 12)
        agent.update(Batch(FrameStacks(batch.obs.frames, rows), *list(vars(batch).values())[1:]))
        seen = latents_of(agent)
        assert seen.query.shape == (1, 12, 16)
        return seen.key

    # the first update's averages have not seen the batch, so keys differ by their pixels alone
    still = {"first_frame_only": True, "encoder_tau": 0.0}
    assert torch.equal(latents(1, **still), latents(2, **still))
    assert not torch.equal(latents(1, encoder_tau=0.0), latents(2, encoder_tau=0.0))


def test_a_clean_critic_sees_the_evaluation_view() -> None:
    """Two generators give the same critic step, but other contrastive views."""
    losses = []
    for seed in (1, 2):
        agent = make_agent(clean_critic=True, generator=torch.Generator().manual_seed(seed))
        agent.bootstrapped_target = lambda reward, *_: reward  # without policy noise
        losses.append(agent.update(make_batch()))
    assert losses[0]["critic_loss"] == losses[1]["critic_loss"]
    assert losses[0]["contrastive_loss"] != losses[1]["contrastive_loss"]


def test_contrastive_steps_come_every_so_often_also_out_of_a_recording() -> None:
    def run(agent: SAC) -> list[bool]:
        names = [agent.update(make_batch(number)).keys() for number in range(6 * WARM_UP + 6)]
        return ["contrastive_loss" in keys for keys in names]

    eager, captured = make_agent(contrastive_every=3), make_agent(contrastive_every=3)
    captured._captured = Captured(
        captured.learn,
        period=6,
        generator=captured.generator,
        recorder=Recordings,
    )
    wanted = [number % 3 == 0 for number in range(6 * WARM_UP + 6)]
    assert run(eager) == run(captured) == wanted
    assert changed(captured, everything(eager)) == set()


def test_the_weight_scales_the_gradient_and_not_the_reported_loss() -> None:
    batch, gradients, losses = make_batch(), [], []
    for weight in (1.0, 0.25):
        agent = make_agent(contrastive_weight=weight)
        features = agent.trunk(agent.query.evaluate(batch.obs))
        loss, metrics = agent.contrastive_loss(features, key_view(agent, batch))
        gradients.append(torch.autograd.grad(loss, agent.trunk.convolutions[0].weight)[0])
        losses.append(metrics["contrastive_loss"])
    torch.testing.assert_close(0.25 * gradients[0], gradients[1])
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"contrastive_weight": 0.0}, "contrastive_weight"),
        ({"contrastive_every": 0}, "contrastive_every"),
        ({"joint": True, "second_encoder_step": True}, "joint=true needs"),
        ({"joint": True, "contrastive_every": 2}, "joint=true needs"),
        ({"key": type("Small", (Newest,), {"size": 16})()}, "20 and 16 pixels"),
    ],
    ids=str,
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_agent(**settings)
