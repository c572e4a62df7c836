"""Evaluations: seeded episodes, side by side as one after another; videos that play."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from curl.evaluation import Evaluator, write_video

SETTINGS = {"env_id": "Pendulum-v1", "action_repeat": 4, "render_size": 24}


class Bright:
    """Acts on the mean brightness of the newest frame: a policy that needs no learning."""

    def act(self, obs: Any, *, deterministic: bool) -> torch.Tensor:
        assert deterministic
        brightness = obs.frames[obs.rows[:, -1]].float().mean((1, 2, 3)) / 255
        return (2 * brightness - 1)[:, None].clamp(-1, 1)


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
        assert double(Bright(), seed=6)[:2] == pytest.approx(expected[1:])
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
    write_video(tmp_path / "steps.mp4", frames, fps=10)
    with av.open(str(tmp_path / "steps.mp4")) as container:
        means = [f.to_ndarray(format="rgb24").mean() for f in container.decode(video=0)]
        assert container.streams.video[0].average_rate == 10
    np.testing.assert_allclose(means, [0, 80, 160, 240], atol=6)
