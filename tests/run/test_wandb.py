"""wandb: whole offline files after a resumption, videos of evaluations."""

from __future__ import annotations

import io
import json
import logging
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from rich.console import Console

from curl.run.clock import ENV_STEPS, Clock
from curl.run.logger import Logger
from curl.run.video import Film
from curl.run.wandb import Wandb
from support.paths import ROOT


class Noted:
    """A wandb run that notes what it is given."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, Any]]] = []

    def log(self, values: dict[str, Any], step: int) -> None:
        self.rows.append((step, values))

    def finish(self) -> None:
        """Nothing is left to do."""


@pytest.fixture
def logger(tmp_path: Path) -> Iterator[Logger]:
    made = make_logger(tmp_path)
    yield made
    made.close()


def make_logger(folder: Path) -> Logger:
    return Logger(folder=folder, wandb="disabled", budget=9, console=Console(file=io.StringIO()))


@pytest.mark.parametrize("offline", [True, False])
def test_a_resumed_run_gives_its_earlier_rows_to_an_offline_run_only(
    logger: Logger, tmp_path: Path, offline: bool
) -> None:
    """A server has them already. Rows beyond the checkpoint go to neither."""
    for steps in (100, 200, 300):
        logger.write(
            "train", Clock("env_steps", steps, steps // 2), {"loss": steps / 7, "name": "x"}
        )
        clock = Clock("env_steps", steps, steps // 2)
        logger.write("evaluation", clock, {"return_mean": 1.0, "returns": [1.0]})
    again, noted = make_logger(tmp_path), Noted()
    again.mirrors = [Wandb(noted, offline=offline, axis=ENV_STEPS)]
    again.resume(position=200, wall_time=1.0)
    again.write("train", Clock("env_steps", 250, 125, 9), {"loss": 1.0})
    again.close()
    earlier = [
        (steps // 2, {name: value, "env_steps": steps, "updates": 0})
        for steps, loss in ((100, 14.2857), (200, 28.5714))
        for name, value in (("train/loss", loss), ("evaluation/return_mean", 1.0))
    ]
    expected = earlier if offline else []
    assert noted.rows == [*expected, (125, {"train/loss": 1.0, "env_steps": 250, "updates": 9})]


def test_a_video_that_wandb_refuses_costs_nothing_else(
    logger: Logger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "curl")
    noted = Noted()
    logger.mirrors = [mirror := Wandb(noted, offline=False, axis=ENV_STEPS)]
    logger.video_path(100).parent.mkdir()
    logger.video_path(100).write_bytes(b"MP4")
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it fails
    logger.evaluation(Clock("env_steps", 100, 50), [1.0, 2.0])
    logger.evaluation(Clock("env_steps", 200, 100), [1.0, 2.0])  # has no video
    assert [sorted(values) for _, values in noted.rows] == [
        ["env_steps", "evaluation/return_mean", "evaluation/return_std", "updates"]
    ] * 2
    assert caplog.text.count("wandb could not store the video") == 1
    assert logger.mirrors == [mirror]


OFFLINE = """
import logging, pathlib, sys
from curl.run.clock import Clock
from curl.run.logger import Logger
logging.basicConfig()
folder, begin, end = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
logger = Logger(folder=folder, wandb="offline", budget=1)
logger.resume(begin, 0.0, begin)
for step in range(begin + 10, end + 1, 10):
    logger.write("train", Clock("env_steps", step, step // 2), {"loss": float(step)})
    logger.evaluation(Clock("env_steps", step, step // 2), [1.0, 2.0])
logger.close()
"""


def records(content: bytes) -> Iterator[bytes]:
    """The records of an offline file, which is laid out as LevelDB's logs are."""
    position, parts = 7, b""
    while position + 7 <= len(content):
        left = 32768 - position % 32768
        if left < 7:  # the end of a block
            position += left
            continue
        _, size, kind = struct.unpack("<IHB", content[position : position + 7])
        if not kind:
            return
        parts += content[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            yield parts
            parts = b""


def history(path: Path) -> list[dict[str, Any]]:
    """The rows in an offline file of wandb."""
    from wandb.proto.wandb_internal_pb2 import Record

    found = []
    for data in records(path.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            found.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items})
    return found


def test_every_offline_file_holds_the_whole_run(tmp_path: Path) -> None:
    """The run is killed at env step 60, and resumed from its checkpoint at 40, to 80."""
    videos = [Logger.video_path(make_logger(tmp_path), steps) for steps in (20, 70)]
    for video in videos:
        with Film(video, Fraction(10)) as film:
            for _ in range(3):
                film.add(np.zeros((16, 16, 3), np.uint8))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    environment |= {"WANDB_CONSOLE": "off", "PYTHONPATH": str(ROOT)}
    for begin, end in ((-10, 60), (40, 80)):
        done = subprocess.run(
            [sys.executable, "-c", OFFLINE, str(tmp_path), str(begin), str(end)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    files = sorted((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2
    for file, end in zip(files, (60, 80), strict=True):
        rows = history(file)
        steps = list(range(0, end + 1, 10))
        assert [row["env_steps"] for row in rows] == steps  # each once, and rising
        assert [row["_step"] for row in rows] == [step // 2 for step in steps]
        assert all(row["evaluation/return_mean"] == 1.5 for row in rows)
        shown = [
            row["env_steps"]
            for row in rows
            if any(name.startswith("evaluation/video") for name in row)
        ]
        assert shown == [step for step in (20, 70) if step <= end]
        media = list((file.parent / "files" / "media" / "videos").rglob("*.mp4"))
        assert len(media) == len(shown)
        with av.open(str(media[0])) as container:
            assert len(list(container.decode(video=0))) == 3
