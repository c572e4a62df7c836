"""What every agent promises, held to each file of configs/agent with a few objectives.

A new agent is one file and one YAML; it is tested here without a line of its own. An agent that
does not take an objective is tested without one.
"""

from __future__ import annotations

import io
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from curl import agents
from curl.agents.base import Agent
from curl.data import replay as replay_module
from curl.data.batch import Batch, FrameStacks, Metrics
from curl.data.replay import ReplayBuffer
from curl.learning.capture import WARM_UP, Captured
from curl.run.build import build_agent
from curl.run.checkpoint import Checkpoints
from support.configuration import composed
from support.equality import assert_equal
from support.faulty_runs import arguments
from support.programs import ENVIRONMENT, SETTINGS
from support.small_agents import (
    ACTIONS,
    AGENTS,
    EDGE,
    combinations,
    configuration,
    filled,
    parts_of,
    tensors,
)
from support.tape import Recordings
from support.virtual_cuda import GPU, Generator, VirtualCuda, on_gpu

# none; the same observation; windows of later ones; without a key encoder; with rewards and ends
OBJECTIVES = ("none", "infonce", "cpc", "inverse", "vpn")
COMBINATIONS = combinations(OBJECTIVES)
STACKS = torch.tensor([5, 40, 70])  # which frames they end at
every_agent = pytest.mark.parametrize(("name", "objective"), COMBINATIONS)


def make(name: str, objective: str, seed: int = 0, **settings: Any) -> Agent:
    """`seed` sets the weights; the generator starts from 0."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(0)
    config = configuration(name, objective, **settings)
    return build_agent(config, action_dim=ACTIONS, generator=generator)


@pytest.fixture(scope="module")
def replay() -> ReplayBuffer:
    return filled(ReplayBuffer(capacity=300, frame_size=EDGE, action_dim=ACTIONS))


@pytest.fixture
def obs(replay: ReplayBuffer) -> FrameStacks:
    return replay.sample(5, torch.Generator().manual_seed(7)).obs


def batches(agent: Agent, replay: ReplayBuffer, count: int) -> Iterator[Batch]:
    """The same ones for every agent of the same offsets."""
    source = torch.Generator().manual_seed(1)
    for _ in range(count):
        yield replay.sample(6, source, agent.offsets)


def train(agent: Agent, replay: ReplayBuffer, count: int) -> list[Metrics]:
    return [agent.update(batch) for batch in batches(agent, replay, count)]


def through_disk(state: dict[str, Any]) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


# -- acting ----------------------------------------------------------------------------------------


@every_agent
def test_actions_are_bounded_and_deterministic_when_asked(
    name: str, objective: str, obs: FrameStacks
) -> None:
    agent = make(name, objective)
    before = tensors(agent.state()), torch.get_rng_state()
    action = agent.act(obs, deterministic=True)
    assert action.shape == (len(obs), ACTIONS) and action.dtype == torch.float32
    assert action.abs().max() <= 1 and not action.requires_grad
    assert torch.equal(agent.act(obs, deterministic=True), action)
    assert torch.equal(make(name, objective).act(obs, deterministic=True), action)
    explored = [agent.act(obs, deterministic=False) for _ in range(2)]
    assert all(each.abs().max() <= 1 for each in explored)
    assert_equal(tensors(agent.state()), before[0], "state")  # acting teaches nothing
    assert torch.equal(torch.get_rng_state(), before[1])


# -- learning --------------------------------------------------------------------------------------


@every_agent
def test_all_that_is_learnt_moves(name: str, objective: str, replay: ReplayBuffer) -> None:
    agent = make(name, objective)
    before = tensors(agent.state()["modules"])
    train(agent, replay, 6)
    after = tensors(agent.state()["modules"])
    still = [key for key in before if torch.equal(before[key], after[key])]
    assert before and not still


@every_agent
def test_metrics_are_finite_scalars(name: str, objective: str, replay: ReplayBuffer) -> None:
    agent = make(name, objective)
    for metrics in train(agent, replay, 4):
        for key, value in metrics.items():
            assert value.shape == () and value.isfinite() and not value.requires_grad, key


@every_agent
def test_an_update_stays_on_the_gpu(
    name: str, objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Metrics are there, nothing is copied, and the host waits for nothing."""
    monkeypatch.setattr(replay_module, "free_bytes", lambda _: 10**12)
    with VirtualCuda() as gpu:
        config = configuration(name, objective)
        if "capture" in config["agent"]:
            config["agent"]["capture"] = False
        config["precision"] = "float32"
        generator = Generator()
        agent = build_agent(config, action_dim=ACTIONS, generator=generator)
        sizes = {"capacity": 60, "frame_size": EDGE, "action_dim": ACTIONS}
        buffer = filled(ReplayBuffer(**sizes, device=GPU, target=GPU), episodes=2)
        agent.update(buffer.sample(4, generator, agent.offsets))  # constants move there
        gpu.waits.clear()
        gpu.copies.clear()
        with gpu.watching():
            for _ in range(2):
                metrics = agent.update(buffer.sample(4, generator, agent.offsets))
                assert all(map(on_gpu, metrics.values()))
    assert gpu.waits == [] and gpu.copies == []


