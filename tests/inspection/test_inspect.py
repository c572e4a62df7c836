"""An inspection of every agent and every objective, at tiny size, where the truth is known."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from curl.data.batch import FrameStacks
from curl.data.seeding import Stream, episode_seed
from curl.inspection import analysis, measures
from curl.inspection.analysis import Inspection
from curl.inspection.experience import KINDS
from curl.inspection.parts import Parts
from curl.objectives.base import Objective
from support.equality import assert_equal
from support.inspections import episodes, inspected, make_policy, plain
from support.paths import CONFIGS

AGENTS = sorted(path.stem for path in (CONFIGS / "agent").glob("*.yaml"))
OBJECTIVES = sorted(path.stem for path in (CONFIGS / "objective").glob("*.yaml"))


def numbers(seen: Inspection) -> list[float]:
    """Those that must be finite for any agent with random weights."""
    found = [each.dormant for each in seen.layers]
    found += [value for each in seen.norms for value in (each.weights, each.untrained, each.step)]
    found += list(seen.metrics.values()) + [value for r in seen.returns.values() for value in r]
    if seen.values is not None:
        found += [*seen.values.q, *seen.values.returns]
    return found


@pytest.mark.parametrize("name", AGENTS)
@pytest.mark.parametrize("objective", ["none", "infonce"])
def test_every_agent_is_inspected(name: str, objective: str) -> None:
    policy = make_policy(f"agent={name}", f"objective={objective}")
    before = copy.deepcopy(policy.agent.state())
    seen = inspected(policy)
    assert np.isfinite(numbers(seen)).all()
    assert_equal(policy.agent.state(), before, "state")  # nothing is kept changed
    has_critic = hasattr(policy.agent, "critic")
    assert (seen.values is not None) == has_critic
    assert seen.looks is not None
    assert set(seen.looks.maps) == ({"Q", "policy"} if has_critic else {"policy"})
    assert seen.projected is not None and (seen.projected.value is not None) == has_critic
    told = " ".join(seen.left_out)
    assert ("no critic" in told) == (not has_critic)
    assert ("the run has none" in told) == (objective == "none")
    assert seen.retrieval is not None and seen.retrieval.own == (objective != "none")
    assert {each.name.split(".")[0] for each in seen.layers} >= {"trunk", "actor"}
    assert all(each.step > 0 for each in seen.norms)


CHOOSE_AMONG_OBSERVATIONS = ("byol", "infonce", "infonce_cosine", "pairwise", "temporal", "triplet")


@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if name != "none"])
def test_every_objective_is_inspected(objective: str) -> None:
    policy = make_policy("agent=curl", f"objective={objective}")
    seen = inspected(policy).retrieval
    assert seen is not None
    accuracy = seen.metrics["contrastive_accuracy"]
    if seen.own and not seen.offset:
        assert seen.accuracy == pytest.approx(accuracy)  # what the objective says of the same batch
    made: Any = policy.agent
    declares = type(made.contrast.objective).scores is not Objective.scores
    assert seen.own == declares  # whatever is added
    assert seen.own or objective not in CHOOSE_AMONG_OBSERVATIONS
    assert seen.queries.shape == seen.keys.shape == (len(seen), 36, 36, 3)
    assert seen.scores.shape == (len(seen), len(seen))


# -- episodes --------------------------------------------------------------------------------------


def test_episodes_of_all_kinds_begin_alike_and_come_from_a_stream_of_their_own() -> None:
    found = episodes(make_policy())
    for number in range(3):
        seeds = {each[number].seed for each in found.episodes.values()}
        assert seeds == {episode_seed(0, Stream.INSPECTION, number)}
        first = [each[number].frames[0] for each in found.episodes.values()]
        assert all(np.array_equal(first[0], frame) for frame in first)


def test_rows_belong_together() -> None:
    """State, frame, action and reward of a transition: this environment's rule says so."""
    found = episodes(make_policy())
    assert found.state is not None and list(found.state_names) == ["state"]
    assert len(found) == 3 * 3 * 20 == len(found.state)
    position = found.state[:, 0]
    frames = analysis.stacks(found, np.arange(len(found))).whole()[:, -3, 0, 0].numpy()
    assert np.array_equal(frames, (127.5 * (1 + position)).astype(np.uint8))
    after = np.clip(position + 0.1 * found.action[:, 0], -1, 1)
    assert np.allclose(found.reward, 1 - np.abs(after), atol=1e-6)
    for kind in KINDS:
        rows = found.rows(kind, 1)
        assert np.array_equal(found.step[rows], np.arange(20))
        assert np.allclose(position[rows][1:], after[rows][:-1])
        assert found.returns(kind)[1] == pytest.approx(found.reward[rows].sum(), abs=1e-4)


# -- what is known ---------------------------------------------------------------------------------


class Told:
    """Stands for an agent whose features are the brightness of the newest frame."""

    class Trunk(torch.nn.Module):
        convolutions = ()

    trunk = Trunk()

    def features(self, obs: FrameStacks) -> torch.Tensor:
        return obs.whole()[:, -3, 0, :1].float() / 127.5 - 1


