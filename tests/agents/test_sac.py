"""SAC and CURL: what each step changes, targets, saving, refusals, precision, randomness."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from curl.agents.sac import SAC, step
from curl.augmentations.crop import Crop
from curl.data.batch import Batch, Metrics
from support.agents import ACTIONS, MODULES, changed, everything, key_view, make_agent, make_batch


def features(agent: SAC, batch: Batch) -> Tensor:
    """The trunk's features of the centre crops, with gradient."""
    return agent.trunk(agent.query.evaluate(batch.obs))


def critic_step(agent: SAC, batch: Batch) -> Metrics:
    return agent.update_critic(features(agent, batch), batch.action, batch.reward)


def actor_step(agent: SAC, batch: Batch) -> Metrics:
    return agent.update_actor_and_alpha(features(agent, batch).detach())


def contrastive_step(agent: SAC, batch: Batch) -> Metrics:
    return agent.update_contrast(features(agent, batch), key_view(agent, batch))


# -- what each step changes ------------------------------------------------------------------------


def test_critic_step_trains_trunk_and_critic() -> None:
    agent = make_agent()
    before = everything(agent)
    critic_step(agent, make_batch())
    parts = {"trunk.convolutions", "critic.projection", "critic.q1", "critic.q2"}
    assert changed(agent, before, depth=2) == parts


def test_actor_step_trains_actor_and_temperature_alone() -> None:
    agent = make_agent()
    before = everything(agent)
    actor_step(agent, make_batch())
    assert changed(agent, before) == {"actor", "log_alpha"}


def test_contrastive_step_trains_encoder_and_w_alone() -> None:
    agent = make_agent()
    before = everything(agent)
    contrastive_step(agent, make_batch())
    parts = {"trunk.convolutions", "critic.projection", "objective.bilinear"}
    assert changed(agent, before, depth=2) == parts


def test_targets_move_by_their_own_tau() -> None:
    """Q1 and Q2 by critic_tau; trunk and projection, the key encoder, by encoder_tau."""
    agent = make_agent(critic_tau=0.25, encoder_tau=0.5)
    critic_step(agent, make_batch())
    before = everything(agent)
    agent.update_targets()
    after = everything(agent)
    for name in (name for name in before if name.startswith("target_")):
        source = before[name.removeprefix("target_")]
        tau = 0.25 if ".q" in name else 0.5
        torch.testing.assert_close(after[name], before[name] + tau * (source - before[name]))
    assert {name.split(".")[0] for name in changed(agent, before)} == {
        "target_trunk",
        "target_critic",
    }


def test_actor_and_targets_take_every_second_update() -> None:
    """On updates 0, 2, ..., as in the reference."""
    agent = make_agent()
    for number in range(4):
        before = everything(agent)
        metrics = agent.update(make_batch(number))
        slow = {"actor", "log_alpha", "target_trunk", "target_critic"}
        expected = MODULES if number % 2 == 0 else MODULES - slow
        # after update 0's critic step the averages differ from their sources, so they move
        assert changed(agent, before) == expected
        assert ("actor_loss" in metrics) == (number % 2 == 0)


def test_without_an_objective_there_is_no_contrastive_step() -> None:
    agent = make_agent(contrastive=False)
    metrics: Metrics = {}
    for number in range(2):
        metrics |= agent.update(make_batch(number))
    assert set(agent.optimizers) == {"critic", "actor", "alpha"}
    assert not [name for name in metrics if name.startswith("contrastive")]
    assert all(value.isfinite() for value in metrics.values())


def test_reference_preset_steps_twice_on_the_encoder_and_once_on_w() -> None:
    """Two Adams of lr 1e-3 move a weight twice as far on their first step."""
    moved = []
    for agent in (make_agent(), make_agent(second_encoder_step=True)):
        before = everything(agent)
        contrastive_step(agent, make_batch())
        after = everything(agent)
        moved.append({name: after[name] - before[name] for name in before})
    for name in ("trunk.convolutions.0.weight", "critic.projection.linear.weight"):
        torch.testing.assert_close(2 * moved[0][name], moved[1][name], atol=1e-6, rtol=1e-3)
    assert torch.equal(moved[0]["objective.bilinear"], moved[1]["objective.bilinear"])


def test_joint_gradient_is_the_sum_of_the_two() -> None:
    """One backward pass and one step on critic loss plus contrastive loss."""
    batch, gradients = make_batch(), []
    for take in (critic_step, contrastive_step):
        agent = make_agent()
        take(agent, batch)
        gradients.append(agent.trunk.convolutions[0].weight.grad)
    joint = make_agent(joint=True)
    metrics = joint.update_critic_and_contrast(
        features(joint, batch), batch.action, batch.reward, key_view(joint, batch)
    )
    torch.testing.assert_close(joint.trunk.convolutions[0].weight.grad, sum(gradients))
    assert set(joint.optimizers) == {"critic", "actor", "alpha"}
    assert {"critic_loss", "contrastive_loss", "contrastive_accuracy"} <= metrics.keys()
    before = everything(joint)
    joint.update(batch)
    assert changed(joint, before) == MODULES


