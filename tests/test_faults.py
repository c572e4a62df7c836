"""Faults of environments, disks, the operating system and files: one line, nothing lost."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from test_end_to_end import ENVIRONMENT, assert_refused, command, rows, timeless

from curl.checkpoint import CheckpointError, Checkpoints, read_state, save_file
from curl.cli import exits_with_one_line
from curl.guard import RunError, require_finite
from curl.logger import Logger
from train import save_config

SMALL = {"task__env_id": "Sound-v0", "task__action_repeat": 1, "env_steps": 60, "log_every": 1}
SMALL |= {"checkpoint_every": 20, "eval_every": 40, "env_timeout": 2}

fuzz = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def arguments(folder: Path, **changes: Any) -> list[str]:
    python, *rest = command(folder, **SMALL | changes)
    return [python, str(Path(__file__).with_name("crash_driver.py")), "none", "0", *rest]


def run(
    folder: Path, before: Callable[[], None] | None = None, **changes: Any
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments(folder, **changes),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=before,
    )


def start(folder: Path, **changes: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        arguments(folder, **changes),
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    began = time.monotonic()
    while not condition():
        assert process.poll() is None and time.monotonic() - began < 100
        time.sleep(0.02)


def logged(folder: Path, env_steps: int) -> Callable[[], bool]:
    path = folder / "metrics.jsonl"
    return lambda: path.exists() and f'"env_steps": {env_steps},' in path.read_text()


# -- environments ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "code", "cause"),
    [
        pytest.param("Raises", 2, "step raised ArithmeticError: the joint broke"),
        pytest.param("NaN", 2, "the reward nan", marks=pytest.mark.slow),
        pytest.param("Infinite", 2, "the reward inf", marks=pytest.mark.slow),
        pytest.param("Hangs", 3, "the environment has not answered for 2 s"),
    ],
)
def test_a_failing_environment_ends_the_run_with_its_cause(
    tmp_path: Path, name: str, code: int, cause: str
) -> None:
    done = run(tmp_path, task__env_id=f"{name}-v0", initial_steps=5)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    line = next(line for line in done.stderr.splitlines() if "error: " in line)
    assert cause in line and "env step 9" in line and "diagnostic checkpoint: " in line
    state = read_state(tmp_path / "checkpoints" / "diagnostic-9.pt", checksum=True)
    assert state["counters"]["agent_steps"] == 9


@pytest.mark.slow
def test_a_failing_evaluation_is_only_reported(tmp_path: Path) -> None:
    done = run(tmp_path, task__env_id="RaisesInEvaluation-v0")
    assert done.returncode == 0, done.stderr
    assert "the evaluation at 40 env steps failed" in done.stderr
    assert rows(tmp_path)[-1]["env_steps"] == 60
    assert not [row for row in rows(tmp_path) if row["kind"] == "evaluation"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_named_with_its_step(value: float) -> None:
    with pytest.raises(RunError, match=f"critic_loss became {value} at env step 70"):
        require_finite({"alpha": 1.0, "critic_loss": value}, 70)


# -- signals and other processes -------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_breaks_off_an_evaluation_that_is_made_up_for(
    tmp_path: Path, number: signal.Signals
) -> None:
    run(tmp_path / "whole", task__env_id="SlowInEvaluation-v0")
    folder = tmp_path / "stopped"
    process = start(folder, task__env_id="SlowInEvaluation-v0")
    wait_for(process, logged(folder, 40))
    time.sleep(1)  # the evaluation at 40 takes 3 s
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    assert [row["env_steps"] for row in rows(folder) if row["kind"] == "evaluation"] == [0]
    assert run(folder, task__env_id="SlowInEvaluation-v0").returncode == 0
    assert timeless(folder) == timeless(tmp_path / "whole")


@pytest.mark.slow
def test_a_second_interrupt_leaves_at_once(tmp_path: Path) -> None:
    process = start(tmp_path, task__env_id="Hangs-v0", env_timeout=1000)
    wait_for(process, logged(tmp_path, 9))
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 128 + signal.SIGINT and "Traceback" not in errors
    assert [row["env_steps"] for row in rows(tmp_path)][-1] == 9


def test_a_second_process_on_a_folder_is_refused(tmp_path: Path) -> None:
    process = start(tmp_path, task__env_id="Hangs-v0", env_timeout=1000)
    try:
        wait_for(process, logged(tmp_path, 0))
        assert_refused(run(tmp_path), f"is in use by process {process.pid} on ")
    finally:
        process.kill()
        process.communicate()


# -- disks -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_full_disk_pauses_checkpoints_and_metrics(tmp_path: Path) -> None:
    """A limit on the size of files: metrics get 300 bytes more, a checkpoint does not fit."""
    assert run(tmp_path, env_steps=20).returncode == 0
    before = (tmp_path / "metrics.jsonl").stat().st_size
    limit = before + 300

    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = run(tmp_path, full)
    assert done.returncode == 0, done.stderr
    assert "metrics cannot be written" in done.stderr and "no checkpoint at" in done.stderr
    text = (tmp_path / "metrics.jsonl").read_text()
    assert text.endswith("}\n") and before <= len(text) <= limit
    assert all(json.loads(line) for line in text.splitlines())
    found = Checkpoints(tmp_path).load()
    assert found is not None and found[0]["counters"]["agent_steps"] == 20
    assert run(tmp_path).returncode == 0
    assert rows(tmp_path)[-1]["env_steps"] == 60


@pytest.mark.slow
@pytest.mark.skipif(not Path("/sys/kernel").exists(), reason="needs Linux's /sys")
def test_a_folder_that_refuses_checkpoints_does_not_end_training(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").symlink_to("/sys/kernel")  # not even root may write there
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "no checkpoint at 20 env steps" in done.stderr and "Traceback" not in done.stderr
    assert rows(tmp_path)[-1]["env_steps"] == 60


# -- files -----------------------------------------------------------------------------------------

ROWS = '{"kind": "train", "env_steps": 1, "agent_steps": 1}\n'
LINES = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=60).map(lambda text: text.encode(errors="replace")),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=9), inner),
        max_leaves=5,
    ).map(lambda value: json.dumps(value).encode()),
    st.just(b"[" * 100_000),
    st.just(b'{"env_steps": "1"}'),
    st.just(b'{"env_steps": 99'),
)


@fuzz
@given(st.lists(LINES, max_size=4))
def test_bad_lines_in_the_metrics_are_dropped_on_resuming(
    tmp_path: Path, lines: list[bytes]
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(ROWS.encode() + b"\n".join(lines) + b"\n" + ROWS.encode())
    with Console(quiet=True) as console:
        logger = Logger(folder=tmp_path, wandb="disabled", budget=1, console=console)
        logger.resume(5, 0.0, 5)
        logger.close()
    kept = path.read_text().splitlines(keepends=True)
    assert kept[0] == ROWS and kept[-1] == ROWS
    assert all(json.loads(line)["env_steps"] <= 5 for line in kept)


def test_evaluations_that_will_be_made_again_are_dropped(tmp_path: Path) -> None:
    """A run stopped in an evaluation at 40, resumed, killed after it and before a checkpoint."""
    kinds = [("evaluation", 0), ("train", 40), ("evaluation", 40), ("train", 41)]
    lines = [json.dumps({"kind": kind, "env_steps": steps}) for kind, steps in kinds]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    logger = Logger(folder=tmp_path, wandb="disabled", budget=1, console=Console(quiet=True))
    logger.resume(40, 0.0, 0)
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == lines[:2]


@fuzz
@given(st.one_of(st.binary(max_size=80), st.text(max_size=80).map(lambda text: text.encode())))
def test_a_bad_config_beside_checkpoints_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "checkpoints").mkdir(exist_ok=True)
    (tmp_path / "checkpoints" / "state-1.pt").touch()
    (tmp_path / "config.yaml").write_bytes(content)

    def job() -> int:
        save_config(tmp_path, {"seed": 1}, {})
        return 0

    assert exits_with_one_line(job) == 2


@pytest.mark.parametrize("number", [0, 2, 99, "1", None])
def test_a_state_of_another_format_is_refused_by_its_number(tmp_path: Path, number: Any) -> None:
    path = tmp_path / "state-1.pt"
    content = {"format": number, "agent": {"w": torch.zeros(1)}, "config": {}, "counters": {}}
    save_file(path, {**content, "segments": []})
    with pytest.raises(CheckpointError, match=f"has checkpoint format {number}, this version"):
        read_state(path)


class Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("sprung",)


def test_a_state_that_holds_code_is_refused_unexecuted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"format": 1, "agent": Code()}, tmp_path / "state-1.pt")
    with pytest.raises(CheckpointError):
        read_state(tmp_path / "state-1.pt")
    assert not (tmp_path / "sprung").exists()