@every_agent
def test_randomness_comes_from_the_given_generator_alone(
    name: str, objective: str, replay: ReplayBuffer
) -> None:
    agent = make(name, objective)
    before = torch.get_rng_state()
    first = train(agent, replay, 2)
    assert torch.equal(torch.get_rng_state(), before)
    again = make(name, objective)
    torch.rand(5)
    assert train(again, replay, 2) == first


@every_agent
def test_recorded_updates_are_eager_ones(name: str, objective: str, replay: ReplayBuffer) -> None:
    require_equal_recordings(make(name, objective), make(name, objective), replay)


@pytest.mark.parametrize("name", [agent for agent, kind in COMBINATIONS if kind == "infonce"])
@pytest.mark.parametrize("option", ["every", "shared", "first", "clean"])
def test_recorded_updates_are_eager_ones_with_each_option_of_the_contrast(
    name: str, option: str, replay: ReplayBuffer
) -> None:
    """Those of `ContrastOptions` that change which tensors an update takes."""
    settings: dict[str, Any] = {
        "every": {"contrastive_every": 3},
        "shared": {"shared_key_encoder": True},
        "first": {"first_frame_only": True},
        "clean": {"clean_critic": True},
    }[option]
    if not settings.keys() <= composed(f"agent={name}")["agent"].keys():
        pytest.skip("this agent has no such option")
    require_equal_recordings(
        make(name, "infonce", **settings), make(name, "infonce", **settings), replay
    )


def require_equal_recordings(eager: Agent, recorded: Agent, replay: ReplayBuffer) -> None:
    """Through the stand-in for CUDA graphs, for each agent that records its updates."""
    captured = [value for value in vars(recorded).values() if isinstance(value, Captured)]
    if not captured:
        pytest.skip("this agent does not record its updates")
    made: list[Recordings] = []

    def recorder(generator: torch.Generator) -> Recordings:
        made.append(Recordings(generator))
        return made[-1]

    for one in captured:
        one._eager, one._make_recorder = False, recorder
    count = (WARM_UP + 2) * captured[0]._period + 1
    histories = [train(agent, replay, count) for agent in (eager, recorded)]
    assert made and made[0].replays > 0
    for one, other in zip(*histories, strict=True):
        assert_equal(one, other, "metrics")
    assert_equal(tensors(eager.state()), tensors(recorded.state()), "state")
    made.clear()
    for call in range(3 * (WARM_UP + 2)):
        stacks, free = replay.latest() if call % 3 else replay.stacks(STACKS), call % 2 == 0
        actions = [agent.act(stacks, deterministic=free) for agent in (eager, recorded)]
        assert torch.equal(*actions)
    assert made and made[0].replays > 0


# -- an encoder that was trained before ------------------------------------------------------------

