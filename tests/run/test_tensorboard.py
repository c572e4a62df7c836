"""TensorBoard: the names and axes of the metrics, whole files after a resumption, videos."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from curl.run.clock import ENV_STEPS, UPDATES, Clock
from curl.run.folder import RunFolder
from curl.run.logger import Logger
from curl.run.mirror import Mirror, Row
from curl.run.start import train
from curl.run.video import Film
from support import faulty  # noqa: F401  registers environments
from support.configuration import composed
from support.paths import ROOT
from support.programs import SETTINGS, rows

pytest.importorskip("tensorboard", reason="extra tensorboard")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_accumulator import (
    EventAccumulator as OpenTensorBoard,
)

EVERYTHING = {"scalars": 0, "images": 0, "tensors": 0}
CONFIG = {"seed": 7, "task": {"name": "walker_walk"}}
Points = dict[str, list[tuple[int, float]]]


@pytest.fixture
def loggers(tmp_path: Path) -> Iterator[list[Logger]]:
    """Loggers to close."""
    made: list[Logger] = []
    yield made
    for logger in made:
        logger.close()


def make_logger(folder: Path, axis: str = ENV_STEPS) -> Logger:
    return Logger(
        folder=folder,
        wandb="disabled",
        tensorboard=True,
        config=CONFIG,
        axis=axis,
        budget=1000,
        console=Console(file=io.StringIO()),
    )


def at(env_steps: int, updates: int = 0) -> Clock:
    return Clock(ENV_STEPS, env_steps, env_steps // 2, updates)


def events(folder: Path) -> EventAccumulator:
    """What TensorBoard reads in a folder when it is opened now."""
    found = EventAccumulator(str(folder), size_guidance=EVERYTHING)
    found.Reload()
    return found


def scalars(folder: Path) -> Points:
    found = events(folder)
    return {
        name: [(point.step, point.value) for point in found.Scalars(name)]
        for name in found.Tags()["scalars"]
    }


def expected(written: list[Mapping[str, Any]], axis: str = ENV_STEPS) -> Points:
    """The points that these rows of metrics.jsonl are in TensorBoard."""
    points: Points = {}
    for row in written:
        for name, value in row.items():
            aside = ("kind", "env_steps", "agent_steps", "updates", "wall_time")
            if name not in aside and isinstance(value, (int, float)):
                point = (row[axis], pytest.approx(value, rel=1e-6))
                points.setdefault(f"{row['kind']}/{name}", []).append(point)
    return points


def film(path: Path, frames: int, rate: Fraction = Fraction(10)) -> None:
    """An MP4 whose frames grow brighter."""
    with Film(path, rate) as video:
        for number in range(frames):
            video.add(np.full((16, 24, 3), 250 * number // frames, np.uint8))


# -- names and axes --------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [ENV_STEPS, UPDATES])
def test_scalars_have_the_names_of_the_metrics_and_lie_on_the_axis_of_the_run(
    tmp_path: Path, loggers: list[Logger], axis: str
) -> None:
    loggers.append(logger := make_logger(tmp_path, axis))
    logger.resume(-1, 0.0)
    for n in (1, 2, 3):
        clock = Clock(axis, 0 if axis == UPDATES else 100 * n, 50 * n, 7 * n)
        logger.write("train", clock, {"critic_loss": n / 3, "text": "x", "none": None})
        logger.evaluation(clock, [1.0, 3.0 * n])
    assert scalars(tmp_path) == expected(rows(tmp_path), axis)
    steps = [step for step, _ in scalars(tmp_path)["evaluation/return_mean"]]
    assert steps == ([7, 14, 21] if axis == UPDATES else [100, 200, 300])


def test_numbers_that_are_not_finite_are_no_points(tmp_path: Path, loggers: list[Logger]) -> None:
    """JSON lines spell them out, so they are no numbers in a row."""
    loggers.append(logger := make_logger(tmp_path))
    logger.write("train", at(100), {"loss": float("nan"), "norm": float("inf"), "alpha": 0.5})
    assert scalars(tmp_path) == {"train/alpha": [(100, 0.5)]}


def test_the_settings_are_shown_as_a_text(tmp_path: Path, loggers: list[Logger]) -> None:
    loggers.append(make_logger(tmp_path))
    found = OpenTensorBoard(str(tmp_path))
    found.Reload()
    assert found.PluginTagToContent("text").keys() == {"config"}
    (text,) = found.Tensors("config")[0].tensor_proto.string_val
    assert text.decode().splitlines() == ["    seed: 7", "    task:", "      name: walker_walk"]


def test_without_the_setting_there_is_no_file(tmp_path: Path) -> None:
    logger = Logger(folder=tmp_path, wandb="disabled", budget=1, console=Console(quiet=True))
    logger.resume(-1, 0.0)
    logger.close()
    assert RunFolder(tmp_path).events() == []


def test_relative_time_is_the_time_trained(tmp_path: Path, loggers: list[Logger]) -> None:
    """The pause between two starts of the run does not count."""
    logger = make_logger(tmp_path)
    logger.resume(-1, 0.0)
    logger.started -= 100  # seconds that it has been training
    logger.write("train", at(100), {"loss": 1.0})
    logger.close()
    loggers.append(again := make_logger(tmp_path))
    again.resume(position=100, wall_time=100.0)
    again.started -= 50
    again.write("train", at(200), {"loss": 1.0})
    first, second = events(tmp_path).Scalars("train/loss")
    trained = [row["wall_time"] for row in rows(tmp_path)]
    assert second.wall_time - first.wall_time == pytest.approx(trained[1] - trained[0], abs=0.01)
    assert trained[1] - trained[0] == pytest.approx(50, abs=10)


# -- resuming --------------------------------------------------------------------------------------


def write(logger: Logger, *positions: int, scale: float = 1.0) -> None:
    for steps in positions:
        logger.write("train", at(steps), {"loss": scale * steps})
        logger.evaluation(at(steps), [scale, scale * steps])


@pytest.mark.parametrize("last_evaluation", [100, 200])
def test_a_resumed_run_repeats_no_point_and_loses_none(
    tmp_path: Path, loggers: list[Logger], last_evaluation: int
) -> None:
    """Neither for a TensorBoard that is opened later, nor for one that is open all the time."""
    loggers.append(first := make_logger(tmp_path))
    first.resume(-1, 0.0)
    write(first, 100, 200, 300)  # and it is killed: nothing closes it
    watching = OpenTensorBoard(str(tmp_path))
    watching.Reload()
    loggers.append(again := make_logger(tmp_path))
    again.resume(200, 1.0, last_evaluation)
    write(again, 250, scale=2.0)
    assert scalars(tmp_path) == expected(rows(tmp_path))
    assert [step for step, _ in scalars(tmp_path)["train/loss"]] == [100, 200, 250]
    watching.Reload()
    for name, points in expected(rows(tmp_path)).items():
        shown = watching.Tensors(name)
        assert [point.step for point in shown] == [step for step, _ in points], name
        values = [point.tensor_proto.float_val[0] for point in shown]
        assert values == [value for _, value in points], name


def test_a_run_that_dies_while_it_resumes_loses_nothing(
    tmp_path: Path, loggers: list[Logger]
) -> None:
    """Its old file is emptied only when the new one is whole; the next start clears up after it."""
    loggers.append(first := make_logger(tmp_path))
    first.resume(-1, 0.0)
    write(first, 100, 200)
    loggers.append(make_logger(tmp_path))  # dies before it resumes
    assert sizes(tmp_path).count(0) == 0
    for left in (2, 1, 1):
        loggers.append(again := make_logger(tmp_path))
        again.resume(200, 0.0, 200)
        *emptied, newest = sizes(tmp_path)
        assert (emptied, newest > 0) == ([0] * left, True)
        assert scalars(tmp_path) == expected(rows(tmp_path))


def sizes(folder: Path) -> list[int]:
    return [path.stat().st_size for path in RunFolder(folder).events()]


def test_a_run_that_begins_to_use_it_shows_what_came_before(
    tmp_path: Path, loggers: list[Logger]
) -> None:
    first = Logger(folder=tmp_path, wandb="disabled", budget=9, console=Console(quiet=True))
    write(first, 100, 200)
    first.close()
    loggers.append(again := make_logger(tmp_path))
    again.resume(200, 0.0, 200)
    assert scalars(tmp_path) == expected(rows(tmp_path))


KILLED = """
import os, pathlib, signal, sys
from curl.run.clock import Clock
from curl.run.logger import Logger
logger = Logger(folder=pathlib.Path(sys.argv[1]), wandb="disabled", tensorboard=True, budget=1)
logger.resume(-1, 0.0)
for step in range(1, 8):
    logger.write("train", Clock("env_steps", step, step), {"loss": float(step)})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_run_that_is_killed_has_written_every_row(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, timeout=120)
    assert done.returncode == -9
    assert scalars(tmp_path) == expected(rows(tmp_path))
    assert len(rows(tmp_path)) == 7


