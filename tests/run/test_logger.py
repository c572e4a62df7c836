"""Logger: JSON lines on disk, whole or not at all, and none twice after a resumption."""

from __future__ import annotations

import contextlib
import http.server
import io
import json
import logging
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from curl.run.clock import ENV_STEPS, Clock
from curl.run.logger import Logger
from curl.run.wandb import Wandb
from support.paths import ROOT


@pytest.fixture
def printed() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def logger(tmp_path: Path, printed: io.StringIO) -> Iterator[Logger]:
    logger = make_logger(tmp_path, printed)
    yield logger
    logger.close()


def make_logger(folder: Path, printed: io.StringIO) -> Logger:
    console = Console(file=printed, width=120)
    return Logger(folder=folder, wandb="disabled", budget=1000, console=console)


def at(env_steps: int, agent_steps: int) -> Clock:
    return Clock("env_steps", env_steps, agent_steps)


def rows(folder: Path) -> list[dict[str, Any]]:
    """All rows; a line that is no strict JSON (a bare NaN, say) fails."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    text = (folder / "metrics.jsonl").read_text()
    assert text == "" or text.endswith("\n")
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


@contextlib.contextmanager
def disk_full_after(size: int) -> Iterator[None]:
    """No file of this process grows beyond `size` bytes: a write that crosses it is cut off."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# -- rows ------------------------------------------------------------------------------------------


def test_a_row_says_what_when_and_its_values(logger: Logger, tmp_path: Path) -> None:
    logger.write("train", Clock("env_steps", 800, 100, 90), {"critic_loss": torch.tensor(0.25)})
    logger.write("evaluation", at(800, 100), {"return_mean": 2.5, "returns": [2.0, 3.0]})
    train, evaluation = rows(tmp_path)
    assert list(train)[:5] == ["kind", "env_steps", "agent_steps", "updates", "wall_time"]
    assert 0 <= train.pop("wall_time") < 60
    assert train == {
        "kind": "train",
        "env_steps": 800,
        "agent_steps": 100,
        "updates": 90,
        "critic_loss": 0.25,
    }
    assert evaluation["kind"] == "evaluation"
    assert (evaluation["return_mean"], evaluation["returns"]) == (2.5, [2.0, 3.0])


@pytest.mark.parametrize("name", ["kind", "env_steps", "agent_steps", "updates", "wall_time"])
def test_a_metric_does_not_hide_what_every_row_says(logger: Logger, name: str) -> None:
    with pytest.raises(ValueError, match=f"no metric can be called {name}"):
        logger.write("train", at(1, 1), {"loss": 1.0, name: 2.0})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=str)
def test_what_json_cannot_hold_is_spelt_out(logger: Logger, tmp_path: Path, value: float) -> None:
    logger.write("train", at(1, 1), {"loss": value, "norm": torch.tensor(value)})
    assert (rows(tmp_path)[0]["loss"], rows(tmp_path)[0]["norm"]) == (str(value), str(value))


@pytest.mark.parametrize("value", [1.2345678e-9, 0.12345678, 12345.678, 9.8765432e11])
def test_values_keep_six_digits_whatever_their_size(
    logger: Logger, tmp_path: Path, value: float
) -> None:
    """A solved objective's loss is tiny, and not 0."""
    logger.write("train", at(1, 1), {"contrastive_loss": value})
    assert rows(tmp_path)[0]["contrastive_loss"] == pytest.approx(value, rel=1e-5)


def test_unknown_wandb_modes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean 'offline'"):
        Logger(folder=tmp_path, wandb="ofline", budget=1)


# -- resuming --------------------------------------------------------------------------------------