# -- losses ---------------------------------------------------------------------------------------


def test_a_terminated_transition_is_worth_its_reward() -> None:
    batch, agent = make_batch(), make_agent()
    next_obs = agent.query.evaluate(batch.next_obs)
    y = agent.bootstrapped_target(batch.reward, batch.terminated, next_obs)
    assert y.shape == (12, 1) and 0 < batch.terminated.sum() < 12
    assert torch.equal(y == batch.reward, batch.terminated)
    y = make_agent(discount=0.0).bootstrapped_target(batch.reward, batch.terminated, next_obs)
    assert torch.equal(y, batch.reward)


def test_critic_loss_and_q_mean_count_both_critics() -> None:
    batch, agent = make_batch(), make_agent()
    with torch.no_grad():
        latent = agent.critic.projection(features(agent, batch))
        q1, q2 = agent.critic(latent, batch.action)
        expected = (q1 - batch.reward).square().mean() + (q2 - batch.reward).square().mean()
        mean = (q1 + q2).mean() / 2
    assert abs(q1.mean() - q2.mean()) > 1e-3  # the two differ
    metrics = critic_step(agent, batch)
    torch.testing.assert_close(metrics["critic_loss"], expected)
    torch.testing.assert_close(metrics["q_mean"], mean)


def test_target_entropy_is_minus_the_number_of_actions() -> None:
    """Alpha's loss is alpha (H - (-|A|)), and its step closes the gap."""
    agent = make_agent()
    assert agent.target_entropy == -ACTIONS
    before = agent.log_alpha.item()
    metrics = actor_step(agent, make_batch())
    assert metrics["alpha"].item() == pytest.approx(0.1)
    excess = metrics["entropy"].item() + ACTIONS
    assert metrics["alpha_loss"].item() == pytest.approx(0.1 * excess, rel=1e-4)
    assert math.copysign(1, agent.log_alpha.item() - before) == -math.copysign(1, excess)


@torch.no_grad()
def value_of_mean_actions(agent: SAC, batch: Batch) -> float:
    action = agent.act(batch.obs, deterministic=True)
    latent = agent.critic.projection(features(agent, batch))
    return torch.minimum(*agent.critic(latent, action)).mean().item()


def test_actor_climbs_q_when_temperature_is_negligible() -> None:
    agent, batch = make_agent(initial_temperature=1e-6), make_batch()
    before = value_of_mean_actions(agent, batch)
    for _ in range(20):
        actor_step(agent, batch)
    assert value_of_mean_actions(agent, batch) > before


def test_actor_gains_entropy_when_temperature_is_high() -> None:
    agent, batch = make_agent(initial_temperature=100.0), make_batch()
    entropies = [actor_step(agent, batch)["entropy"].item() for _ in range(60)]
    assert sum(entropies[-10:]) > sum(entropies[:10])


# -- gradient norms -------------------------------------------------------------------------------


def test_step_returns_the_norm_of_the_gradient_it_took() -> None:
    """d/dp (p . (3, 4)) is (3, 4): norm 5, whatever the point; a shared parameter counts once."""
    shared = nn.Parameter(torch.zeros(2))
    optimizers = [torch.optim.SGD([shared], lr=0.1), torch.optim.SGD([shared], lr=1.0)]
    norm = step((shared * torch.tensor([3.0, 4.0])).sum(), *optimizers)
    assert norm.item() == pytest.approx(5)
    torch.testing.assert_close(shared.data, -1.1 * torch.tensor([3.0, 4.0]))


def test_gradient_norms_are_those_of_the_stepped_parameters() -> None:
    agent, batch = make_agent(), make_batch()
    assert_norm(critic_step(agent, batch)["critic_grad_norm"], agent, "critic")
    assert_norm(actor_step(agent, batch)["actor_grad_norm"], agent, "actor")
    assert_norm(contrastive_step(agent, batch)["contrastive_grad_norm"], agent, "contrast")


def assert_norm(norm: Tensor, agent: SAC, optimizer: str) -> None:
    parameters = agent.optimizers[optimizer].param_groups[0]["params"]
    squares = sum(p.grad.square().sum() for p in parameters)
    assert squares > 0
    torch.testing.assert_close(norm, squares.sqrt())


# -- acting ----------------------------------------------------------------------------------------


def test_actions_are_bounded_and_deterministic_ones_repeat() -> None:
    agent, obs = make_agent(), make_batch().obs
    before = agent.generator.get_state()
    action = agent.act(obs, deterministic=True)
    assert action.shape == (12, ACTIONS) and action.dtype == torch.float32
    assert action.abs().max() <= 1 and not action.requires_grad
    assert torch.equal(agent.act(obs, deterministic=True), action)
    assert torch.equal(agent.generator.get_state(), before)
    samples = [agent.act(obs, deterministic=False) for _ in range(2)]
    assert not torch.equal(*samples)


