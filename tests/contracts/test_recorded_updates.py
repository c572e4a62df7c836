"""Updates replayed from recordings are the eager ones, bit for bit, for every agent."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from curl import augmentations, objectives
from curl.agents.sac import SAC
from curl.data.batch import Metrics
from curl.data.replay import ReplayBuffer
from curl.learning.capture import WARM_UP, Captured
from support.paths import CONFIGS
from support.tape import Recordings

OBJECTIVES = sorted(path.stem for path in (CONFIGS / "objective").glob("*.yaml"))
FLAGS: dict[str, dict[str, Any]] = {
    "infonce": {},
    "second encoder step": {"second_encoder_step": True},
    "joint": {"joint": True},
    "every third": {"contrastive_every": 3},
    "actor every third": {"actor_update_every": 3, "target_update_every": 1},
    "shared key encoder": {"shared_key_encoder": True},
    "detached encoder": {"detach_encoder": True},
    "first frame only": {"first_frame_only": True},
    "clean critic": {"clean_critic": True},
}


def make_agent(
    objective: str,
    precision: torch.dtype = torch.float32,
    key: str = "crop",
    kind: type[SAC] = SAC,
    **flags: Any,
) -> SAC:
    settings = yaml.safe_load((CONFIGS / "objective" / f"{objective}.yaml").read_text())
    torch.manual_seed(0)
    return kind(
        channels=9,
        action_dim=2,
        query=augmentations.make(name="crop", size=36),
        key=augmentations.make(name=key, size=36),
        objective=objectives.make(**settings, latent_dim=16, action_dim=2),
        generator=torch.Generator().manual_seed(0),
        precision=precision,
        hidden_dim=32,
        latent_dim=16,
        **flags,
    )


@pytest.fixture(scope="module")
def replay() -> ReplayBuffer:
    """Eight episodes of noise."""
    rng = np.random.default_rng(0)
    replay = ReplayBuffer(capacity=300, frame_size=40, action_dim=2)
    for episode in range(8):
        replay.begin(rng.integers(0, 255, (40, 40, 3), np.uint8))
        for step in range(25):
            frame = rng.integers(0, 255, (40, 40, 3), np.uint8)
            over = step == 24 and episode % 2 == 0
            replay.add(rng.uniform(-1, 1, 2), rng.normal(), over, frame)
    return replay


def tensors(agent: SAC) -> Iterator[Tensor]:
    """Everything that learning changes."""
    yield agent.log_alpha.detach()
    for module in agent._modules().values():
        yield from module.state_dict().values()
    for optimizer in agent.optimizers.values():
        for state in optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))


def record(agent: SAC, period: int) -> list[Recordings]:
    """Let an agent on the CPU replay its updates from tapes; the recorders that it makes."""
    made: list[Recordings] = []

    def recorder(generator: torch.Generator) -> Recordings:
        made.append(Recordings(generator))
        return made[-1]

    agent._captured = Captured(
        agent.learn, period=period, generator=agent.generator, recorder=recorder
    )
    return made


def period_of(agent: SAC) -> int:
    every = agent.contrast.every
    return math.lcm(agent.actor_update_every, agent.target_update_every, every)


def train(agent: SAC, replay: ReplayBuffer, updates: int) -> list[Metrics]:
    """The metrics of some updates, read at the end: none may be overwritten by a later update."""
    metrics = []
    for _ in range(updates):
        batch = replay.sample(6, agent.generator, agent.offsets)
        metrics.append(agent.update(batch))
    return metrics


def same(one: list[Metrics], other: list[Metrics]) -> bool:
    return [list(m) for m in one] == [list(m) for m in other] and all(
        torch.equal(a[name], b[name]) for a, b in zip(one, other, strict=True) for name in a
    )


def compare(
    make: Callable[[], SAC], replay: ReplayBuffer, period: int | None = None
) -> tuple[bool, Recordings]:
    """Whether recorded and eager updates agree, over two replays of every phase."""
    eager, recorded = make(), make()
    period = period or period_of(eager)
    made = record(recorded, period)
    count = (WARM_UP + 2) * period + 1
    metrics = [train(agent, replay, count) for agent in (eager, recorded)]
    states = zip(tensors(eager), tensors(recorded), strict=True)
    agree = same(*metrics) and all(torch.equal(a, b) for a, b in states)
    return agree, made[0]


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_is_recorded(
    objective: str, precision: torch.dtype, replay: ReplayBuffer
) -> None:
    agree, recordings = compare(lambda: make_agent(objective, precision), replay)
    assert agree
    assert len(recordings.tapes) == 2 and recordings.replays == 5


@pytest.mark.parametrize("objective", ["infonce", "cpc"])
@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
def test_every_setting_of_the_agent_is_recorded(
    flags: dict[str, Any], objective: str, replay: ReplayBuffer
) -> None:
    agree, recordings = compare(lambda: make_agent(objective, **flags), replay)
    period = period_of(make_agent(objective, **flags))
    assert agree
    assert len(recordings.tapes) == period and recordings.replays == 2 * period + 1


def test_views_in_bfloat16_are_recorded(replay: ReplayBuffer) -> None:
    agree, recordings = compare(lambda: make_agent("infonce", key="gaussian"), replay)
    assert agree and recordings.replays == 5


def test_an_agent_that_was_loaded_is_recorded_anew(replay: ReplayBuffer) -> None:
    """Its optimisers have other tensors than those that were recorded."""
    eager, recorded = make_agent("infonce"), make_agent("infonce")
    made = record(recorded, 2)
    state = make_agent("infonce").state()
    histories: list[list[Metrics]] = [[], []]
    for _ in range(2):
        for agent, history in zip((eager, recorded), histories, strict=True):
            history += train(agent, replay, 2 * WARM_UP + 3)
            agent.load(state)
    assert same(*histories)
    assert [len(recordings.tapes) for recordings in made] == [2, 2]


def test_a_batch_of_another_size_is_learnt_from_too(replay: ReplayBuffer) -> None:
    eager, recorded = make_agent("infonce"), make_agent("infonce")
    (made,) = (record(recorded, 2),)
    for agent in (eager, recorded):
        train(agent, replay, 2 * WARM_UP + 3)
        agent.update(replay.sample(4, agent.generator))
        train(agent, replay, 2)
    assert made[0].replays == 5
    for one, other in zip(tensors(eager), tensors(recorded), strict=True):
        assert torch.equal(one, other)


# -- the tape can fail -----------------------------------------------------------------------------


class Planted(SAC):
    """An agent with a mistake in its update."""

    mistake: Callable[[Planted, Metrics], None]

    def learn(self, *views: Any) -> Metrics:
        metrics = super().learn(*views)
        type(self).mistake(self, metrics)
        return metrics


def planted(mistake: Callable[[Any, Metrics], None]) -> Callable[[], SAC]:
    kind = type("Planted", (Planted,), {"mistake": mistake})
    return lambda: make_agent("infonce", kind=kind)


def makes_none(agent: SAC, metrics: Metrics) -> None:
    metrics["something"] = metrics["critic_loss"] + 1


def looks(agent: SAC, metrics: Metrics) -> None:
    if metrics["critic_loss"].item() > 0:
        metrics["critic_loss"] += 1


def counts_on_the_host(agent: SAC, metrics: Metrics) -> None:
    """Every third update, unknown to the period of 2."""
    if agent.updates % 3 == 0:
        with torch.no_grad():
            agent.log_alpha += 0.1


def remembers(agent: Any, metrics: Metrics) -> None:
    """What one phase left is read by the next one, where the pool has been overwritten."""
    metrics["previous"] = getattr(agent, "previous", metrics["critic_loss"]) + 0
    agent.previous = metrics["critic_loss"] + 1


def test_looking_at_a_value_cannot_be_recorded(
    replay: ReplayBuffer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING", logger="curl"):
        agree, recordings = compare(planted(looks), replay)
    assert agree  # eagerly
    assert not recordings.tapes
    assert ["not permitted when stream is capturing" in m for m in caplog.messages] == [True]


def test_what_is_planted_without_a_mistake_is_recorded(replay: ReplayBuffer) -> None:
    agree, recordings = compare(planted(makes_none), replay)
    assert agree and recordings.replays == 5


@pytest.mark.parametrize("mistake", [counts_on_the_host, remembers])
def test_what_a_graph_would_not_repeat_is_seen(
    mistake: Callable[[Any, Metrics], None], replay: ReplayBuffer
) -> None:
    agree, recordings = compare(planted(mistake), replay)
    assert not agree
    assert recordings.replays == 5


def test_a_wrong_period_is_seen(replay: ReplayBuffer) -> None:
    agree, _ = compare(lambda: make_agent("infonce", actor_update_every=3), replay, period=2)
    assert not agree
