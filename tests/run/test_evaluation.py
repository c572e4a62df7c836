"""Evaluations: seeded episodes, side by side as one after another; videos that play."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import yaml

from curl.data.environment import environment_settings
from curl.run import evaluation
from curl.run.evaluation import Evaluator
from curl.run.guard import Watchdog
from curl.run.video import Film
from support.paths import CONFIGS
from support.worker_processes import make_here

SETTINGS = {"env_id": "Pendulum-v1", "action_repeat": 4, "render_size": 24}


class Bright:
    """Acts on the mean brightness of the newest frame: a policy that needs no learning."""

    def act(self, obs: Any, *, deterministic: bool) -> torch.Tensor:
        assert deterministic
        brightness = obs.frames[obs.indices[:, -1]].float().mean((1, 2, 3)) / 255
        return (2 * brightness - 1)[:, None].clamp(-1, 1)


class Still:
    """Does nothing, in `width` components."""

    def __init__(self, width: int) -> None:
        self.width = width

    def act(self, obs: Any, *, deterministic: bool) -> torch.Tensor:
        return torch.zeros(len(obs), self.width)


def evaluator(processes: int, episodes: int = 3) -> Evaluator:
    return Evaluator(
        settings=SETTINGS,
        episodes=episodes,
        frame_stack=3,
        device=torch.device("cpu"),
        processes=processes,
    )


def test_side_by_side_gives_the_returns_of_one_after_another() -> None:
    single, double = evaluator(1), evaluator(2)
    try:
        expected = single(Bright(), seed=5)
        assert len(set(expected)) == 3
        assert double(Bright(), seed=5) == pytest.approx(expected)
        assert not set(double(Bright(), seed=6)) & set(expected)  # no episode in common
    finally:
        double.close()


def test_the_video_plays_the_first_episode(tmp_path: Path) -> None:
    evaluator(1, episodes=1)(Bright(), seed=0, video=tmp_path / "folder" / "episode.mp4")
    with av.open(str(tmp_path / "folder" / "episode.mp4")) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    assert len(frames) == 50  # 200 env steps, action repeat 4
    assert frames[0].std() > 0


def test_a_written_video_holds_the_frames(tmp_path: Path) -> None:
    frames = [np.full((32, 48, 3), value, np.uint8) for value in (0, 80, 160, 240)]
    with Film(tmp_path / "steps.mp4", Fraction(25, 2)) as film:
        for pixels in frames:
            film.add(pixels)
    with av.open(str(tmp_path / "steps.mp4")) as container:
        means = [f.to_ndarray(format="rgb24").mean() for f in container.decode(video=0)]
        assert container.streams.video[0].average_rate == Fraction(25, 2)
    np.testing.assert_allclose(means, [0, 80, 160, 240], atol=6)
    assert [path.name for path in tmp_path.iterdir()] == ["steps.mp4"]


def test_a_video_that_is_broken_off_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(InterruptedError), Film(tmp_path / "steps.mp4", Fraction(10)) as film:
        film.add(np.zeros((32, 48, 3), np.uint8))
        raise InterruptedError
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("env_id", "action_repeat", "seconds"),
    [("Pendulum-v1", 3, 10.05), ("dm_control/point_mass-easy-v0", 28, 20.16)],
)
def test_a_video_plays_at_true_speed(
    tmp_path: Path, env_id: str, action_repeat: int, seconds: float
) -> None:
    """200 steps of 0.05 s, and 1000 of 0.02 s, in whole agent steps."""
    settings = {"env_id": env_id, "action_repeat": action_repeat, "render_size": 24}
    shown = Evaluator(
        settings=settings | {"shadow_size": 16},
        episodes=1,
        frame_stack=1,
        device=torch.device("cpu"),
    )
    width = 1 if env_id == "Pendulum-v1" else 2
    shown(Still(width), seed=0, video=tmp_path / "episode.mp4")
    with av.open(str(tmp_path / "episode.mp4")) as container:
        stream = container.streams.video[0]
        length = stream.duration * stream.time_base
    assert float(length) == pytest.approx(seconds, abs=1e-3)


# -- environments that fail ------------------------------------------------------------------------


def failing(name: str, processes: int) -> Evaluator:
    settings = {"env_id": f"{name}-v0", "action_repeat": 1, "render_size": 24}
    device = torch.device("cpu")
    return Evaluator(
        settings=settings, episodes=2, frame_stack=3, device=device, processes=processes
    )


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "make_stacked_env", make_here)


@pytest.fixture
def plain_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Episode i gets the seed `seed` + 2 * i: an even one, or an odd one as evaluations have."""
    monkeypatch.setattr(evaluation, "episode_seed", lambda seed, stream, i: seed + 2 * i)


@pytest.fixture
def watchdog() -> Iterator[Watchdog]:
    handler = signal.getsignal(signal.SIGUSR2)
    yield Watchdog(timeout=2, on_hang=lambda cause: os._exit(3))
    signal.signal(signal.SIGUSR2, handler)


@pytest.mark.usefixtures("plain_seeds")
@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_an_environment_that_hangs_is_left(watchdog: Watchdog, processes: int) -> None:
    """It hangs under seeds of evaluations; side by side its processes are ended, then made anew."""
    tried = failing("HangsInEvaluation", processes)
    try:
        sound = tried(Bright(), seed=0)  # starts the processes, which takes longer than 2 s
        began = time.monotonic()
        with pytest.raises(TimeoutError, match="has not answered for 2 s"):
            tried(Bright(), seed=1, watchdog=watchdog)
        assert 2 <= time.monotonic() - began < 20
        assert tried(Bright(), seed=0) == sound
    finally:
        tried.close()


@pytest.mark.usefixtures("plain_seeds")
@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("name", "error"), [("NaNInEvaluation", ValueError), ("RaisesInEvaluation", ArithmeticError)]
)
def test_an_environment_that_fails_is_named_and_made_anew(
    name: str, error: type[Exception], processes: int
) -> None:
    tried = failing(name, processes)
    try:
        with pytest.raises(error):
            tried(Bright(), seed=1)
        assert len(tried(Bright(), seed=0)) == 2
    finally:
        tried.close()


def test_a_video_that_cannot_be_written_costs_no_returns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("curl"), "propagate", True)
    (tmp_path / "videos").touch()  # where a folder should be
    expected = evaluator(1, episodes=1)(Bright(), seed=5)
    video = tmp_path / "videos" / "episode.mp4"
    assert evaluator(1, episodes=1)(Bright(), seed=5, video=video) == expected
    assert f"the video {video} could not be written: " in caplog.text


def test_no_look_is_left_behind_in_the_processes() -> None:
    """After each look of configs/shift, the same frames are seen as before any of them."""
    task = yaml.safe_load((CONFIGS / "task" / "cartpole_swingup.yaml").read_text())
    task |= {"action_repeat": 200}
    config = {"task": task, "render_size": 24, "shadow_size": 16}
    tried = Evaluator(
        settings=environment_settings(config, software=True),
        episodes=2,
        frame_stack=1,
        device=torch.device("cpu"),
        processes=2,
    )

    def seen(shift: dict[str, Any] | None = None) -> np.ndarray:
        frames: list[np.ndarray] = []
        tried(Still(1), seed=3, seen=frames, shift=shift)
        return np.stack(frames)

    try:
        before = seen()
        for path in sorted((CONFIGS / "shift").glob("*.yaml")):
            shift = yaml.safe_load(path.read_text())
            assert (seen(shift) != before).any() == (path.stem != "none"), path.stem
            np.testing.assert_array_equal(seen(), before, err_msg=path.stem)
    finally:
        tried.close()
