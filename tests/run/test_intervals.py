"""Env steps are counted as they are made; intervals hold within an episode; resuming is exact."""

from __future__ import annotations

import contextlib
import json
import logging
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from rich.console import Console

from curl.agents.base import Agent
from curl.data.batch import Batch, FrameStacks, Metrics
from curl.data.environment import make_env
from curl.data.replay import ReplayBuffer
from curl.hardware.processor import Threads
from curl.run.checkpoint import Checkpoints, clock_of, save_file
from curl.run.evaluation import Evaluator
from curl.run.logger import Logger
from curl.run.online import OnlineTrainer as Trainer
from support.equality import assert_equal
from support.programs import timeless

pytestmark = pytest.mark.usefixtures("handlers")
EDGE = 12
CPU = torch.device("cpu")


class Killed(BaseException):
    """Ends a run where it stands, as SIGKILL does."""


class Counting(gym.Env[np.ndarray, np.ndarray]):
    """A frame that shows the time; notes its seeds, and calls `at_step` in each step of training.

    Training is told from evaluation by the last bit of the seed.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    observation_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    at_step: Callable[[int], None] = staticmethod(lambda steps: None)
    seeds: list[int] = []  # noqa: RUF012
    steps = 0  # of all training episodes in this process

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode, self.time, self.level, self.training = render_mode, 0, 0.0, False

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        assert seed is not None
        self.training = seed % 2 == 0
        Counting.seeds.append(seed)
        self.time, self.level = 0, float(self.np_random.uniform(-1, 1))
        return np.zeros(1, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.time += 1
        self.level = float(np.clip(self.level + 0.1 * action.sum(), -1, 1))
        if self.training:
            Counting.steps += 1
            Counting.at_step(Counting.steps)
        return np.zeros(1, np.float32), self.level, False, False, {}

    def render(self) -> np.ndarray:
        pixels = np.full((EDGE, EDGE, 3), int(127.5 * (1 + self.level)), np.uint8)
        pixels[0, 0] = self.time % 256
        return pixels


gym.register("test/Counting-v0", Counting, max_episode_steps=10_000)


class Drawing(Agent):
    """Acts by the run's generator; an update draws from it and counts itself."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator, self.total = generator, torch.zeros(1)

    def act(self, obs: FrameStacks, *, deterministic: bool) -> torch.Tensor:
        if deterministic:
            return torch.full((len(obs), 2), 0.1)
        return 2 * torch.rand(len(obs), 2, generator=self.generator) - 1

    def update(self, batch: Batch) -> Metrics:
        self.total += batch.reward.sum() + torch.rand(1, generator=self.generator)
        return {"critic_loss": self.total.clone().squeeze()}

    def state(self) -> dict[str, Any]:
        return {"total": self.total}

    def load(self, state: Mapping[str, Any]) -> None:
        self.total = state["total"].clone()


@pytest.fixture(autouse=True)
def undisturbed() -> Iterator[None]:
    def reset() -> None:
        Counting.at_step = staticmethod(lambda steps: None)
        Counting.seeds, Counting.steps = [], 0

    reset()
    yield
    reset()


def train(folder: Path, **changes: Any) -> Trainer:
    """Train in this process: 3 control steps per agent step, episodes of 20 control steps."""
    settings: dict[str, Any] = {"seed": 1, "env_steps": 60, "batch_size": 2, "initial_steps": 4}
    settings |= {"updates_per_step": 1, "eval_every": 1000, "checkpoint_every": 1000}
    settings |= {"save_replay": True, "log_every": 6, "video": False, "env_timeout": 100.0}
    settings |= {"action_repeat": 3, "limit": 20, "capacity": 100} | changes
    environment = {"env_id": "test/Counting-v0", "action_repeat": settings["action_repeat"]}
    environment |= {"render_size": EDGE, "max_episode_steps": settings.pop("limit")}
    config = {"task": {"action_repeat": settings.pop("action_repeat")}}
    generator = torch.Generator().manual_seed(settings["seed"] % 2**63)
    replay = ReplayBuffer(capacity=settings.pop("capacity"), frame_size=EDGE, action_dim=2)
    console, budget = Console(quiet=True), settings["env_steps"]
    with (
        contextlib.closing(make_env(**environment)) as env,
        contextlib.closing(
            Logger(folder=folder, wandb="disabled", budget=budget, console=console)
        ) as logger,
    ):
        trainer = Trainer(
            threads=Threads(1),
            agent=Drawing(generator),
            env=env,
            evaluator=Evaluator(settings=environment, episodes=2, frame_stack=3, device=CPU),
            replay=replay,
            logger=logger,
            checkpoints=Checkpoints(folder),
            generator=generator,
            config=config,
            **settings,
        )
        trainer.run()
    return trainer


