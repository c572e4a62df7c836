"""What agents learn from a fixed batch of data alone (tests/support/fixed_data.py).

Where the data allow it, they are better than the behaviour policy. Where the best action is not in
the data, they stay near those that are. Each was looked at with seeds 0 to 7.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from curl.agents.base import Agent
from curl.agents.drqv2 import DrQV2
from curl.agents.iql import IQL
from curl.agents.td3_bc import TD3BC
from support.fixed_data import (
    PLACES,
    action_at,
    bandit,
    bandit_frame,
    chain,
    chain_frame,
    learn,
    make,
    steps_to_the_end,
)

DRQV2: dict[str, Any] = {"actor_learning_rate": 1e-3, "steps": 1}
DRQV2 |= {"noise_steps": 200, "updates_per_step": 1}
IQL_: dict[str, Any] = {"actor_learning_rate": 1e-3, "expectile": 0.9, "beta": 10.0}
OFFLINE = [pytest.param(TD3BC, DRQV2, id="td3_bc"), pytest.param(IQL, IQL_, id="iql")]
every_offline_agent = pytest.mark.parametrize(("kind", "settings"), OFFLINE)


def reward_near_half(action: float, sign: int) -> float:
    """The best action is 0.5 at white and -0.5 at black."""
    return 1 - (action - 0.5 * sign) ** 2


def rising_reward(action: float, sign: int) -> float:
    """As far as the data go; nothing in them says that it rises no further."""
    return 2 + action


@every_offline_agent
def test_in_the_bandit_it_is_better_than_the_behaviour_policy(
    kind: type[Agent], settings: dict[str, Any]
) -> None:
    """Uniform actions earn 0.42, the learned ones at least 0.93, and 1 is the most."""
    agent = make(kind, **settings)
    learn(agent, bandit(reward_near_half, low=-1, high=1, seed=0), 400)
    uniform = np.mean([reward_near_half(action, 1) for action in np.linspace(-1, 1, 101)])
    assert uniform < 0.45
    for sign in (-1, 1):
        assert reward_near_half(action_at(agent, bandit_frame(sign)), sign) > 0.9


@every_offline_agent
def test_in_the_bandit_it_stays_in_support(kind: type[Agent], settings: dict[str, Any]) -> None:
    """Actions up to 0.4 were seen: the learned one is among the better half of them."""
    agent = make(kind, **settings)
    learn(agent, bandit(rising_reward, low=-1, high=0.4, seed=0), 400)
    for sign in (-1, 1):
        assert -0.2 < action_at(agent, bandit_frame(sign)) < 0.4


def test_without_cloning_it_leaves_the_support() -> None:
    """The data of the test above: DrQ-v2 follows its extrapolated Q to the limit of actions."""
    agent = make(DrQV2, **DRQV2)
    learn(agent, bandit(rising_reward, low=-1, high=0.4, seed=0), 400)
    for sign in (-1, 1):
        assert action_at(agent, bandit_frame(sign)) > 0.9


@every_offline_agent
def test_in_the_chain_it_is_better_than_the_behaviour_policy(
    kind: type[Agent], settings: dict[str, Any]
) -> None:
    """Every second action of the data goes left; the learned ones go right from every place."""
    data = chain(right=0.5, seed=0)
    agent = make(kind, discount=0.8, **settings)
    learn(agent, data, 500)
    assert all(action_at(agent, chain_frame(place)) > 0 for place in range(PLACES - 1))
    assert steps_to_the_end(agent) == PLACES - 1  # the least
