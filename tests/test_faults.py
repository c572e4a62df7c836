"""Faults of environments, disks, the operating system and files: one line, nothing lost."""

from __future__ import annotations

import argparse
import copy
import errno
import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from faulty import EDGE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from test_end_to_end import ENVIRONMENT, assert_refused, command, rows, timeless

from curl.agents.base import Agent
from curl.batch import Batch, FrameStacks, Metrics
from curl.checkpoint import CheckpointError, Checkpoints, read_state, save_file
from curl.cli import exits_with_one_line
from curl.environment import make_env
from curl.evaluation import Evaluator
from curl.guard import RunError, require_finite
from curl.logger import Logger
from curl.replay import ReplayBuffer
from curl.trainer import Trainer
from eval import evaluate_all
from train import save_config, train

pytestmark = pytest.mark.usefixtures("fault")

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
def trainer(tmp_path: Path) -> Iterator[Callable[..., Trainer]]:
    """Makes a trainer in this process: episodes of 20, a checkpoint after each, no training rows.

    Updates begin at env step 5, so number n is made at env step 4 + n.
    """
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
    handlers = {number: signal.getsignal(number) for number in numbers}
    environment = {"env_id": "Sound-v0", "action_repeat": 1, "render_size": EDGE}

    loggers: list[Logger] = []

    def make(agent: Agent, **changes: Any) -> Trainer:
        knobs: dict[str, Any] = {"env_steps": 60, "batch_size": 2, "initial_steps": 5}
        knobs |= {"eval_every": 1000, "checkpoint_every": 20, "log_every": 1_000_000}
        knobs |= {"save_replay": True, "video": False, "env_timeout": 100.0}
        device, console = torch.device("cpu"), Console(quiet=True)
        loggers.append(Logger(folder=tmp_path, wandb="disabled", budget=60, console=console))
        return Trainer(
            agent=agent,
            env=make_env(**environment),
            evaluator=Evaluator(settings=environment, episodes=1, frame_stack=3, device=device),
            replay=ReplayBuffer(capacity=100, frame_size=EDGE, action_dim=1),
            logger=loggers[-1],
            checkpoints=Checkpoints(tmp_path),
            generator=torch.Generator().manual_seed(1),
            config={},
            seed=1,
            action_repeat=1,
            **knobs | changes,
        )

    yield make
    for logger in loggers:
        logger.close()
    for number, handler in handlers.items():
        signal.signal(number, handler)


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


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_action_that_is_not_finite_ends_the_run(
    tmp_path: Path, trainer: Callable[..., Trainer], value: float
) -> None:
    with pytest.raises(RunError, match=rf"the action became \[{value}\]; stopped at env step 25;"):
        trainer(Diverging("action", 20, value)).run()
    assert (tmp_path / "checkpoints" / "diagnostic-25.pt").exists()
    assert [path.name for path in Checkpoints(tmp_path).states()] == ["state-20.pt"]


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
    tmp_path: Path, tally: Counter[str], lines: list[bytes]
) -> None:
    tally["bad inputs"] += 1
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
@given(
    st.one_of(
        st.binary(max_size=80),
        st.text(max_size=80).map(lambda text: text.encode()),
        st.text("{}[]:-&*!|>%@`'\"$, \n\ta1", max_size=80).map(lambda text: text.encode()),
        st.sampled_from(
            [b"[" * 2000, b"a: ${b}", b"a: ${oc.env:HOME}", b"seed: &a [*a]", b"? [a]"]
        ),
    )
)
def test_a_bad_config_beside_checkpoints_is_refused(
    tmp_path: Path, tally: Counter[str], content: bytes
) -> None:
    tally["bad inputs"] += 1
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


# -- whole checkpoints of strangers: every part of a real one replaced by something else -----------

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([-1, 0, 1, 3, 10**30, float("nan"), float("inf"), "", "x", "1"]),
    st.sampled_from([[], {}, [1], {"x": 1}, {1: 2}, [[]]]),
    st.sampled_from([torch.zeros(0), torch.zeros(2), torch.zeros(2, 2, dtype=torch.uint8)]),
)


@st.composite
def damaged(draw: st.DrawFn, tree: Any) -> Any:
    """`tree` with one of its parts replaced by junk, or taken out."""
    tree = place = copy.copy(tree)
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = draw(st.sampled_from(keys))
        inner = place[key]
        if isinstance(inner, (dict, list)) and inner and draw(st.integers(0, 4)):
            place[key] = place = copy.copy(inner)
            continue
        if draw(st.integers(0, 3)):
            place[key] = draw(JUNK)
        else:
            del place[key]
        return tree


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 40 steps with a checkpoint in its third episode."""
    folder = tmp_path_factory.mktemp("small")
    done = run(folder, env_steps=50, eval_every=1000)
    assert done.returncode == 0, done.stderr
    return folder


@settings(fuzz, max_examples=150)
@given(st.data())
def test_eval_refuses_a_damaged_state_in_one_line(
    small: Path, tmp_path: Path, tally: Counter[str], capsys: Any, data: st.DataObject
) -> None:
    tally["bad inputs"] += 1
    path = tmp_path / "checkpoints" / "state-50.pt"
    path.parent.mkdir(exist_ok=True)
    torch.save(data.draw(damaged(read_state(small / "checkpoints" / "state-50.pt"))), path)
    arguments = {"runs": [path], "episodes": 1, "seed": 0, "video": False, "device": "cpu"}
    arguments |= {"opengl": "auto", "processes": 1, "out": None}
    code = exits_with_one_line(evaluate_all, argparse.Namespace(**arguments))
    torch.set_grad_enabled(True)
    errors = capsys.readouterr().err
    assert code in (0, 2)
    assert sum(line.startswith("error: ") for line in errors.splitlines()) == (code == 2)


@pytest.mark.slow
@settings(fuzz, max_examples=150)
@given(st.data(), st.sampled_from(["state", "frames"]))
def test_train_refuses_to_resume_a_damaged_checkpoint_in_one_line(
    small: Path,
    tmp_path: Path,
    trainer: Any,  # restores the handlers of signals
    tally: Counter[str],
    capsys: Any,
    data: st.DataObject,
    kind: str,
) -> None:
    """Its checksums are right, so that the damage has to be noticed in what it says."""
    tally["bad inputs"] += 1
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    folder = Path(shutil.copytree(small, tmp_path / "run")) / "checkpoints"
    state = read_state(folder / "state-50.pt")
    for path in folder.glob("state-*"):
        path.unlink()
    if kind == "frames":
        segment = data.draw(st.sampled_from(state["segments"]))
        frames = torch.load(folder / segment["file"], weights_only=True)
        segment["sha256"] = save_file(folder / segment["file"], data.draw(damaged(frames)))
    else:
        state = data.draw(damaged(state))
    path = folder / "state-50.pt"
    save_file(path, state, checksum=path.with_suffix(".sha256"))
    config = yaml.safe_load((small / "config.yaml").read_text())
    del config["used"]
    code = exits_with_one_line(train, config | {"run_dir": str(tmp_path / "run")})
    errors = capsys.readouterr().err
    assert code in (0, 2)
    assert sum(line.startswith("error: ") for line in errors.splitlines()) == (code == 2)
