"""`updates_per_step`: how many updates fall on which agent step, also across a resumption."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from curl.agents.base import Agent
from curl.agents.sac import SAC
from curl.augmentations.crop import Crop
from curl.data.batch import Batch, FrameStacks, Metrics
from curl.data.environment import make_env
from curl.data.replay import ReplayBuffer
from curl.hardware.processor import Threads
from curl.objectives.infonce import InfoNCE
from curl.run.checkpoint import Checkpoints
from curl.run.evaluation import Evaluator
from curl.run.logger import Logger
from curl.run.online import OnlineTrainer as Trainer
from curl.run.online import as_fraction, updates_due
from support.equality import assert_equal
from support.faulty import EDGE

RATIOS = [1, 2, 3, 0.5, 1.5, 0.1, 0.3, 0.7, 1.1, 1e-3, 0.333]


class Counting(Agent):
    """Learns nothing; notes after how many actions each update came."""

    def __init__(self) -> None:
        self.actions, self.updated_after = 0, list[int]()

    def act(self, obs: FrameStacks, *, deterministic: bool) -> torch.Tensor:
        self.actions += not deterministic
        return torch.zeros(len(obs), 1)

    def update(self, batch: Batch) -> Metrics:
        self.updated_after.append(self.actions)
        return {"critic_loss": torch.tensor(1.0)}

    def state(self) -> dict[str, Any]:
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        pass


def small_sac() -> SAC:
    torch.manual_seed(0)
    return SAC(
        channels=9,
        action_dim=1,
        query=Crop(size=EDGE - 2),
        key=Crop(size=EDGE - 2),
        objective=InfoNCE(latent_dim=8),
        generator=torch.Generator().manual_seed(1),
        filters=4,
        hidden_dim=8,
        latent_dim=8,
    )


def run(folder: Path, agent: Agent, **knobs: Any) -> None:
    """Train on an environment with episodes of 20 steps; learning begins after 5 of them."""
    environment = {"env_id": "Sound-v0", "action_repeat": 1, "render_size": EDGE}
    settings = {"env_steps": 60, "batch_size": 2, "updates_per_step": 1, "initial_steps": 5}
    settings |= {"eval_every": 1000, "checkpoint_every": 1000, "log_every": 1, "save_replay": True}
    settings |= {"video": False, "env_timeout": 100.0} | knobs
    logger = Logger(folder=folder, wandb="disabled", budget=60, console=Console(quiet=True))
    device = torch.device("cpu")
    trainer = Trainer(
        threads=Threads(1),
        agent=agent,
        env=make_env(**environment),
        evaluator=Evaluator(settings=environment, episodes=1, frame_stack=3, device=device),
        replay=ReplayBuffer(capacity=100, frame_size=EDGE, action_dim=1),
        logger=logger,
        checkpoints=Checkpoints(folder),
        generator=getattr(agent, "generator", torch.Generator()),
        config={},
        seed=1,
        **settings,
    )
    try:
        assert trainer.run() is None
    finally:
        logger.close()


@pytest.mark.parametrize("ratio", RATIOS)
def test_updates_add_up_exactly(ratio: float) -> None:
    """After n steps floor(ratio * n) updates were due, however many steps, without any drift."""
    exact, total = Fraction(str(ratio)), 0
    for step in range(10_000):
        due = updates_due(as_fraction(ratio), step)
        assert due in (math.floor(exact), math.ceil(exact))
        total += due
        assert total == exact * (step + 1) // 1
    far = 10**9  # where floats would long have drifted
    assert updates_due(as_fraction(0.1), far - 1) == 1
    assert updates_due(as_fraction(0.1), far) == 0


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("ratio", [1, 2, 0.5, 1.5, 0.3])
def test_a_run_makes_the_updates_that_are_due(tmp_path: Path, ratio: float) -> None:
    """55 of its 60 agent steps learn, each after having acted."""
    agent = Counting()
    run(tmp_path, agent, updates_per_step=ratio)
    expected = [
        step + 1 for step in range(55) for _ in range(updates_due(as_fraction(ratio), step))
    ]
    assert agent.updated_after == expected
    assert len(expected) == math.floor(Fraction(str(ratio)) * 55)


class Silent(Counting):
    """Measures nothing."""

    def update(self, batch: Batch) -> Metrics:
        super().update(batch)
        return {}


@pytest.mark.usefixtures("handlers")
def test_an_agent_need_not_measure_anything(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its updates count all the same, and the run is not said to have learned nothing."""
    agent = Silent()
    run(tmp_path, agent)
    assert len(agent.updated_after) == 55
    found = Checkpoints(tmp_path).load()
    assert found is not None and found[0]["metrics"] == {}
    assert found[0]["counters"]["updates"] == 55
    assert not [text for text in caplog.messages if "without a single update" in text]


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("ratio", [0.3, 1.5, 2])
@pytest.mark.parametrize("stopped_at", [3, 24, 41])
def test_a_resumed_run_makes_the_same_updates(
    tmp_path: Path, ratio: float, stopped_at: int
) -> None:
    """Bit for bit: weights, moments, replay buffer, random numbers."""
    run(tmp_path / "whole", small_sac(), updates_per_step=ratio)
    run(tmp_path / "stopped", small_sac(), updates_per_step=ratio, env_steps=stopped_at)
    run(tmp_path / "stopped", small_sac(), updates_per_step=ratio)
    found = [Checkpoints(tmp_path / name).load() for name in ("whole", "stopped")]
    assert found[0] is not None and found[1] is not None
    (whole, _), (stopped, _) = found[0], found[1]
    assert whole["agent"]["updates"] == math.floor(Fraction(str(ratio)) * 55)
    for key in ("agent", "replay", "generator", "metrics"):
        assert_equal(whole[key], stopped[key], key)


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("ratio", [0, -1, float("nan"), float("inf"), "two", True, None])
def test_what_is_no_ratio_is_refused(tmp_path: Path, ratio: Any) -> None:
    with pytest.raises(ValueError, match="updates_per_step must "):
        run(tmp_path, Counting(), updates_per_step=ratio)
