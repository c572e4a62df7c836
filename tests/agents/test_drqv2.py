"""DrQ-v2: its losses against closed forms, what each step changes, the noise, the objective."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from curl.agents.drqv2 import DrQV2, linear_schedule, noisy_action
from curl.augmentations.crop import Crop
from curl.data.batch import Batch, Metrics
from curl.learning.capture import WARM_UP, Captured
from curl.objectives.base import Objective
from curl.objectives.infonce import InfoNCE
from curl.objectives.temporal import Temporal
from support.replays import filled_replay
from support.tape import Recordings

ACTIONS, SIZE = 2, 20


def make_agent(seed: int = 0, objective: Objective | None = None, **settings: Any) -> DrQV2:
    """A small agent; `seed` sets its weights, its generator starts from 0."""
    torch.manual_seed(seed)
    return DrQV2(
        **{
            "channels": 9,
            "action_dim": ACTIONS,
            "query": Crop(size=SIZE),
            "key": Crop(size=SIZE),
            "objective": objective,
            "generator": torch.Generator().manual_seed(0),
            "hidden_dim": 32,
            "latent_dim": 16,
            **settings,
        }
    )


def make_batch(agent: DrQV2, seed: int = 3, count: int = 12) -> Batch:
    return filled_replay().sample(count, torch.Generator().manual_seed(seed), agent.offsets)


def tensors(agent: DrQV2) -> dict[str, Tensor]:
    """Copies of all parameters and averages, by dotted name."""
    return {
        f"{name}.{key}": value.detach().clone()
        for name, module in agent._modules().items()
        for key, value in module.state_dict().items()
    }


def changed(agent: DrQV2, before: dict[str, Tensor], depth: int = 1) -> set[str]:
    after = tensors(agent)
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    return {".".join(name.split(".")[:depth]) for name in moved}


def features(agent: DrQV2, batch: Batch) -> Tensor:
    return agent._features(agent.query.evaluate(batch.obs))


# -- the noise -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "scale"), [(0, 1.0), (25, 0.775), (50, 0.55), (100, 0.1), (10_000, 0.1)]
)
def test_the_schedule_is_linear_and_then_constant(at: int, scale: float) -> None:
    assert linear_schedule(1.0, 0.1, 100, at) == pytest.approx(scale)


@pytest.mark.parametrize("ratio", [0.5, 1, 2])
def test_the_noise_decays_over_agent_steps_whatever_the_update_ratio(ratio: float) -> None:
    agent = make_agent(updates_per_step=ratio, noise_steps=8)
    for _ in range(int(4 * ratio)):  # the updates of 4 agent steps
        agent.update(make_batch(agent))
    assert agent.noise_scale == pytest.approx(0.55)


def test_noise_is_clipped_and_actions_stay_in_their_bounds() -> None:
    mean = torch.tensor([[0.0, 0.9, -0.9, 0.5]], requires_grad=True)
    noise = torch.tensor([[1.0, 1.0, -0.05, -0.2]])
    clipped = noisy_action(mean, noise, 0.3)
    torch.testing.assert_close(clipped, torch.tensor([[0.3, 1.0, -0.95, 0.3]]))
    assert noisy_action(mean, noise).flatten().tolist() == pytest.approx([1.0, 1.0, -0.95, 0.3])
    (gradient,) = torch.autograd.grad(clipped.sum(), mean)
    assert torch.equal(gradient, torch.ones(1, 4))  # also where the action is at its bound


def test_exploring_actions_have_the_scheduled_deviation() -> None:
    agent = make_agent(noise_start=0.2)
    obs = make_batch(agent, count=4000).obs
    spread = agent.act(obs, deterministic=False) - agent.act(obs, deterministic=True)
    assert spread.std().item() == pytest.approx(0.2, rel=0.05)
    agent.updates = 10**9
    spread = agent.act(obs, deterministic=False) - agent.act(obs, deterministic=True)
    assert spread.std().item() == pytest.approx(0.1, rel=0.05)


# -- losses ----------------------------------------------------------------------------------------


def test_the_target_is_the_return_and_the_smaller_discounted_q() -> None:
    """y = R + Gamma min_i Q'_i(s', pi(s')), here without noise."""
    agent = make_agent()
    batch = make_batch(agent)
    view = agent.query.evaluate(batch.next_obs)
    reward, discount = torch.rand(12, 1), torch.rand(12, 1)
    y = agent.bootstrapped_target(reward, discount, view, torch.zeros(()))
    with torch.no_grad():
        seen = agent.trunk(view)
        action = agent.actor(seen)
        q1, q2 = agent.target_critic(agent.target_critic.projection(seen), action)
    torch.testing.assert_close(y, reward + discount * torch.minimum(q1, q2))
    assert not y.requires_grad and (q1 != q2).all()
    critic = agent.target_critic
    critic.q1, critic.q2 = critic.q2, critic.q1
    swapped = agent.bootstrapped_target(reward, discount, view, torch.zeros(()))
    assert torch.equal(swapped, y)
    over = agent.bootstrapped_target(reward, torch.zeros(12, 1), view, torch.ones(()))
    assert torch.equal(over, reward)


def test_the_target_s_action_has_clipped_noise() -> None:
    agent = make_agent(noise_clip=0.0)
    view = agent.query.evaluate(make_batch(agent).next_obs)
    ones = torch.ones(12, 1)
    still = agent.bootstrapped_target(ones, ones, view, torch.zeros(()))
    assert torch.equal(agent.bootstrapped_target(ones, ones, view, torch.ones(())), still)
    agent.noise_clip = 0.3
    assert not torch.equal(agent.bootstrapped_target(ones, ones, view, torch.ones(())), still)


def test_the_critic_loss_counts_both_critics() -> None:
    agent = make_agent()
    batch = make_batch(agent)
    with torch.no_grad():
        q1, q2 = agent.critic(agent.critic.projection(features(agent, batch)), batch.action)
        expected = (q1 - batch.reward).square().mean() + (q2 - batch.reward).square().mean()
    metrics = agent.update_critic(features(agent, batch), batch.action, batch.reward)
    torch.testing.assert_close(metrics["critic_loss"], expected)
    torch.testing.assert_close(metrics["q_mean"], (q1 + q2).mean() / 2)


def test_the_actor_loss_is_minus_the_smaller_q() -> None:
    agent = make_agent()
    batch = make_batch(agent)
    seen = features(agent, batch).detach()
    with torch.no_grad():
        q = torch.minimum(*agent.critic(agent.critic.projection(seen), agent.actor(seen)))
    no_noise = torch.zeros(())
    loss = agent.update_actor(seen, batch.action, no_noise)["actor_loss"]
    torch.testing.assert_close(loss, -q.mean())
    later = loss
    for _ in range(20):
        later = agent.update_actor(seen, batch.action, no_noise)["actor_loss"]
    assert later < loss


def test_latents_are_bounded_and_pixels_centred() -> None:
    agent = make_agent()
    latent = agent.critic.projection(100 * features(agent, make_batch(agent)))
    assert latent.abs().max() <= 1
    grey = torch.full((1, 9, SIZE, SIZE), 0.5)
    assert agent.trunk(grey).abs().max() < 1e-6  # biases are 0 at first


# -- what each step changes ------------------------------------------------------------------------


def test_the_critic_trains_the_trunk_and_the_actor_does_not() -> None:
    agent = make_agent()
    batch, before = make_batch(agent), tensors(agent)
    agent.update_critic(features(agent, batch), batch.action, batch.reward)
    assert changed(agent, before) == {"trunk", "critic"}
    before = tensors(agent)
    agent.update_actor(features(agent, batch).detach(), batch.action, torch.ones(()))
    assert changed(agent, before) == {"actor"}


def test_averages_move_by_their_own_tau() -> None:
    agent = make_agent(objective=InfoNCE(latent_dim=16), critic_tau=0.25, encoder_tau=0.5)
    batch = make_batch(agent)
    agent.update_critic(features(agent, batch), batch.action, batch.reward)
    before = tensors(agent)
    agent.update_averages()
    after = tensors(agent)
    assert changed(agent, before) == {"target_critic", "key_encoder"}
    encoder = dict(agent.encoder.state_dict())
    for name, value in before.items():
        module, key = name.split(".", 1)
        if module == "target_critic":
            source, tau = before[f"critic.{key}"], 0.25
        elif module == "key_encoder":
            source, tau = encoder[key], 0.5
        else:
            continue
        torch.testing.assert_close(after[name], value + tau * (source - value), msg=name)


def test_without_an_objective_there_is_no_key_encoder() -> None:
    agent = make_agent()
    metrics = agent.update(make_batch(agent))
    assert agent.offsets == (2, 3) and set(agent.optimizers) == {"critic", "actor"}
    assert set(agent._modules()) == {"trunk", "actor", "critic", "target_critic"}
    assert not [name for name in metrics if name.startswith("contrastive")]


def test_an_objective_trains_the_query_encoder_too() -> None:
    agent = make_agent(objective=InfoNCE(latent_dim=16))
    batch = make_batch(agent)
    views = agent.contrast.views(batch, agent.generator, 0)
    assert views is not None
    before = tensors(agent)
    metrics = agent.auxiliary.update(features(agent, batch), views)
    parts = {"trunk.convolutions", "critic.projection", "objective.bilinear"}
    assert changed(agent, before, depth=2) == parts
    assert {"contrastive_loss", "contrastive_accuracy"} <= metrics.keys()
    before = tensors(agent)
    agent.update(batch)
    assert changed(agent, before) == set(agent._modules())


def test_a_shared_key_encoder_is_the_query_encoder() -> None:
    agent = make_agent(objective=InfoNCE(latent_dim=16), shared_key_encoder=True)
    assert agent.auxiliary.key_encoder is agent.encoder and "key_encoder" not in agent._modules()
    agent.update(make_batch(agent))


def test_offsets_are_those_of_the_returns_and_of_the_objective() -> None:
    """The objective's actions reach no farther than its own offsets."""
    objective = Temporal(latent_dim=16, offset=1, hidden_dim=8)
    agent = make_agent(objective=objective, steps=3)
    assert agent.offsets == (1, 2, 3)
    views = agent.contrast.views(make_batch(agent), agent.generator, 0)
    assert views is not None and views.actions is not None and len(views.actions) == 1
    assert make_agent(steps=1).offsets == ()


def test_a_recorded_update_takes_the_noise_of_its_own_step() -> None:
    """A number would be recorded once and repeated for ever."""
    agents = [make_agent(noise_steps=8, updates_per_step=1) for _ in range(2)]
    agents[1]._captured = Captured(
        agents[1].learn, period=1, generator=agents[1].generator, recorder=Recordings
    )
    histories: list[list[Metrics]] = [[], []]
    for agent, history in zip(agents, histories, strict=True):
        for number in range(WARM_UP + 4):
            history.append(agent.update(make_batch(agent, number)))
    assert [m["noise_scale"].item() for m in histories[1]] == pytest.approx(
        [max(1 - 0.9 * step / 8, 0.1) for step in range(WARM_UP + 4)]
    )
    for eager, recorded in zip(*histories, strict=True):
        assert eager.keys() == recorded.keys()
        assert all(torch.equal(eager[name], recorded[name]) for name in eager)


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("discount", 1.1),
        ("steps", 0),
        ("steps", 1.5),
        ("learning_rate", 0.0),
        ("actor_learning_rate", -1e-4),
        ("critic_tau", -0.1),
        ("encoder_tau", 2.0),
        ("noise_start", -1.0),
        ("noise_end", float("nan")),
        ("noise_steps", 0),
        ("noise_clip", -0.1),
        ("updates_per_step", 0),
        ("hidden_dim", 0),
        ("latent_dim", True),
        ("contrastive_weight", 0.0),
        ("contrastive_every", 0),
    ],
)
def test_bad_hyper_parameters_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        make_agent(**{name: value})
