"""Environments in processes of their own: signals to the group, killed workers, orphans."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from curl.run.checkpoint import Checkpoints
from curl.run.evaluation import Evaluator
from curl.run.workers import WorkerError, Workers
from support.paths import ROOT, TESTS
from support.programs import ENVIRONMENT, SETTINGS, rows, timeless
from support.worker_processes import Endless

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
# Episodes have 20 steps; an evaluation sleeps for 3 s. `sitecustomize` registers the environment in
# the worker processes too.
RUN = SETTINGS | {"task.env_id": "SlowInEvaluation-v0", "task.action_repeat": 1}
RUN |= {"eval_processes": 2, "eval_episodes": 2, "env_steps": 200, "eval_every": 100}
RUN |= {"checkpoint_every": 20, "log_every": 1, "batch_size": 4}


class Still:
    """A policy that never acts."""

    def act(self, obs: Any, *, deterministic: bool) -> torch.Tensor:
        return torch.zeros(len(obs), 1)


def evaluator(**changes: Any) -> Evaluator:
    settings = {"env_id": "Pendulum-v1", "action_repeat": 4, "render_size": 24}
    knobs: dict[str, Any] = {"episodes": 2, "frame_stack": 3, "processes": 2} | changes
    return Evaluator(settings=settings, device=torch.device("cpu"), **knobs)


def processes(group: int) -> list[int]:
    """The living processes of a process group."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state, _, its_group = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            except OSError:  # it has just ended
                continue
            if int(its_group) == group and state != "Z":
                found.append(int(folder.name))
    return found


def wait_until(condition: Callable[[], Any], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


# -- killed workers --------------------------------------------------------------------------------


@pytest.fixture
def tried() -> Iterator[Evaluator]:
    evaluation = evaluator()
    yield evaluation
    evaluation.close()


def kill_one(evaluation: Evaluator, number: int = signal.SIGKILL) -> None:
    assert evaluation._vector is not None
    process = evaluation._vector.processes[0]
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join(20)


def test_a_worker_killed_between_evaluations_is_replaced(tried: Evaluator) -> None:
    expected = tried(Still(), seed=0)
    kill_one(tried)
    assert tried(Still(), seed=0) == expected
    kill_one(tried)
    tried.close()  # raises nothing
    assert tried(Still(), seed=0) == expected


def test_a_worker_killed_in_an_evaluation_is_named_and_replaced_at_the_next(
    tried: Evaluator,
) -> None:
    expected = tried(Still(), seed=0)
    asked = iter(range(1000))

    def kill_at_the_tenth_step() -> bool:
        if next(asked) == 10:
            kill_one(tried)
        return False

    with pytest.raises(WorkerError, match=r"an evaluation process died \(killed by SIGKILL;"):
        tried(Still(), seed=0, stop=kill_at_the_tenth_step)
    assert tried(Still(), seed=0) == expected


def test_workers_outlive_the_signals_that_stop_a_run(tried: Evaluator) -> None:
    expected = tried(Still(), seed=0)
    assert tried._vector is not None
    before = [process.pid for process in tried._vector.processes]
    for process in tried._vector.processes:
        for number in SIGNALS:
            assert process.pid is not None
            os.kill(process.pid, number)
    assert tried(Still(), seed=0) == expected
    assert [process.pid for process in tried._vector.processes] == before


def test_closing_ends_a_worker_that_does_not_come_back() -> None:
    vector = Workers([Endless] * 2)
    vector.reset(seed=0)
    vector.step_async(vector.action_space.sample())
    began = time.monotonic()
    vector.close(terminate=True)
    assert time.monotonic() - began < 20
    assert not any(process.is_alive() for process in vector.processes)


# -- a signal to the whole group -------------------------------------------------------------------


def start(folder: Path, **changes: Any) -> subprocess.Popen[str]:
    settings = [f"{key}={value}" for key, value in (RUN | changes).items()]
    site = folder.parent / "site"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text("from support import faulty\n")
    paths = os.pathsep.join([str(site), str(TESTS)])
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), f"run_dir={folder}", *settings],
        env=ENVIRONMENT | {"PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def logged(folder: Path, kind: str, env_steps: int) -> bool:
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("\n")]
    return any((row["kind"], row["env_steps"]) == (kind, env_steps) for row in found)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    process = start(folder)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    return folder


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGINT, "evaluation"),
        (signal.SIGUSR1, "training"),
        pytest.param(signal.SIGTERM, "evaluation", marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, "evaluation", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, "training", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "training", marks=pytest.mark.slow),
    ],
)
def test_a_signal_to_the_process_group_leaves_a_checkpoint_and_resumes(
    tmp_path: Path, whole: Path, number: signal.Signals, moment: str
) -> None:
    folder = tmp_path / "run"
    process = start(folder)
    try:
        if moment == "evaluation":  # the second one, which follows the episode that ends at 100
            wait_until(lambda: logged(folder, "episode", 100))
        else:
            wait_until(lambda: logged(folder, "train", 104))
        os.killpg(process.pid, number)
        output = process.communicate(timeout=60)[0]
    finally:
        process.kill()
    assert process.returncode == 128 + number, output
    assert "Traceback" not in output and "failed" not in output
    assert logged(folder, "evaluation", 100) == (moment == "training")
    found = Checkpoints(folder).load()
    assert found is not None
    stopped = found[0]["counters"]["agent_steps"]
    assert stopped == max(row["env_steps"] for row in rows(folder))
    assert stopped == 100 if moment == "evaluation" else 104 <= stopped < 200
    wait_until(lambda: not processes(process.pid), seconds=20)

    again = start(folder)
    output = again.communicate(timeout=300)[0]
    assert again.returncode == 0, output
    assert timeless(folder) == timeless(whole)


def test_no_process_outlives_a_run_that_is_killed(tmp_path: Path) -> None:
    process = start(tmp_path / "run")
    try:
        wait_until(lambda: logged(tmp_path / "run", "train", 40))
        assert len(processes(process.pid)) >= 5  # itself, two workers, their server, the tracker
    finally:
        process.kill()
        process.communicate()
    wait_until(lambda: not processes(process.pid), seconds=30)


def test_a_worker_that_is_busy_ends_with_the_main_process(tmp_path: Path) -> None:
    """The environment never comes back from its step."""
    program = tmp_path / "main.py"
    program.write_text(
        f"import sys; sys.path.insert(0, {str(TESTS)!r})\n"
        "from support.worker_processes import Endless\n"
        "from curl.run.workers import Workers\n"
        "if __name__ == '__main__':\n"
        "    vector = Workers([Endless] * 2)\n"
        "    vector.reset(seed=0)\n"
        "    vector.step_async(vector.action_space.sample())\n"
        "    print('busy', flush=True)\n"
        "    vector.step_wait()\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(program)],
        env=ENVIRONMENT | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "busy\n"
    process.kill()
    process.communicate()
    wait_until(lambda: not processes(process.pid), seconds=30)
