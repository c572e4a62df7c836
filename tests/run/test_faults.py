"""Faults of environments, numbers, disks and the operating system: one line, nothing lost."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from curl.agents.base import Agent
from curl.data.batch import Batch, FrameStacks, Metrics
from curl.data.environment import make_env
from curl.data.replay import ReplayBuffer
from curl.hardware.processor import Threads
from curl.run.checkpoint import Checkpoints, read_state
from curl.run.evaluation import Evaluator
from curl.run.guard import RunError, require_finite
from curl.run.logger import Logger
from curl.run.online import OnlineTrainer as Trainer
from support.faulty import EDGE
from support.faulty_runs import arguments, run
from support.programs import ENVIRONMENT, assert_refused, rows, timeless

pytestmark = pytest.mark.usefixtures("fault")


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


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("HangsInEvaluation", "the environment has not answered for 1 s"),
        pytest.param("RaisesInEvaluation", "the joint broke", marks=pytest.mark.slow),
        pytest.param("NaNInEvaluation", "return became nan", marks=pytest.mark.slow),
    ],
)
def test_a_failing_evaluation_is_only_reported(tmp_path: Path, name: str, cause: str) -> None:
    done = run(tmp_path, task__env_id=f"{name}-v0", env_timeout=1)
    assert done.returncode == 0, done.stderr
    reports = [line for line in done.stderr.splitlines() if " failed: " in line]
    assert [int(line.split(" env steps")[0].split()[-1]) for line in reports] == [0, 40, 60]
    assert all(cause in line for line in reports) and "Traceback" not in done.stderr
    assert rows(tmp_path)[-1]["env_steps"] == 60
    assert not [row for row in rows(tmp_path) if row["kind"] == "evaluation"]


@pytest.mark.slow
def test_an_evaluation_that_nothing_can_interrupt_ends_the_run_and_is_skipped_on_resuming(
    tmp_path: Path,
) -> None:
    changes = {"task__env_id": "DeafInEvaluation-v0", "env_timeout": 1, "env_steps": 40}
    run(tmp_path / "sound", env_steps=40)
    for env_steps in (0, 40):
        done = run(tmp_path / "deaf", **changes)
        assert done.returncode == 3 and "Traceback" not in done.stderr, done.stderr
        line = next(line for line in done.stderr.splitlines() if "error: " in line)
        assert f"not answered for 1 s in the evaluation at {env_steps} env steps" in line
        assert f"state-{env_steps}.pt; resuming skips it" in line
    assert run(tmp_path / "deaf", **changes).returncode == 0
    trained = [row for row in timeless(tmp_path / "sound") if row["kind"] != "evaluation"]
    assert timeless(tmp_path / "deaf") == trained


# -- numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_named_with_its_step(value: float) -> None:
    with pytest.raises(RunError, match=f"critic_loss became {value} at env step 70"):
        require_finite({"alpha": 1.0, "critic_loss": value}, 70)


class Diverging(Agent):
    """Learns nothing; its `number`-th update measures `value` as `name`, or its act returns it."""

    def __init__(self, name: str = "", number: int = -1, value: float = 0.0) -> None:
        self.name, self.number, self.value, self.updates = name, number, value, 0

    def act(self, obs: FrameStacks, *, deterministic: bool) -> torch.Tensor:
        diverged = self.name == "action" and self.updates >= self.number
        return torch.full((len(obs), 1), self.value if diverged and not deterministic else 0.0)

    def update(self, batch: Batch) -> Metrics:
        self.updates += 1
        sound = {"critic_loss": 1.0, "critic_grad_norm": 2.0}
        if self.updates % 2:  # as the actor's, on every second update
            sound["actor_loss"] = 3.0
        if self.updates == self.number and self.name != "action":
            sound[self.name] = self.value
        return {name: torch.tensor(value) for name, value in sound.items()}

    def state(self) -> dict[str, Any]:
        return {"updates": self.updates}

    def load(self, state: Mapping[str, Any]) -> None:
        self.updates = state["updates"]


@pytest.fixture
def trainer(tmp_path: Path, handlers: None) -> Iterator[Callable[..., Trainer]]:
    """Makes a trainer in this process: episodes of 20, a checkpoint after each, no training rows.

    Updates begin at env step 5, so number n is made at env step 4 + n.
    """
    loggers: list[Logger] = []

    def make(
        agent: Agent, *, env_id: str = "Sound-v0", capacity: int = 100, **changes: Any
    ) -> Trainer:
        environment = {"env_id": env_id, "action_repeat": 1, "render_size": EDGE}
        knobs: dict[str, Any] = {"env_steps": 60, "batch_size": 2, "initial_steps": 5}
        knobs |= {"updates_per_step": 1}
        knobs |= {"eval_every": 1000, "checkpoint_every": 20, "log_every": 1_000_000}
        knobs |= {"save_replay": True, "video": False, "env_timeout": 100.0}
        device, console = torch.device("cpu"), Console(quiet=True)
        loggers.append(Logger(folder=tmp_path, wandb="disabled", budget=60, console=console))
        return Trainer(
            threads=Threads(1),
            agent=agent,
            env=make_env(**environment),
            evaluator=Evaluator(settings=environment, episodes=1, frame_stack=3, device=device),
            replay=ReplayBuffer(capacity=capacity, frame_size=EDGE, action_dim=1),
            logger=loggers[-1],
            checkpoints=Checkpoints(tmp_path),
            generator=torch.Generator().manual_seed(1),
            config={},
            seed=1,
            **knobs | changes,
        )

    yield make
    for logger in loggers:
        logger.close()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("critic_loss", float("nan")),
        ("critic_loss", float("inf")),
        ("critic_grad_norm", float("inf")),
        ("critic_grad_norm", float("nan")),
        ("actor_loss", float("-inf")),
    ],
)
@pytest.mark.parametrize(
    "env_step", [33, 39, 59], ids=["amid", "before a checkpoint", "at the end"]
)
def test_an_update_that_is_not_finite_ends_the_run_at_once(
    tmp_path: Path, trainer: Callable[..., Trainer], name: str, value: float, env_step: int
) -> None:
    with pytest.raises(RunError) as failure:
        trainer(Diverging(name, env_step - 4, value)).run()
    assert f"{name} became {value} at env step {env_step}; " in str(failure.value)
    path = tmp_path / "checkpoints" / f"diagnostic-{env_step + 1}.pt"
    assert f"diagnostic checkpoint: {path}" in str(failure.value)
    assert read_state(path, checksum=True)["agent"] == {"updates": env_step - 4}
    good = env_step // 20 * 20  # no checkpoint was made of what had diverged
    found = Checkpoints(tmp_path).load()
    assert found is not None and found[0]["counters"]["agent_steps"] == good


def test_every_update_of_an_agent_step_must_be_finite(
    tmp_path: Path, trainer: Callable[..., Trainer]
) -> None:
    """With three updates per agent step, the first, second or third of env step 20."""
    for number in (46, 47, 48):
        with pytest.raises(RunError, match="critic_loss became nan at env step 20; "):
            trainer(Diverging("critic_loss", number, math.nan), updates_per_step=3).run()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_action_that_is_not_finite_ends_the_run(
    tmp_path: Path, trainer: Callable[..., Trainer], value: float
) -> None:
    with pytest.raises(RunError, match=rf"the action became \[{value}\]; stopped at env step 25;"):
        trainer(Diverging("action", 20, value)).run()
    assert (tmp_path / "checkpoints" / "diagnostic-25.pt").exists()
    assert [path.name for path in Checkpoints(tmp_path).states()] == ["state-20.pt"]


# -- failures inside the agent and the replay buffer -----------------------------------------------

LACKING = "[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: 9 bytes"
FAILURES = [
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB.\nSee docs"), True),
    (MemoryError(), True),
    (RuntimeError(LACKING), True),
    (RuntimeError("CUDA error: device-side assert triggered\nCompile with ..."), False),
    (IndexError("index 7 is out of bounds"), False),
]


class Failing(Diverging):
    """Raises `error` in its `number`-th call of `method`: act, update, offsets (in a sample)."""

    def __init__(self, error: Exception, method: str, number: int) -> None:
        super().__init__()
        self.error, self.method, self.left = error, method, number

    def fail(self, method: str) -> None:
        self.left -= method == self.method
        if not self.left:
            self.left = -1
            raise self.error

    def act(self, obs: FrameStacks, *, deterministic: bool) -> torch.Tensor:
        if not deterministic:
            self.fail("act")
        return super().act(obs, deterministic=deterministic)

    def update(self, batch: Batch) -> Metrics:
        self.fail("update")
        return super().update(batch)

    @property
    def offsets(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        self.fail("sample")
        return ()


@pytest.mark.parametrize("method", ["act", "update", "sample"])
@pytest.mark.parametrize(("error", "memory"), FAILURES, ids=lambda value: str(value)[:12])
def test_a_failure_in_the_agent_ends_the_run_with_a_diagnostic_checkpoint(
    tmp_path: Path, trainer: Callable[..., Trainer], error: Exception, memory: bool, method: str
) -> None:
    with pytest.raises(RunError) as failure:
        trainer(Failing(error, method, 20)).run()
    text = str(failure.value)
    assert "\n" not in text
    what = "action" if method == "act" else "update"
    assert text.startswith(f"the agent's {what} failed: {type(error).__name__}")
    assert " ".join(str(error).split()) in text
    assert ("; lower batch_size=2 or replay.capacity=100; " in text) == memory
    path = tmp_path / "checkpoints" / "diagnostic-24.pt"
    assert f"stopped at env step 24; diagnostic checkpoint: {path}" in text
    assert read_state(path, checksum=True)["counters"]["agent_steps"] == 24
    assert [path.name for path in Checkpoints(tmp_path).states()] == ["state-20.pt"]


def test_a_failure_anywhere_in_the_loop_is_kept_for_a_diagnosis(
    tmp_path: Path, trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU reports some failures later, wherever its results are read."""
    job = trainer(Diverging(), log_every=1)

    def show(env_steps: int, status: str) -> None:
        if env_steps == 30:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(job.logger, "show", show)
    with pytest.raises(RunError, match=r"RuntimeError: CUDA error: an illegal .* at env step 30;"):
        job.run()
    assert (tmp_path / "checkpoints" / "diagnostic-30.pt").exists()


