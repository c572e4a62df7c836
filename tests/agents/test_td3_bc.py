"""TD3+BC: the actor's loss in closed form, and that the rest is DrQ-v2."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from curl.agents.drqv2 import DrQV2
from curl.agents.td3_bc import TD3BC
from support.fixed_data import bandit, learn, make


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)[:, None]


def test_the_actor_loss_by_hand() -> None:
    """lambda = 2.5 / mean(1, 3) = 1.25; mean Q = -1; errors 0.5 and 0.1."""
    agent = make(TD3BC)
    assert isinstance(agent, TD3BC)
    loss, metrics = agent.actor_loss(tensor(1, -3), tensor(0.5, 0.0), tensor(0.0, 0.1))
    assert metrics["q_weight"].item() == pytest.approx(1.25)
    assert metrics["cloning_loss"].item() == pytest.approx((0.25 + 0.01) / 2)
    assert loss.item() == pytest.approx(1.25 + 0.13)


def test_no_gradient_passes_through_lambda() -> None:
    """d loss / d Q_i = -lambda / B, whatever Q is; d loss / d mean_i = 2 (mean_i - a_i) / B."""
    agent = make(TD3BC, alpha=2.0)
    assert isinstance(agent, TD3BC)
    q, mean = tensor(1, -3).requires_grad_(), tensor(0.5, 0.0).requires_grad_()
    loss, _ = agent.actor_loss(q, mean, tensor(0.0, 0.1))
    of_q, of_mean = torch.autograd.grad(loss, (q, mean))
    torch.testing.assert_close(of_q, tensor(-0.5, -0.5))
    torch.testing.assert_close(of_mean, tensor(0.5, -0.1))


def test_the_scale_of_rewards_does_not_matter() -> None:
    agent = make(TD3BC)
    assert isinstance(agent, TD3BC)
    q, mean, action = tensor(1, 3), tensor(0.5, 0.0), tensor(0.0, 0.1)
    loss, scaled = agent.actor_loss(q, mean, action)[0], agent.actor_loss(1e3 * q, mean, action)[0]
    torch.testing.assert_close(loss, scaled)


def test_the_critic_is_that_of_drqv2() -> None:
    """The same first update of trunk and critic, and another one of the actor."""
    data = bandit(lambda action, sign: action, low=-1, high=1, seed=0, count=40)
    agents = [make(kind, actor_learning_rate=1e-3) for kind in (DrQV2, TD3BC)]
    metrics = [learn(agent, data, 1) for agent in agents]
    assert metrics[0]["critic_loss"] == metrics[1]["critic_loss"]
    one, other = (agent.state()["modules"] for agent in agents)
    for name in ("trunk", "critic", "target_critic"):
        assert all(map(torch.equal, one[name].values(), other[name].values())), name
    assert not all(map(torch.equal, one["actor"].values(), other["actor"].values()))


@pytest.mark.parametrize("alpha", [-1, float("nan"), "2.5", None])
def test_alpha_is_a_number_that_is_not_negative(alpha: object) -> None:
    with pytest.raises(ValueError, match="alpha must"):
        make(TD3BC, alpha=alpha)