def rows(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def steps(folder: Path, kind: str) -> list[int]:
    return [row["env_steps"] for row in rows(folder, kind)]


# -- counting ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action_repeat", "limit", "ends"),
    [(3, 20, [20, 40, 60]), (4, 20, [20, 40, 60]), (7, 20, [20, 40, 60]), (50, 20, [20, 40, 60])],
)
def test_an_episode_that_the_repeat_does_not_divide_is_counted_right(
    tmp_path: Path, action_repeat: int, limit: int, ends: list[int]
) -> None:
    trainer = train(tmp_path, action_repeat=action_repeat, limit=limit)
    assert steps(tmp_path, "episode") == ends
    assert trainer.env_steps == Counting.steps == 60
    found = Checkpoints(tmp_path).load()
    assert (
        found is not None
        and found[0]["counters"]["env_steps"] == clock_of(found[0]).env_steps == 60
    )
    assert trainer.agent_steps == 3 * -(-limit // action_repeat)
    assert steps(tmp_path, "evaluation")[-1] == 60


def test_every_row_says_the_steps_that_were_made(tmp_path: Path) -> None:
    """7 agent steps per episode: six of 3 env steps and one of 2."""
    train(tmp_path, log_every=1)
    expected = [20 * episode + min(3 * n, 20) for episode in range(3) for n in range(1, 8)]
    assert steps(tmp_path, "train") == expected
    assert [row["agent_steps"] for row in rows(tmp_path, "train")] == list(range(1, 22))


# -- intervals -----------------------------------------------------------------------------------


def test_intervals_hold_within_an_episode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the first agent step that reaches them, in one episode that is as long as the run."""
    saved, save = [], Checkpoints.save

    def noting(self: Checkpoints, env_steps: int, *args: Any, **keywords: Any) -> Path:
        saved.append(env_steps)
        return save(self, env_steps, *args, **keywords)

    monkeypatch.setattr(Checkpoints, "save", noting)
    # evaluations have two episodes of 100 control steps
    train(tmp_path, limit=100, eval_every=20, checkpoint_every=16, log_every=10, env_steps=70)
    assert steps(tmp_path, "evaluation") == [0, 21, 42, 60, 72]
    assert saved == [18, 33, 48, 66, 72]
    assert steps(tmp_path, "train") == [12, 21, 30, 42, 51, 60, 72]


def test_intervals_that_divide_the_episode_fall_on_its_end(tmp_path: Path) -> None:
    """As on the paper's tasks: evaluated between two episodes, before the second one begins."""
    order: list[tuple[str, int]] = []
    Counting.at_step = staticmethod(lambda made: order.append(("step", made)))

    class Noting(list[int]):
        def append(self, seed: int) -> None:
            order.append(("reset" if seed % 2 == 0 else "evaluation", Counting.steps))
            super().append(seed)

    Counting.seeds = Noting()
    train(tmp_path, action_repeat=4, eval_every=20, checkpoint_every=20, env_steps=40)
    assert steps(tmp_path, "evaluation") == [0, 20, 40]
    first = order.index(("step", 20))
    after = [what for what in order[first:] if what[0] != "step" or what[1] == 21]
    # two environments are made by the evaluator, whose first reset is one of neither kind
    assert after[0][0] != "step" and after.index(("step", 21)) > max(
        index for index, what in enumerate(after) if what == ("evaluation", 20)
    )


def test_an_evaluation_within_an_episode_changes_nothing_but_its_own_rows(tmp_path: Path) -> None:
    train(tmp_path / "often", limit=100, eval_every=7)
    Counting.steps = 0
    train(tmp_path / "never", limit=100, eval_every=10_000)
    often, never = (
        [row for row in timeless(tmp_path / name) if row["kind"] != "evaluation"]
        for name in ("often", "never")
    )
    assert often == never and len(never) > 5


# -- resuming ------------------------------------------------------------------------------------


def everything(folder: Path, trainer: Trainer) -> dict[str, Any]:
    found = Checkpoints(folder).load()
    assert found is not None
    state, replay = found[0], trainer.replay
    state["counters"]["last_return"] = str(state["counters"]["last_return"])  # nan is not nan
    names = ("agent", "counters", "replay", "generator", "metrics", "episode_actions")
    stored = {column: getattr(replay, column) for column in ("action", "reward", "start")}
    return {name: state[name] for name in names} | stored | {"frames": replay.frames}


SHAPES = {
    "one long episode": {"limit": 1000},
    "longer than the ring": {"limit": 1000, "capacity": 8},
    "short episodes, full ring": {"limit": 20, "capacity": 8},
    "uneven episodes": {"limit": 25, "action_repeat": 4},
}


@pytest.mark.parametrize("how", ["killed", "stopped"])
@pytest.mark.parametrize("at", [20, 37, 61, 85])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_run_that_ended_within_an_episode_goes_on_exactly(
    tmp_path: Path, shape: str, at: int, how: str
) -> None:
    """By SIGKILL, after a checkpoint within an episode, or by SIGTERM, which leaves one."""
    settings = SHAPES[shape] | {"env_steps": 100, "eval_every": 30, "checkpoint_every": 15}
    whole = everything(tmp_path / "whole", train(tmp_path / "whole", **settings))
    Counting.steps = 0

    def end(made: int) -> None:
        if made == at:
            if how == "killed":
                raise Killed
            signal.raise_signal(signal.SIGTERM)

    Counting.at_step = staticmethod(end)
    with contextlib.suppress(Killed):
        train(tmp_path / "ended", **settings)
    Counting.at_step = staticmethod(lambda made: None)
    newest = Checkpoints(tmp_path / "ended").newest_state()
    assert 15 <= newest["counters"]["env_steps"] < 100
    resumed = everything(tmp_path / "ended", train(tmp_path / "ended", **settings))
    assert timeless(tmp_path / "ended") == timeless(tmp_path / "whole")
    rows_written = min(whole["replay"]["written"], len(whole["start"]))
    for column in ("action", "reward", "start", "frames"):  # the rest of a ring is not written yet
        whole[column], resumed[column] = (each[column][:rows_written] for each in (whole, resumed))
    assert_equal(resumed, whole, shape)


def test_a_checkpoint_of_an_older_version_begins_a_new_episode(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counted agent steps alone, and had no actions of the episode beside the replay buffer."""
    monkeypatch.setattr(logging.getLogger("curl"), "propagate", True)
    train(tmp_path, env_steps=33, limit=1000)
    checkpoints = Checkpoints(tmp_path)
    state, (path,) = checkpoints.newest_state(), checkpoints.states()
    del state["episode_actions"], state["counters"]["env_steps"]
    save_file(path, state, checksum=path.with_suffix(".sha256"))
    assert clock_of(checkpoints.newest_state()).env_steps == 33
    trainer = train(tmp_path, env_steps=66, limit=1000)
    assert "lacks the actions of its episode: a new episode begins" in caplog.text
    assert trainer.env_steps == 66 and trainer.episode == 1


# -- seeds ---------------------------------------------------------------------------------------


def test_runs_of_neighbouring_seeds_share_no_episode(tmp_path: Path) -> None:
    seeds = []
    for seed in (1, 2, 10**30):
        Counting.seeds = []
        train(tmp_path / str(seed), seed=seed, eval_every=30)
        probe = Counting.seeds[0]  # of the first frame, which is drawn while building
        made = [each for each in Counting.seeds if each != probe]
        assert len({s for s in made if s % 2 == 0}) == 3  # training
        assert len({s for s in made if s % 2 == 1}) == 2  # evaluation, the same ones each time
        seeds.append(set(made))
    assert not seeds[0] & seeds[1] and not seeds[1] & seeds[2] and not seeds[0] & seeds[2]
