"""Probes of an encoder: which examples they take, what they find, and that they change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from curl.data.dataset import Dataset
from curl.data.environment import make_env, state_of
from curl.data.writing import write
from curl.run import probes
from curl.run.guard import Watchdog
from curl.run.probes import DISCOUNT, Probes, recorded, returns_to_go
from curl.run.start import train
from support import faulty  # noqa: F401  registers the environment
from support.datasets import origin
from support.faulty import EDGE, Sound
from support.offline import config, newest
from support.programs import rows
from support.recorded import STEPS, played

NAME = "sound/random-v0"
EPISODES = 9


class Seeing:
    """An agent whose features are the mean of the newest frame, which shows Sound's position."""

    def features(self, obs: Any) -> torch.Tensor:
        return obs.whole()[:, -1].float().mean((1, 2))[:, None]


class Blind:
    def features(self, obs: Any) -> torch.Tensor:
        return torch.randn(len(obs), 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    return write(NAME, [played(s) for s in range(EPISODES)], origin(EDGE, action_dim=1))


def measured(made: Dataset, agent: Any, episodes: int | None = None) -> dict[str, float]:
    found = Probes(
        replay=made.replay(episodes=episodes),
        dataset=made,
        settings={"env_id": "Sound-v0", "action_repeat": 1, "render_size": EDGE},
        episodes=episodes,
        seed=3,
    )
    return found(agent, Watchdog(timeout=30, on_hang=lambda cause: None))


def test_what_features_show_is_found(made: Dataset) -> None:
    """The state is a position that frames show. The reward, 1 - |position|, is not linear in it."""
    seen, unseen = measured(made, Seeing()), measured(made, Blind())
    assert seen.keys() == unseen.keys() == {"reward_r2", "return_to_go_r2", "state_r2"}
    assert seen["state_r2"] > 0.99
    assert max(unseen.values()) < 0.2


def test_too_few_episodes_have_no_probes(made: Dataset) -> None:
    assert measured(made, Seeing(), episodes=5) == {}


def test_a_run_of_too_few_episodes_says_so(
    made: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING", "curl"):
        assert train(config(tmp_path, dataset=NAME, dataset_episodes=5, probes=True)) == 0
    assert "no probes: they need 6 episodes, and the run has 5" in caplog.text
    assert not [row for row in rows(tmp_path) if row["kind"] == "probe"]


def test_examples_are_the_transitions_of_whole_episodes(
    made: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "TRANSITIONS", 7 * STEPS)
    replay = made.replay()
    found = recorded(replay, seed=1)
    assert found is not None
    assert len(found.stacks) == 7 * STEPS and len(set(found.episode)) == 7
    newest_frames = found.stacks.whole()[:, -1, 0, 0].numpy()
    every = {int(s): s for s in range(EPISODES)}
    episodes = [played(seed) for seed in every]
    for row in range(0, len(newest_frames), 5):
        matches = [
            at
            for episode in episodes
            for at in range(STEPS)
            if episode.frames[at, 0, 0, 0] == newest_frames[row]
            and episode.rewards[at] == np.float32(found.targets["reward"][row, 0])
        ]
        assert matches, "the reward is that of the action taken at the observation"


def test_returns_to_go_in_closed_form() -> None:
    reward = np.array([[1.0], [2.0], [3.0], [10.0], [20.0]])
    found = returns_to_go(reward, np.array([0, 0, 0, 1, 1]))
    d = DISCOUNT
    wanted = [1 + d * (2 + d * 3), 2 + d * 3, 3, 10 + d * 20, 20]
    assert np.allclose(found[:, 0], wanted)


class Picturing(Sound):
    """Observes its own frames, and no numbers."""

    observation_space = gym.spaces.Box(0, 255, (EDGE, EDGE, 3), np.uint8)

    def observation(self) -> np.ndarray:
        return self.render()


gym.register("Picturing-v0", entry_point=Picturing, max_episode_steps=100)


@pytest.mark.parametrize(
    ("env_id", "size"),
    [("dm_control/cartpole-swingup-v0", 5), ("Pendulum-v1", 3), ("Picturing-v0", None)],
)
def test_the_state_that_an_environment_observes(env_id: str, size: int | None) -> None:
    env = make_env(env_id=env_id, action_repeat=1, render_size=20)
    env.reset(seed=0)
    state = state_of(env)
    env.close()
    assert (None if state is None else state.shape) == (None if size is None else (size,))


def test_probes_are_rows_of_the_metrics_and_change_nothing(
    made: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_probes, without = tmp_path / "with", tmp_path / "without"
    assert train(config(with_probes, dataset=NAME, probes=True)) == 0
    assert "R² of probes: reward " in capsys.readouterr().out
    assert train(config(without, dataset=NAME)) == 0
    found = [row for row in rows(with_probes) if row["kind"] == "probe"]
    assert [row["updates"] for row in found] == [0, 6, 12]
    assert all(row["state_r2"] <= 1 for row in found)
    ours, theirs = (newest(folder)["agent"]["modules"] for folder in (with_probes, without))
    for name, module in ours.items():
        assert all(torch.equal(module[key], theirs[name][key]) for key in module)


def test_a_failing_probe_is_a_warning(
    made: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: Any) -> None:
        raise ArithmeticError("singular")

    monkeypatch.setattr("curl.run.probes.held_out_r2", fail)
    with caplog.at_level("WARNING", "curl"):
        assert train(config(tmp_path / "run", dataset=NAME, probes=True)) == 0
    assert "the probes at 0 updates failed: ArithmeticError: singular" in caplog.text


def test_probes_belong_to_the_offline_loop(made: Dataset, tmp_path: Path) -> None:
    online = {"loop": "online", "updates": "null", "dataset": "null", "env_steps": 30}
    with pytest.raises(ValueError, match="probes=true has no meaning with loop=online"):
        train(config(tmp_path / "run", **online, probes=True))