WITH_AN_ENCODER = [name for name in AGENTS if "pretrained" in parts_of(name)]
FIRST = "convolutions.0.weight"
with_an_encoder = pytest.mark.parametrize("name", WITH_AN_ENCODER)


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Called with parts, it makes `make` offer them to the agents that it builds."""
    original = agents.make

    def offer(**parts: Any) -> None:
        def offering(*, offered: dict[str, Any], **settings: Any) -> Agent:
            return original(offered=offered | parts, **settings)

        monkeypatch.setattr(agents, "make", offering)

    return offer


def trunk_of(agent: Agent) -> dict[str, Tensor]:
    return tensors(agent.state()["modules"]["trunk"])


@with_an_encoder
@pytest.mark.parametrize("objective", ["none", "infonce"])
def test_the_trunk_and_its_copies_begin_with_pretrained_weights(
    name: str, objective: str, offer: Callable[..., None]
) -> None:
    pretrained = make(name, "none", seed=3).state()["modules"]["trunk"]
    anew = tensors(make(name, objective).state()["modules"])
    offer(pretrained=pretrained)
    agent = make(name, objective)
    found = tensors(agent.state()["modules"])
    for key, value in found.items():
        at = key.find("convolutions")
        taken_over = at >= 0
        assert torch.equal(value, pretrained[key[at:]] if taken_over else anew[key]), key
    assert_equal(agent.state()["modules"]["trunk"], pretrained, "trunk")
    assert not torch.equal(found[f".trunk.{FIRST}"], anew[f".trunk.{FIRST}"])


@with_an_encoder
def test_finetuned_means_that_the_trunk_moves(
    name: str, offer: Callable[..., None], replay: ReplayBuffer
) -> None:
    offer(pretrained=make(name, "none", seed=3).state()["modules"]["trunk"], frozen=False)
    agent = make(name, "none")
    before = trunk_of(agent)
    train(agent, replay, 4)
    assert before and not [k for k, v in trunk_of(agent).items() if torch.equal(v, before[k])]


@with_an_encoder
@pytest.mark.parametrize("pretrained", [True, False])
def test_frozen_means_that_no_byte_of_the_trunk_changes(
    name: str, pretrained: bool, offer: Callable[..., None], replay: ReplayBuffer
) -> None:
    """Nor of its copies, while everything else is trained."""
    weights = make(name, "none", seed=3).state()["modules"]["trunk"] if pretrained else None
    offer(pretrained=weights, frozen=True)
    agent = make(name, "none")
    trunk = vars(agent)["trunk"]
    assert not any(parameter.requires_grad for parameter in trunk.parameters())
    trained = {
        p for o in vars(agent)["optimizers"].values() for g in o.param_groups for p in g["params"]
    }
    assert trained and trained.isdisjoint(trunk.parameters())
    before = tensors(agent.state()["modules"])
    train(agent, replay, 6)
    after = tensors(agent.state()["modules"])
    still = {key for key in before if torch.equal(before[key], after[key])}
    assert still == {key for key in before if "convolutions" in key}


@with_an_encoder
def test_recorded_updates_with_a_frozen_trunk_are_eager_ones(
    name: str, offer: Callable[..., None], replay: ReplayBuffer
) -> None:
    offer(frozen=True)
    require_equal_recordings(make(name, "none"), make(name, "none"), replay)


@with_an_encoder
def test_an_objective_for_a_frozen_trunk_is_refused(name: str, offer: Callable[..., None]) -> None:
    offer(frozen=True)
    with pytest.raises(ValueError, match=r"^[^\n]*choose objective=none or encoder=finetune$"):
        make(name, "infonce")


@with_an_encoder
def test_weights_of_another_trunk_are_refused(name: str, offer: Callable[..., None]) -> None:
    own = make(name, "none").state()["modules"]["trunk"]
    for misfit, told in (
        (make(name, "none", filters=7).state()["modules"]["trunk"], r"\[7, 9, 3, 3\]"),
        ({k: v for k, v in own.items() if k != FIRST}, f"{FIRST} is missing"),
        (own | {"another": own[FIRST]}, r"another is \["),
    ):
        offer(pretrained=misfit)
        with pytest.raises(ValueError, match=r"^[^\n]*pretrained encoder does not fit[^\n]*$") as e:
            make(name, "none")
        assert re.search(told, str(e.value))


# -- saving ----------------------------------------------------------------------------------------


@every_agent
def test_a_loaded_agent_goes_on_bit_for_bit(
    name: str, objective: str, replay: ReplayBuffer, obs: FrameStacks
) -> None:
    """Saved after an odd number of updates, so that phases count too."""
    agent, other = make(name, objective, seed=0), make(name, objective, seed=1)
    train(agent, replay, 3)
    other.load(through_disk(agent.state()))
    source, target = (vars(one).get("generator") for one in (agent, other))
    if source is not None and target is not None:
        target.set_state(source.get_state())
    assert_equal(tensors(agent.state()), tensors(other.state()), "state")
    assert train(agent, replay, 3) == train(other, replay, 3)
    assert_equal(tensors(agent.state()), tensors(other.state()), "state")
    actions = [one.act(obs, deterministic=True) for one in (agent, other)]
    assert torch.equal(*actions)


@every_agent
def test_the_state_of_another_agent_is_refused(name: str, objective: str) -> None:
    agent = make(name, objective)
    size = next((key for key in ("hidden_dim", "latent_dim") if key in parts_of(name)), None)
    if size is not None:
        with pytest.raises(ValueError, match="does not fit"):
            agent.load(through_disk(make(name, objective, **{size: 11}).state()))
    for state in ({}, {"modules": {}, "optimizers": {}}, {"modules": None}):
        with pytest.raises(ValueError):
            agent.load(state)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n == "drqv2" else pytest.mark.slow) for n in AGENTS]
)
def test_a_run_is_resumed_exactly(name: str, tmp_path: Path) -> None:
    """Through train.py, as a user does: stopped within an episode, and taken up again."""
    sizes = {f"agent__{key}": value for key, value in (("hidden_dim", 16), ("latent_dim", 8))}
    known = composed(f"agent={name}")["agent"]
    given = {key: value for key, value in sizes.items() if key.split("__")[1] in known}
    if "query" not in parts_of(name):
        given["augmentation"] = "none"

    def run(folder: Path, env_steps: int) -> dict[str, Any]:
        line = arguments(folder, agent=name, env_steps=env_steps, updates_per_step=1, **given)
        line = [word for word in line if "hidden_dim" in known or "hidden_dim" not in word]
        done = subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        found = Checkpoints(folder).load()
        assert found is not None
        return found[0]

    assert "agent.hidden_dim" in SETTINGS  # which the line above takes out where it must
    whole = run(tmp_path / "whole", 60)
    run(tmp_path / "stopped", 47)
    resumed = run(tmp_path / "stopped", 60)
    for key in ("agent", "replay", "generator", "metrics"):
        assert_equal(whole[key], resumed[key], key)
