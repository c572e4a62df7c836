"""Implicit Q-learning: its losses in closed form, and what each step changes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from curl.agents.iql import (
    IQL,
    MAX_WEIGHT,
    advantage_weight,
    expectile_loss,
    gaussian_log_likelihood,
)
from curl.data.batch import stack_of
from support.fixed_data import bandit, bandit_frame, learn, make


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)[:, None]


def make_agent(**settings: Any) -> IQL:
    agent = make(IQL, **settings)
    assert isinstance(agent, IQL)
    return agent


# -- losses ----------------------------------------------------------------------------------------


def test_the_expectile_loss_by_hand() -> None:
    """0.7 * 2^2 where the target is above, 0.3 * 1^2 where it is below."""
    assert expectile_loss(tensor(2, -1), 0.7).item() == pytest.approx((2.8 + 0.3) / 2)
    half = expectile_loss(tensor(2, -1, 0.5), 0.5).item()
    assert half == pytest.approx(0.5 * (4 + 1 + 0.25) / 3)


@pytest.mark.parametrize("expectile", [0.5, 0.7, 0.9])
def test_its_minimum_is_the_expectile(expectile: float) -> None:
    """Of 0 and 1 with equal weights, the expectile tau is tau itself."""
    v = torch.tensor(0.0, requires_grad=True)
    for _ in range(200):
        (slope,) = torch.autograd.grad(expectile_loss(tensor(0, 1) - v, expectile), v)
        v = (v - slope).detach().requires_grad_()
    assert v.item() == pytest.approx(expectile, abs=1e-4)


def test_weights_are_exponential_and_limited() -> None:
    weight = advantage_weight(tensor(0, 1, -1, 2, 1e6, -1e6), 3.0)
    expected = tensor(1, math.exp(3), math.exp(-3), MAX_WEIGHT, MAX_WEIGHT, 0)
    torch.testing.assert_close(weight, expected)
    assert math.exp(6) > MAX_WEIGHT == 100


def test_the_log_likelihood_is_that_of_a_gaussian() -> None:
    generator = torch.Generator().manual_seed(0)
    action, mean = torch.rand(2, 5, 3, generator=generator)
    std = torch.tensor([0.1, 1.0, 2.0])
    expected = Normal(mean, std).log_prob(action).sum(1, keepdim=True)
    torch.testing.assert_close(gaussian_log_likelihood(action, mean, std), expected)


def test_the_policy_s_loss_is_weighted_by_the_advantage_after_the_value_s_step() -> None:
    agent, seen, action = make_agent(beta=2.0), *features_and_actions()
    q = torch.linspace(-1, 1, len(action))[:, None]
    with torch.no_grad():
        weight = (2 * (q - agent.value(seen))).exp()
        log_pi = Normal(agent.actor(seen), 1.0).log_prob(action)
    metrics = agent.update_policy(seen, action, q)
    torch.testing.assert_close(metrics["actor_loss"], -(weight * log_pi).mean())
    torch.testing.assert_close(metrics["advantage_weight"], weight.mean())
    assert metrics["policy_std"] == 1  # at first


def test_the_value_learns_from_the_smaller_q_of_the_target_critic() -> None:
    agent, seen, action = make_agent(), *features_and_actions()
    with torch.no_grad():
        latent = agent.target_critic.projection(seen)
        smaller = torch.minimum(*agent.target_critic(latent, action))
        expected = expectile_loss(smaller - agent.value(seen), 0.7)
        for weights in agent.critic.parameters():
            weights.zero_()  # the critic itself is not asked
    q = agent.q_of_data(seen, action)
    assert torch.equal(q, smaller) and not q.requires_grad
    torch.testing.assert_close(agent.update_value(seen, q)["value_loss"], expected)


def test_the_critic_bootstraps_from_the_value() -> None:
    agent, obs = make_agent(discount=0.5), views()
    reward, over = tensor(1, 2), torch.tensor([[False], [True]])
    with torch.no_grad():
        v = agent.value(agent.trunk(obs))
    y = agent.bootstrapped_target(reward, over, obs)
    torch.testing.assert_close(y, tensor(1 + 0.5 * v[0].item(), 2))


def views() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (2, 3, 20, 20), generator=generator).byte()


def features_and_actions() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    features = make_agent().trunk.features
    seen = torch.rand(6, features, generator=generator)
    return seen, 2 * torch.rand(6, 1, generator=generator) - 1


# -- steps and acting ------------------------------------------------------------------------------


def moved(agent: IQL, step: Any) -> set[str]:
    before = {
        f"{part}.{name}": weights.clone()
        for part, module in agent._modules().items()
        for name, weights in module.state_dict().items()
    }
    step()
    after = agent._modules()
    return {
        key.split(".")[0]
        for key, weights in before.items()
        if not weights.equal(after[key.split(".")[0]].state_dict()[key.split(".", 1)[1]])
    }


def test_each_step_trains_its_own_networks() -> None:
    agent, (_, action) = make_agent(), features_and_actions()
    seen, action = agent.trunk(views()), action[:2]
    q = agent.q_of_data(seen, action)
    assert moved(agent, lambda: agent.update_value(seen.detach(), q)) == {"value"}
    assert moved(agent, lambda: agent.update_policy(seen.detach(), action, q)) == {"actor"}
    assert moved(agent, lambda: agent.update_critic(seen, action, q)) == {"trunk", "critic"}
    assert moved(agent, agent.update_averages) == {"target_critic"}


def test_no_action_but_those_of_the_data_is_evaluated() -> None:
    """The policy makes no difference to what value and critic learn."""
    data = bandit(lambda action, sign: action, low=-1, high=1, seed=0, count=40)
    agents = make_agent(), make_agent(actor_learning_rate=0.1)
    for agent in agents:
        learn(agent, data, 3)
    one, other = (agent.state()["modules"] for agent in agents)
    for name in ("trunk", "value", "critic", "target_critic"):
        assert all(map(torch.equal, one[name].values(), other[name].values())), name
    assert not all(map(torch.equal, one["actor"].values(), other["actor"].values()))


def test_exploring_actions_have_the_policy_s_spread() -> None:
    agent = make_agent()
    with torch.no_grad():
        agent.actor.log_std.fill_(math.log(0.05))
    obs = stack_of(torch.as_tensor(bandit_frame(1)[None]))
    mean = agent.act(obs, deterministic=True)
    noise = torch.cat([agent.act(obs, deterministic=False) - mean for _ in range(400)])
    assert noise.std().item() == pytest.approx(0.05, rel=0.15)
    assert noise.mean().abs() < 0.01


@pytest.mark.parametrize(("key", "value"), [("expectile", 1.1), ("beta", -1), ("expectile", None)])
def test_what_makes_no_sense_is_refused(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{key} must"):
        make_agent(**{key: value})