def test_a_trained_run_and_its_resumption(tmp_path: Path, handlers: None) -> None:
    """Every number in metrics.jsonl, as a run writes it, once."""
    settings = SETTINGS | {
        "task.env_id": "Sound-v0",
        "task.action_repeat": 1,
        "initial_steps": 5,
        "eval_every": 20,
        "checkpoint_every": 20,
        "log_every": 1,
        "video": True,
        "logger.tensorboard": True,
        "run_dir": tmp_path,
    }
    for env_steps in (20, 40):
        run = composed(*(f"{k}={v}" for k, v in (settings | {"env_steps": env_steps}).items()))
        assert train({key: value for key, value in run.items() if key != "experiment"}) == 0
    found = scalars(tmp_path)
    assert found == expected(rows(tmp_path))
    assert {name.split("/")[0] for name in found} == {"train", "episode", "evaluation"}
    videos = events(tmp_path).Images("evaluation/video")
    assert [video.step for video in videos] == [0, 20, 40]


# -- videos ----------------------------------------------------------------------------------------


def test_an_evaluation_has_its_video(tmp_path: Path, loggers: list[Logger]) -> None:
    loggers.append(logger := make_logger(tmp_path))
    film(logger.video_path(200), frames=30)
    for steps in (100, 200):
        logger.evaluation(at(steps), [1.0])
    (video,) = events(tmp_path).Images("evaluation/video")
    assert (video.step, video.height, video.width) == (200, 16, 24)
    with Image.open(io.BytesIO(video.encoded_image_string)) as shown:
        assert getattr(shown, "n_frames", 1) == 30


