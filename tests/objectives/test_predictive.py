"""Inverse model, DeepMDP and VPN against plain Python; ACL's hidden observations leak nothing."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from curl.objectives.acl import ACL
from curl.objectives.base import Latents, Objective, masked_mean, nearest, retrieval_accuracy
from curl.objectives.deepmdp import DeepMDP
from curl.objectives.inverse import Inverse
from curl.objectives.vpn import VPN, returns
from support.latents import A, D, ragged, randn, random_latents

B = 12


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Initial weights come from PyTorch's global generator."""
    torch.manual_seed(0)


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def filled(module: nn.Module, value: float) -> None:
    """Every weight and bias is `value`."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(value)


def train(objective: Objective, latents: Latents, steps: int = 200, rate: float = 0.01) -> None:
    """The objective's own parameters alone, on fixed latents."""
    optimizer = torch.optim.Adam(objective.parameters(), lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        objective(latents)[0].backward()
        optimizer.step()


def test_masked_mean_counts_what_is_valid() -> None:
    values = torch.tensor([1.0, torch.nan, 4.0, torch.inf])
    valid = torch.tensor([True, False, True, False])
    assert masked_mean(values, valid) == 2.5
    assert masked_mean(values, torch.zeros(4, dtype=torch.bool)) == 0


def test_the_nearest_is_found_by_distance() -> None:
    """The longer target has the larger product with the prediction, but is farther away."""
    prediction, target = torch.tensor([[1.0, 0], [0, 1]]), torch.tensor([[1.0, 0], [5, 2]])
    assert torch.equal(nearest(prediction, target), torch.tensor([[0.0, -20], [-2, -26]]))
    assert retrieval_accuracy(nearest(prediction, target)) == 0.5


# -- inverse model ---------------------------------------------------------------------------------


def inverse() -> Inverse:
    return Inverse(latent_dim=D, action_dim=A, hidden_dim=16)


def test_inverse_of_a_constant_model() -> None:
    """A prediction of c: the mean over valid rows and dimensions of (a - c)^2."""
    objective = inverse()
    filled(objective.model, 0.0)
    with torch.no_grad():
        objective.model[2].bias.fill_(0.5)
    latents = random_latents(objective, B, steps=ragged(B))
    rows = [row for row in range(B) if ragged(B)[row]]
    expected = mean([(a - 0.5) ** 2 for row in rows for a in latents.action[0, row].tolist()])
    assert objective(latents)[0].item() == pytest.approx(expected, rel=1e-6)


def test_inverse_sees_both_latents_in_order_and_no_key() -> None:
    objective = inverse()
    latents = random_latents(objective, B)
    assert objective.query_offsets == (0, 1) and latents.key.shape == (0, B, D)
    prediction = objective.model(torch.cat([*latents.query], dim=1))
    loss = objective(latents)[0]
    expected = (prediction - latents.action[0]).square().mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    (slope,) = torch.autograd.grad(loss, latents.query)
    assert (slope != 0).any(dim=2).all()
    swapped = dataclasses.replace(latents, query=latents.query.flip(0))
    assert objective(swapped)[0] != loss


def test_inverse_learns_the_action_that_moved_the_state() -> None:
    """z' = z + W a: unseen actions are told from unseen latents, and all of the own ones found."""
    moves = randn(A, D, seed=9)

    def moved(seed: int) -> Latents:
        latents = random_latents(inverse(), 64, seed=seed)
        before = latents.query[0].detach()
        after = before + latents.action[0] @ moves
        return dataclasses.replace(latents, query=torch.stack([before, after]))

    objective = inverse()
    for seed in range(10):
        train(objective, moved(10 + seed), steps=40)
    loss, metrics = objective(moved(99))
    assert loss < 0.1 and metrics["accuracy"] > 0.8  # variance of an action: 1; chance: 1 of 64


# -- DeepMDP ---------------------------------------------------------------------------------------


def deepmdp(transition_weight: float = 1.0, reward_weight: float = 1.0) -> DeepMDP:
    weights = {"transition_weight": transition_weight, "reward_weight": reward_weight}
    return DeepMDP(latent_dim=D, action_dim=A, hidden_dim=16, **weights)


def test_deepmdp_of_a_model_that_stands_still() -> None:
    """f = z and r' = 2: the losses are the mean squares of k - z and of r - 2, over valid rows."""
    objective = deepmdp(3.0, 0.5)
    filled(objective, 0.0)
    with torch.no_grad():
        objective.reward.bias.fill_(2.0)
    latents = random_latents(objective, B, steps=ragged(B))
    rows = [row for row in range(B) if ragged(B)[row]]
    difference = (latents.key[0] - latents.query[0]).detach()
    transition = mean([x**2 for row in rows for x in difference[row].tolist()])
    reward = mean([(latents.reward[0, row].item() - 2) ** 2 for row in rows])
    loss, metrics = objective(latents)
    assert metrics["transition_loss"].item() == pytest.approx(transition, rel=1e-6)
    assert metrics["reward_loss"].item() == pytest.approx(reward, rel=1e-6)
    assert loss.item() == pytest.approx(3 * transition + reward / 2, rel=1e-6)


def test_deepmdp_needs_no_rewards() -> None:
    objective = deepmdp(reward_weight=0.0)
    latents = random_latents(objective, B)
    other = dataclasses.replace(latents, reward=latents.reward + 1)
    assert objective(latents)[0] == objective(other)[0]
    assert deepmdp()(latents)[0] != deepmdp()(other)[0]


def test_deepmdp_learns_dynamics_and_reward() -> None:
    moves = randn(A, D, seed=9)

    def moved(seed: int) -> Latents:
        latents = random_latents(deepmdp(), 64, seed=seed)
        before = latents.query.detach()
        after, reward = before + latents.action @ moves, latents.action[..., :1] - before[..., :1]
        return dataclasses.replace(latents, query=before, key=after, reward=reward)

    objective = deepmdp()
    for seed in range(10):
        train(objective, moved(10 + seed), steps=40)
    metrics = objective(moved(99))[1]
    assert metrics["transition_loss"] < 0.2 and metrics["reward_loss"] < 0.2  # untrained: 1 or more
    assert metrics["accuracy"] > 0.9


# -- VPN -------------------------------------------------------------------------------------------


def vpn(steps: int = 3, discount: float = 0.5, **weights: float) -> VPN:
    settings = {"steps": steps, "discount": discount, "hidden_dim": 16, "rows": 64}
    weights = {"reward_weight": 1.0, "value_weight": 1.0} | weights
    return VPN(latent_dim=D, action_dim=A, **settings, **weights)


def test_returns_in_closed_form() -> None:
    """Windows of 3 steps, gamma 1/2, rewards 1, 2, 4 and V = 10, 20, 40 after each step.

    Columns: all within the episode: 4 + 40/2 = 24, 2 + 24/2 = 14, 1 + 14/2 = 8.
    Terminated by step 3: 4, 4, 3. Truncated after step 2: -, 2 + 20/2 = 12, 7.
    Terminated by step 2: -, 2, 2. Truncated after step 1: -, -, 1 + 10/2 = 6. Terminated there: 1.
    """
    reward = torch.tensor([1.0, 2, 4])[:, None].expand(3, 6)
    value = torch.tensor([10.0, 20, 40])[:, None].expand(3, 6)
    valid = torch.tensor([3, 3, 2, 2, 1, 1]) > torch.arange(3)[:, None]
    terminated = torch.zeros(3, 6, dtype=torch.bool)
    for step, column in ((2, 1), (1, 3), (0, 5)):
        terminated[step, column] = True
    found = returns(reward, terminated, valid, value, 0.5).masked_fill(~valid, -1)
    expected = [[8, 3, 7, 2, 6, 1], [14, 4, 12, 2, -1, -1], [24, 4, -1, -1, -1, -1]]
    assert found.tolist() == expected
    # what lies past the end does not matter
    rubbish = torch.full((3, 6), 77.0)
    again = returns(
        torch.where(valid, reward, rubbish),
        terminated | ~valid,
        valid,
        torch.where(valid, value, rubbish),
        0.5,
    )
    assert torch.equal(again.masked_fill(~valid, -1), found)


def test_vpn_of_constant_heads() -> None:
    """r' = 1 and (1 - gamma) V = 2 everywhere, against the loop over windows and their steps."""
    objective = vpn(reward_weight=3.0, value_weight=0.25)
    filled(objective, 0.0)
    with torch.no_grad():
        objective.reward[2].bias.fill_(1.0)
        objective.value[2].bias.fill_(2.0)
    steps = ragged(2 * B)
    latents = random_latents(objective, 2 * B, steps=steps)
    rewards, values, terminations = [], [], 0
    for row in range(2 * B):
        count = min(int(steps[row]), 3)
        y = 2 / (1 - 0.5)  # V of what was observed after the last step
        for t in reversed(range(count)):
            over = bool(latents.terminated[t, row])
            terminations += over
            y = latents.reward[t, row].item() + 0.5 * (0 if over else y)
            rewards.append((1 - latents.reward[t, row].item()) ** 2)
            values.append((2 - (1 - 0.5) * y) ** 2)
    loss, metrics = objective(latents)
    assert terminations and (steps < 3).any()
    assert metrics["reward_loss"].item() == pytest.approx(mean(rewards), rel=1e-5)
    assert metrics["value_loss"].item() == pytest.approx(mean(values), rel=1e-5)
    assert loss.item() == pytest.approx(3 * mean(rewards) + mean(values) / 4, rel=1e-5)


def test_vpn_rolls_out_by_its_actions() -> None:
    """Step t's value depends on the actions before it, and its reward on that one too."""
    objective = vpn(steps=4)
    latent, action = randn(B, D), randn(4, B, A, seed=1)
    rewards, values = objective.rollout(latent, action)
    for t in range(4):
        other = action.clone()
        other[t] += 1
        found = objective.rollout(latent, other)
        assert [bool((a != b).all()) for a, b in zip(found[0], rewards, strict=True)] == [
            step >= t for step in range(4)
        ]
        assert [bool((a != b).all()) for a, b in zip(found[1], values, strict=True)] == [
            step > t for step in range(4)
        ]


def test_vpns_target_bootstraps_from_the_last_key_without_gradient() -> None:
    """Of a window within its episode the last key alone counts, and it moves no weight."""
    objective = vpn(reward_weight=0.0)
    latents = random_latents(objective, B)
    wanted = objective.targets(latents)[1]
    assert not wanted.requires_grad
    for k, counts in ((0, False), (1, False), (2, True)):
        key = latents.key.clone()
        key[k] += 1
        changed = objective.targets(dataclasses.replace(latents, key=key))[1] != wanted
        assert changed.all() if counts else not changed.any()
    expected = objective.value(latents.key[-1]).squeeze(1) / 0.5
    for t in (2, 1, 0):
        expected = latents.reward[t].squeeze(1) + 0.5 * expected
        torch.testing.assert_close(wanted[t], 0.5 * expected)


def test_vpn_learns_the_value_of_a_constant_reward() -> None:
    """Reward 1 forever, in states that stay as they are: (1 - gamma) V = 1 along the rollout."""
    objective = vpn()
    latents = random_latents(objective, 32)
    key, reward = latents.query.detach().expand(3, -1, -1), torch.ones(3, 32, 1)
    latents = dataclasses.replace(latents, key=key, reward=reward)
    train(objective, latents, steps=400)
    rewards, values = objective.rollout(latents.query[0], latents.action)
    torch.testing.assert_close(rewards, torch.ones(3, 32), rtol=0, atol=0.1)
    torch.testing.assert_close(values, torch.ones(3, 32), rtol=0, atol=0.1)


# -- ACL -------------------------------------------------------------------------------------------

T = 6


def acl(*, radius: int = 1, actions: bool = True, rewards: bool = True, layers: int = 2) -> ACL:
    torch.manual_seed(0)
    sizes = {"latent_dim": D, "action_dim": A, "hidden_dim": 16, "heads": 2, "rows": 32}
    tokens = {"actions": actions, "rewards": rewards}
    return ACL(window=T, radius=radius, layers=layers, **sizes, **tokens)


def changed_outputs(objective: ACL, latents: Latents, other: Latents) -> Tensor:
    """bool [T, B, T]: of each hidden step, each window and each output, whether it differs."""
    return (objective.outputs(latents) != objective.outputs(other)).any(dim=3)


@pytest.mark.parametrize("radius", [0, 1, 2])
@pytest.mark.parametrize("step", range(T))
def test_a_hidden_observation_leaks_into_no_output(radius: int, step: int) -> None:
    """Where step s is hidden its latent changes nothing at all; elsewhere it changes every output
    of its own window, and none of another one."""
    objective = acl(radius=radius)
    latents = random_latents(objective, B)
    query = latents.query.detach().clone()
    query[step, 3] += 1
    found = changed_outputs(objective, latents, dataclasses.replace(latents, query=query))
    hidden = (torch.arange(T) - step).abs() <= radius
    assert not found[hidden].any()
    assert found[~hidden][:, 3].all()
    assert not found[:, [b for b in range(B) if b != 3]].any()


def test_the_prediction_of_a_step_has_no_gradient_from_its_own_latent() -> None:
    objective = acl(radius=0)
    latents = random_latents(objective, B)
    for step in range(T):
        own = objective.outputs(latents)[step, :, step].square().sum()
        (slope,) = torch.autograd.grad(own, latents.query)
        moved = (slope != 0).any(dim=2)
        assert moved.all(dim=1).tolist() == moved.any(dim=1).tolist()
        assert moved[:, 0].tolist() == [other != step for other in range(T)]


def test_every_position_of_every_window_is_predicted_from_its_own_pass() -> None:
    """Against the loop: step m of window b, with m hidden, scores the keys of all steps."""
    objective = acl()
    steps = ragged(B)
    latents = random_latents(objective, B, steps=steps)
    outputs, w = objective.outputs(latents), objective.bilinear.weight
    there = [(m, b) for m in range(T) for b in range(B) if m <= steps[b] and steps[b] > 0]
    losses, found = [], []
    for m, b in there:
        scores = [(outputs[m, b, m] @ w.T @ latents.key[n, c]).item() for n, c in there]
        own = scores[there.index((m, b))]
        losses.append(math.log(math.fsum(map(math.exp, scores))) - own)
        found.append(float(own == max(scores)))
    loss, metrics = objective(latents)
    expected = pytest.approx((mean(losses), mean(found)), rel=1e-4)
    assert (loss.item(), metrics["accuracy"].item()) == expected


def test_outputs_depend_on_positions_and_on_what_tokens_hold() -> None:
    for actions in (False, True):
        for rewards in (False, True):
            objective = acl(actions=actions, rewards=rewards)
            latents = random_latents(objective, B)
            loss = objective(latents)[0]
            others = (
                (actions, {"action": latents.action + 1}),
                (rewards, {"reward": latents.reward + 1}),
            )
            for counts, change in others:
                assert (objective(dataclasses.replace(latents, **change))[0] != loss) == counts
    with torch.no_grad():
        objective.position.zero_()
    assert objective(latents)[0] != loss


def test_a_token_holds_the_action_taken_there_and_the_last_one_none() -> None:
    """The action that leaves the window is not known; those within change their window's outputs"""
    objective = acl()
    latents = random_latents(objective, B)
    assert latents.action.shape[0] == T - 1
    for n in range(T - 1):
        action = latents.action.clone()
        action[n, 3] += 1
        found = changed_outputs(objective, latents, dataclasses.replace(latents, action=action))
        assert found[:, 3].all() and not found[:, 4].any()


def test_tokens_past_the_end_are_seen_by_none() -> None:
    """A window that ends after 2 steps: other outputs are as if the rest were something else."""
    objective = acl()
    steps = torch.full((B,), 2)
    latents = random_latents(objective, B, steps=steps)
    query = latents.query.detach().clone()
    query[3:] = 1e6
    found = changed_outputs(objective, latents, dataclasses.replace(latents, query=query))
    assert not found.any() and objective.outputs(latents).isfinite().all()


def test_acl_learns_to_fill_in() -> None:
    """Points that turn on circles, each window at its own angles and speeds: unseen windows too."""

    def turning(seed: int) -> Latents:
        angle, speed = randn(2, 16, D // 2, seed=seed)
        angle = 6 * angle + 0.3 * speed * torch.arange(T)[:, None, None]
        path = 2**0.5 * torch.cat([angle.cos(), angle.sin()], dim=2)  # [T, 16, D]
        return dataclasses.replace(random_latents(objective), query=path, key=path)

    objective = acl(radius=0, actions=False, rewards=False, layers=1)
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.005)
    first, before = objective(turning(999))
    for seed in range(200):
        optimizer.zero_grad()
        objective(turning(seed))[0].backward()
        optimizer.step()
    last, after = objective(turning(999))
    assert last < 0.4 * first
    assert before["accuracy"] < 0.1 and after["accuracy"] > 0.3  # among 16 windows of 6 steps