def parts(agent: Any, **changes: Any) -> Parts:
    return replace(Parts.of(agent), **changes)


def test_a_position_that_the_features_hold_is_decoded_and_chance_is_not() -> None:
    found = episodes(make_policy(), 6)
    blind = Told()
    blind.features = lambda obs: torch.zeros(len(obs), 1)  # pyright: ignore
    decoded = analysis.decoding(parts(Told()), parts(blind), found)
    assert list(decoded.names) == ["state", "reward"]
    assert decoded.trunk[0] > 0.99 and decoded.untrained[0] < 0.1
    assert np.isnan(decoded.latent).all()  # this agent has no encoder
    assert decoded.fitted == 2 * decoded.held_out == 3 * 4 * 20


def test_values_of_a_critic_that_knows_the_truth_have_no_bias(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Q and V are put in place: the returns of the episode, and 7 at its end."""
    policy = make_policy("agent=drqv2", "objective=none")
    found = episodes(policy)
    inside = Parts.of(policy.agent)
    assert inside.discount is not None
    truth = [
        measures.returns_to_go(found.reward[found.rows("sample", i)], inside.discount, tail=7.0)
        for i in range(3)
    ]
    for factor in (1.0, 2.0):
        told = iter(torch.from_numpy(factor * each)[:, None] for each in truth)
        monkeypatch.setattr(Parts, "q", lambda *_, told=told: next(told))
        end = torch.tensor([[7.0 * factor]])
        monkeypatch.setattr(Parts, "value", lambda *_, end=end: end)
        seen = analysis.values(inside, found, torch.Generator().manual_seed(0))
        assert seen is not None and seen.cut == 1.0 and len(seen.q) == 3 * 10
        assert seen.calibration.bias == pytest.approx(factor - 1, abs=1e-4)


def test_the_entropy_bonus_is_alpha_times_the_entropy() -> None:
    """Of a narrow Gaussian around 0, which tanh does not squash, it is known."""
    policy = make_policy()
    inside = Parts.of(policy.agent)
    std = 0.01
    inside.agent.log_alpha.data.fill_(np.log(0.5))  # pyright: ignore

    def actor(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        zero = torch.zeros(len(features), 1)
        return zero, zero + np.log(std)

    inside = replace(inside, actor=actor)
    noise = torch.randn(20_000, 2, 1, generator=torch.Generator().manual_seed(0))
    entropy = 0.5 * np.log(2 * np.pi * np.e * std**2)
    assert inside.entropy_bonus(torch.zeros(2, 4), noise).detach().numpy() == pytest.approx(
        0.5 * entropy, abs=0.02
    )
    without = Parts.of(make_policy("agent=drqv2").agent)
    assert not without.entropy_bonus(torch.zeros(2, 4), noise).any()


def test_dead_filters_and_units_are_counted() -> None:
    policy = make_policy()
    inside = Parts.of(policy.agent)
    assert inside.critic is not None
    convolution, linear = policy.agent.trunk.convolutions[1], inside.critic.q1.hidden[1]
    assert isinstance(convolution, torch.nn.Conv2d) and isinstance(linear, torch.nn.Linear)
    with torch.no_grad():
        for layer in (convolution, linear):
            assert layer.bias is not None
            layer.weight.zero_()
            layer.bias[:4], layer.bias[4:] = -1, 1
    found = {each.name: each for each in analysis.layers(inside, inside, episodes(policy))}
    for name, units in (("trunk.1", 32), ("critic.q1.1", 16)):
        assert (found[name].dead, found[name].dormant) == (4 / units, 4 / units)
        assert found[name].units == units
    assert found["critic.q1.1"].rank == 1  # its units say the same of every observation
    assert found["actor.policy.0"].rank == found["actor.policy.0"].untrained_rank


def test_one_update_is_as_large_as_the_learning_rate_says() -> None:
    """Adam's first step moves every weight that has a gradient by the learning rate."""
    steps = {}
    for rate in (1e-3, 1e-1):
        seen = inspected(make_policy(learning_rate=rate))
        steps[rate] = {each.name: each.step for each in seen.norms}
    for name, step in steps[1e-3].items():
        assert steps[1e-1][name] == pytest.approx(100 * step, rel=0.2)


def test_what_is_not_finite_is_named() -> None:
    policy = make_policy()
    assert analysis.not_finite(policy.agent) == []
    policy.agent.critic.q1.output.bias.data.fill_(float("inf"))  # pyright: ignore
    assert analysis.not_finite(policy.agent) == ["critic"]


def test_the_same_seed_gives_the_same_numbers() -> None:
    one, other = inspected(make_policy()), plain()
    assert numbers(one) == numbers(other)
    assert one.retrieval is not None and other.retrieval is not None
    assert np.array_equal(one.retrieval.scores, other.retrieval.scores)


def test_an_unknown_number_of_state_has_no_decoding_of_it() -> None:
    found = replace(episodes(make_policy()), state=None, state_names=[])
    inside = Parts.of(make_policy().agent)
    assert list(analysis.decoding(inside, inside, found).names) == ["reward"]