def test_resuming_drops_later_rows_and_half_lines(
    logger: Logger, tmp_path: Path, printed: io.StringIO
) -> None:
    for steps in (100, 200, 300, 400):
        logger.write("train", at(steps, steps // 2), {"loss": 1.0})
    with logger.path.open("a") as file:
        file.write('{"kind": "train", "env_st')
    again = make_logger(tmp_path, printed)
    again.resume(position=200, wall_time=50.0)
    assert [row["env_steps"] for row in rows(tmp_path)] == [100, 200]
    again.write("train", at(300, 150), {"loss": 2.0})
    again.close()
    assert [row["env_steps"] for row in rows(tmp_path)] == [100, 200, 300]
    assert rows(tmp_path)[2]["loss"] == 2.0
    assert rows(tmp_path)[2]["wall_time"] >= 50.0


@pytest.mark.parametrize("line", ["", "[1, 2]", "7", '"text"', '{"kind": "train"}', "\xff\x00{"])
def test_resuming_drops_lines_that_are_no_rows(logger: Logger, tmp_path: Path, line: str) -> None:
    logger.write("train", at(100, 50), {})
    with logger.path.open("ab") as file:
        file.write(line.encode("latin-1") + b"\n")
    logger.write("train", at(200, 100), {})
    logger.resume(position=1000, wall_time=0.0)
    assert [row["env_steps"] for row in rows(tmp_path)] == [100, 200]


def test_resuming_drops_an_evaluation_that_will_be_made_again(
    logger: Logger, tmp_path: Path
) -> None:
    """The checkpoint of a run that was stopped while it evaluated at env step 200."""
    for steps in (100, 200):
        logger.write("train", at(steps, steps // 2), {})
        logger.write("evaluation", at(steps, steps // 2), {})
    logger.resume(position=200, wall_time=0.0, last_evaluation=100)
    kept = [(row["kind"], row["env_steps"]) for row in rows(tmp_path)]
    assert kept == [("train", 100), ("evaluation", 100), ("train", 200)]


def test_resuming_an_empty_folder_is_no_error(logger: Logger, tmp_path: Path) -> None:
    logger.resume(position=0, wall_time=3.0)
    assert not logger.path.exists()
    assert logger.wall_time() >= 3.0


# -- a failing disk --------------------------------------------------------------------------------


@pytest.mark.parametrize("room", [0, 1, 40])
def test_a_full_disk_leaves_no_half_line(
    logger: Logger, tmp_path: Path, caplog: pytest.LogCaptureFixture, room: int
) -> None:
    """With room for none or some of a row, training goes on, warned once, and later rows follow."""
    caplog.set_level(logging.WARNING, "curl")
    logger.write("train", at(100, 50), {"loss": 1.0})
    with disk_full_after(logger.path.stat().st_size + room):
        logger.write("train", at(200, 100), {"loss": 1.0})
        logger.write("train", at(300, 150), {"loss": 1.0})
    assert [row["env_steps"] for row in rows(tmp_path)] == [100]
    assert caplog.text.count("metrics cannot be written") == 1
    logger.write("train", at(400, 200), {"loss": 1.0})
    assert [row["env_steps"] for row in rows(tmp_path)] == [100, 400]


def test_a_folder_that_went_away_does_not_stop_training(
    logger: Logger, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "curl")
    logger.path = tmp_path / "gone" / "metrics.jsonl"
    logger.write("train", at(100, 50), {"loss": 1.0})
    assert "metrics cannot be written" in caplog.text


# -- the console -----------------------------------------------------------------------------------


def test_evaluations_make_a_table(logger: Logger, tmp_path: Path, printed: io.StringIO) -> None:
    logger.evaluation(at(0, 0), [1.0, 3.0])
    logger.evaluation(at(10_000, 1250), [250.0, 350.0])
    header, first, second = printed.getvalue().splitlines()
    assert header.split()[:2] == ["env", "steps"]
    assert "sample std" in header
    assert first.split()[:5] == ["0", "2.0", "1.4", "1.0", "3.0"]
    assert second.split()[:5] == ["10,000", "300.0", "70.7", "250.0", "350.0"]
    row = rows(tmp_path)[1]
    assert (row["kind"], row["env_steps"], row["agent_steps"]) == ("evaluation", 10_000, 1250)
    assert (row["return_mean"], row["return_std"]) == (300.0, 70.7107)  # of a sample: ddof = 1
    assert row["returns"] == [250.0, 350.0]


def test_one_episode_has_no_standard_deviation(
    logger: Logger, tmp_path: Path, printed: io.StringIO
) -> None:
    logger.evaluation(at(0, 0), [7.0])
    assert printed.getvalue().splitlines()[1].split()[:3] == ["0", "7.0", "-"]
    assert rows(tmp_path)[0]["return_std"] is None


@pytest.mark.parametrize("text", ["runs/[a]/seed_1", "[/]", "[bold]x", "[link=y]z"])
def test_what_is_announced_is_no_markup(logger: Logger, printed: io.StringIO, text: str) -> None:
    logger.announce(text)
    assert printed.getvalue() == f"{text}\n"


# -- wandb -----------------------------------------------------------------------------------------


class Stuck:
    """A wandb run whose network went away."""

    dir = "/run/wandb/run-7/files"
    logged = 0

    def log(self, values: Any, step: int) -> None:
        self.logged += 1
        raise ConnectionError("broken pipe")

    def finish(self) -> None:
        raise TimeoutError("Timed out finishing run.")


def test_a_wandb_that_cannot_upload_is_said_with_the_remedy(
    logger: Logger, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "curl")
    logger.mirrors = [Wandb(Stuck(), offline=False, axis=ENV_STEPS)]
    logger.close()
    assert "Timed out finishing run.; `wandb sync /run/wandb/run-7` uploads the rest" in caplog.text


def test_a_wandb_that_fails_does_not_stop_training(
    logger: Logger, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "curl")
    stuck = Stuck()
    logger.mirrors = [Wandb(stuck, offline=False, axis=ENV_STEPS)]
    logger.write("train", at(100, 50), {"loss": 1.0})
    logger.write("train", at(200, 100), {"loss": 1.0})
    assert stuck.logged == 1 and caplog.text.count("wandb failed") == 1
    assert [row["env_steps"] for row in rows(tmp_path)] == [100, 200]


ONLINE = """
import logging, pathlib, sys
from curl.run.clock import Clock
from curl.run.logger import Logger
logging.basicConfig()
logger = Logger(folder=pathlib.Path(sys.argv[1]), wandb="auto", budget=1)
logger.write("train", Clock(env_steps=1, agent_steps=1), {"loss": 1.0})
logger.close()
"""


def start_online(folder: Path, server: str) -> subprocess.CompletedProcess[str]:
    """A logger with a key, in a process of its own; wandb gets 4 seconds to begin and to finish."""
    wandb = {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": server, "WANDB_CONSOLE": "off"}
    wandb |= {"WANDB_INIT_TIMEOUT": "4", "WANDB_FINISH_TIMEOUT": "4"}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    return subprocess.run(
        [sys.executable, "-c", ONLINE, str(folder)],
        env=environment | wandb | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_wandb_with_a_key_and_no_network_goes_offline(tmp_path: Path) -> None:
    """Port 9 of this machine, where nothing listens."""
    done = start_online(tmp_path, "http://127.0.0.1:9")
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert "wandb cannot be used online" in done.stderr
    assert len(list((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))) == 1
    assert [row["kind"] for row in rows(tmp_path)] == ["train"]


class Vanishing(http.server.BaseHTTPRequestHandler):
    """Accepts a run, and then answers nothing more: a network that goes away after the start."""

    def do_POST(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        content, answer = self.rfile.read(size), None
        if self.path.endswith("/graphql"):
            asked = json.loads(content)
            answer = self.answer(asked["query"], asked.get("variables") or {})
        if answer is None:
            self.send_error(503)
            return
        content = json.dumps({"data": answer}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def answer(self, query: str, variables: dict[str, Any]) -> Any:
        if "upsertBucket" in query:
            project = {"id": "1", "name": "curl", "entity": {"id": "1", "name": "me"}}
            bucket = {"id": "1", "name": variables["name"], "displayName": "", "description": ""}
            bucket |= {"config": "{}", "sweepName": None, "historyLineCount": 0, "project": project}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if "RunResumeStatus" in query or "bucket(name" in query:
            return {"model": None}
        if "viewer" in query:
            return {"viewer": {"id": "1", "entity": "me", "flags": "{}", "teams": {"edges": []}}}
        return None

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.mark.slow
def test_wandb_whose_network_goes_away_ends_the_run_in_time(tmp_path: Path) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Vanishing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = start_online(tmp_path, f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert "wandb cannot be used" not in done.stderr
    (folder,) = (tmp_path / "wandb").glob("run-*")
    assert f"`wandb sync {folder}` uploads the rest" in done.stderr
    assert list(folder.glob("run-*.wandb"))