def test_acting_sees_the_centre_crop() -> None:
    """The border of 2 pixels that the crop leaves out changes no action.

    Delta-orthogonal filters see few pixels; after an update they see all.
    """
    agent, obs = make_agent(), make_batch().obs
    agent.update(make_batch())
    action = agent.act(obs, deterministic=True)
    obs.frames[:, :2], obs.frames[:, :, -2:] = 0, 255
    assert torch.equal(agent.act(obs, deterministic=True), action)
    obs.frames[:, 3], obs.frames[:, :, 3] = 0, 255
    assert not torch.equal(agent.act(obs, deterministic=True), action)


# -- saving ----------------------------------------------------------------------------------------

KINDS: list[dict[str, Any]] = [
    {},
    {"contrastive": False},
    {"second_encoder_step": True},
    {"joint": True},
    {"precision": torch.bfloat16},
]


def through_disk(state: dict[str, Any]) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("settings", KINDS, ids=str)
def test_a_loaded_agent_goes_on_bit_for_bit(settings: dict[str, Any]) -> None:
    """Saved after an odd number of updates, so that the every-second-update phase counts too."""
    agent, other = make_agent(seed=0, **settings), make_agent(seed=1, **settings)
    for number in range(3):
        agent.update(make_batch(number))
    other.load(through_disk(agent.state()))
    other.generator.set_state(agent.generator.get_state())
    assert changed(other, everything(agent)) == set()
    for number in range(3, 6):
        metrics = [one.update(make_batch(number)) for one in (agent, other)]
        assert metrics[0] == metrics[1]
    assert changed(other, everything(agent)) == set()


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden_dim": 33},
        {"action_dim": 3},
        {"query": Crop(size=22), "key": Crop(size=22)},
        {"contrastive": False},
        {"second_encoder_step": True},
        {"joint": True},
    ],
    ids=["hidden_dim", "action_dim", "size", "objective", "second_encoder_step", "joint"],
)
def test_the_state_of_another_agent_is_refused(settings: dict[str, Any]) -> None:
    state = through_disk(make_agent().state())
    with pytest.raises(ValueError):
        make_agent(**settings).load(state)


def test_a_state_with_an_objective_is_wanted_by_an_agent_with_one() -> None:
    state = through_disk(make_agent(contrastive=False).state())
    with pytest.raises(ValueError, match="objective"):
        make_agent().load(state)


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("discount", -0.1),
        ("discount", 1.1),
        ("discount", math.nan),
        ("discount", "0.99"),
        ("critic_tau", -0.1),
        ("critic_tau", 1.5),
        ("encoder_tau", math.inf),
        ("encoder_tau", None),
        ("learning_rate", 0.0),
        ("learning_rate", -1e-3),
        ("alpha_learning_rate", 0),
        ("alpha_beta1", 1.0),
        ("alpha_beta1", -0.5),
        ("initial_temperature", 0.0),
        ("actor_update_every", 0),
        ("actor_update_every", 1.5),
        ("target_update_every", 0),
        ("hidden_dim", 0),
        ("latent_dim", True),
        ("action_dim", 0),
    ],
)
def test_bad_hyper_parameters_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match="beta" if "beta" in name else name):
        make_agent(**{name: value})


# -- precision and randomness ----------------------------------------------------------------------


def test_bfloat16_gives_nearly_the_metrics_of_float32() -> None:
    """First update, same weights, views and noise: bfloat16 keeps about 3 digits."""
    metrics = [
        make_agent(precision=precision).update(make_batch())
        for precision in (torch.float32, torch.bfloat16)
    ]
    assert metrics[0].keys() == metrics[1].keys()
    for name, exact in metrics[0].items():
        rounded = metrics[1][name]
        assert rounded.dtype == torch.float32, name
        torch.testing.assert_close(rounded, exact, rtol=0.1, atol=0.05, msg=name)
    assert metrics[0]["critic_loss"] != metrics[1]["critic_loss"]


def test_updates_draw_from_the_given_generator_alone() -> None:
    agent, before = make_agent(), torch.get_rng_state()
    first = [agent.update(make_batch(number)) for number in range(2)]
    agent.act(make_batch().obs, deterministic=False)
    assert torch.equal(torch.get_rng_state(), before)
    again = make_agent()
    torch.rand(5)
    assert [again.update(make_batch(number)) for number in range(2)] == first
    other = make_agent(generator=torch.Generator().manual_seed(1))
    assert other.update(make_batch())["critic_loss"] != first[0]["critic_loss"]


def test_metrics_are_detached_scalars() -> None:
    for name, value in make_agent().update(make_batch()).items():
        assert value.shape == () and not value.requires_grad, name