def test_a_video_that_cannot_be_read_costs_nothing_else(
    tmp_path: Path, loggers: list[Logger], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "curl")
    loggers.append(logger := make_logger(tmp_path))
    logger.video_path(100).parent.mkdir()
    logger.video_path(100).write_bytes(b"MP4")
    logger.evaluation(at(100), [2.0])
    logger.evaluation(at(200), [3.0])
    assert scalars(tmp_path)["evaluation/return_mean"] == [(100, 2.0), (200, 3.0)]
    assert caplog.text.count("TensorBoard could not store the video") == 1


# -- failures, and wandb beside it -----------------------------------------------------------------


class Other(Mirror):
    """Another mirror, which fails from the second row on if it is told to."""

    name = "another"

    def __init__(self, fails: bool) -> None:
        self.fails, self.given = fails, 0

    def write(self, row: Row) -> None:
        self.given += 1
        if self.fails and self.given > 1:
            raise ConnectionError("broken pipe")

    def close(self) -> None:
        """Nothing is left."""


@pytest.mark.parametrize("fails", [False, True])
def test_it_works_beside_another_mirror_and_does_not_depend_on_it(
    tmp_path: Path, loggers: list[Logger], caplog: pytest.LogCaptureFixture, fails: bool
) -> None:
    caplog.set_level(logging.WARNING, "curl")
    loggers.append(logger := make_logger(tmp_path))
    logger.mirrors.insert(0, other := Other(fails))
    write(logger, 100, 200)
    assert other.given == (2 if fails else 4)
    assert scalars(tmp_path) == expected(rows(tmp_path))
    assert caplog.text.count("another failed, and gets no more metrics") == int(fails)


def test_a_file_that_cannot_be_written_does_not_stop_training(
    tmp_path: Path, loggers: list[Logger], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "curl")
    loggers.append(logger := make_logger(tmp_path))
    (mirror,) = logger.mirrors
    mirror.close()  # as if the disk had gone
    write(logger, 100, 200)
    assert [row["env_steps"] for row in rows(tmp_path)] == [100, 100, 200, 200]
    assert caplog.text.count("TensorBoard failed, and gets no more metrics") == 1


def test_a_file_that_cannot_be_made_does_not_stop_training(
    tmp_path: Path,
    loggers: list[Logger],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "curl")
    monkeypatch.setattr(RunFolder, "new_events", lambda self, _: self.path / "gone" / "events")
    loggers.append(logger := make_logger(tmp_path))
    logger.resume(-1, 0.0)
    write(logger, 100)
    assert len(rows(tmp_path)) == 2
    assert caplog.text.count("TensorBoard cannot be used: ") == 1