@pytest.mark.parametrize(
    "second", [OSError(errno.ENOSPC, "No space left"), RuntimeError("CUDA error"), MemoryError()]
)
def test_a_diagnostic_checkpoint_that_cannot_be_written_does_not_hide_the_cause(
    tmp_path: Path,
    trainer: Callable[..., Trainer],
    monkeypatch: pytest.MonkeyPatch,
    second: Exception,
) -> None:
    agent = Failing(RuntimeError("the first failure"), "update", 20)
    job = trainer(agent)

    def state() -> dict[str, Any]:
        if agent.left == -1:
            raise second
        return {"updates": 0}

    monkeypatch.setattr(agent, "state", state)
    with pytest.raises(RunError) as failure:
        job.run()
    assert "update failed: RuntimeError: the first failure" in str(failure.value)
    assert str(failure.value).endswith("diagnostic checkpoint: none could be written")
    assert [path.name for path in Checkpoints(tmp_path).states()] == ["state-20.pt"]


def test_a_checkpoint_that_memory_does_not_suffice_for_is_passed_over(
    tmp_path: Path,
    trainer: Callable[..., Trainer],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(logging.getLogger("curl"), "propagate", True)
    job = trainer(Diverging())
    export = job.replay.export

    def lacking(first: int, last: int) -> dict[str, Any]:
        if job.agent_steps == 40:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return export(first, last)

    monkeypatch.setattr(job.replay, "export", lacking)
    assert job.run() is None
    assert "no checkpoint at 40 env steps: OutOfMemoryError: CUDA out of memory" in caplog.text
    assert Checkpoints(tmp_path).states()[-1].name == "state-60.pt"


# -- runs that learn nothing -----------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [5, 20, 100])
@pytest.mark.parametrize("env_id", ["Sound-v0", "Short-v0"])
def test_learning_begins_after_the_initial_steps_whatever_the_episodes_length(
    trainer: Callable[..., Trainer], env_id: str, capacity: int
) -> None:
    """Of 60 steps 20 are random; each later one has an update."""
    agent = Diverging()
    assert trainer(agent, env_id=env_id, capacity=capacity, initial_steps=20).run() is None
    assert agent.updates == 40


def test_after_a_resume_without_the_replay_buffer_learning_waits_again(
    trainer: Callable[..., Trainer],
) -> None:
    first = Diverging()
    trainer(first, initial_steps=20, env_steps=30, save_replay=False).run()
    assert first.updates == 10
    again = Diverging()
    trainer(again, initial_steps=20, save_replay=False).run()
    assert again.updates == 10 + 30 - 20


def test_a_run_that_made_no_update_says_so(
    trainer: Callable[..., Trainer],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(logging.getLogger("curl"), "propagate", True)
    job, shown = trainer(Diverging(), initial_steps=60), list[str]()
    monkeypatch.setattr(job.logger, "show", lambda steps, status: shown.append(status))
    assert job.run() is None
    (warning,) = [r.message for r in caplog.records if r.levelname == "WARNING"]
    assert "the run ended without a single update, its agent has learned nothing" in warning
    assert "initial_steps=60" in warning and "raise env_steps or lower initial_steps" in warning
    assert "no update was made" in shown[-1]
    caplog.clear()
    trainer(Diverging(), initial_steps=20, env_steps=80).run()
    assert "without a single update" not in caplog.text


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO, errno.ESTALE]
)
def test_a_disk_that_refuses_for_a_while_pauses_checkpoints(
    tmp_path: Path,
    trainer: Callable[..., Trainer],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
) -> None:
    """At env steps 20 and 40 it does; at 60 it does not."""
    monkeypatch.setattr(logging.getLogger("curl"), "propagate", True)
    flush, job = os.fsync, trainer(Diverging())

    def refusing(handle: int) -> None:
        if job.agent_steps < 60:
            raise OSError(number, os.strerror(number))
        flush(handle)

    monkeypatch.setattr(os, "fsync", refusing)
    assert job.run() is None
    for env_steps in (20, 40):
        assert f"no checkpoint at {env_steps} env steps: [Errno {number}]" in caplog.text
    found = Checkpoints(tmp_path).load()
    assert found is not None and found[0]["counters"]["agent_steps"] == 60
    assert sum(len(segment["start"]) for segment in found[1]) == 63  # 60 and 3 first frames


# -- signals and other processes -------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_breaks_off_an_evaluation_that_is_made_up_for(
    tmp_path: Path, number: signal.Signals
) -> None:
    slow = {"task__env_id": "SlowInEvaluation-v0", "env_timeout": 60}
    run(tmp_path / "whole", **slow)
    folder = tmp_path / "stopped"
    process = start(folder, **slow)
    wait_for(process, logged(folder, 40))
    time.sleep(1)  # the evaluation at 40 takes 3 s
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    assert [row["env_steps"] for row in rows(folder) if row["kind"] == "evaluation"] == [0]
    assert run(folder, **slow).returncode == 0
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
