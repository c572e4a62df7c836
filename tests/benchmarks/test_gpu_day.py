"""The day of the GPU: stages are done once, a stop keeps what is finished, numbers are right."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import captured, gpu_day
from benchmarks.cells import ROOT
from benchmarks.contenders import Sizes
from benchmarks.gpu_day import Day, Stopped, best, go_through, learning, outcome, pack

CPU = torch.device("cpu")


@pytest.fixture
def day(tmp_path: Path) -> Day:
    return Day(
        out=tmp_path / "gpu",
        curves=tmp_path / "dmc",
        work=tmp_path / "work",
        deadline=time.monotonic() + 60,
        device="cpu",
        tiny=True,
    )


# -- stages --------------------------------------------------------------------------------------


class Stages:
    """Stand-ins for the stages, which note that they were done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **results: Any) -> None:
        self.done: list[str] = []
        self.results = results

        def make(name: str) -> Any:
            def work(day: Day) -> dict[str, Any]:
                self.done.append(name)
                result = self.results[name]
                if result is None:
                    raise Stopped
                return {"ok": result}

            return work

        stages = {name: (make(name), 10.0) for name in results}
        monkeypatch.setattr(gpu_day, "STAGES", stages)


def test_a_stage_is_done_once(day: Day, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = Stages(monkeypatch, one=True, two=False, three=None, four=True)
    assert go_through(day, list(stages.results)) == ["two"]
    assert stages.done == ["one", "two", "three", "four"]
    assert day.read("one")["ok"] and not day.read("two")["ok"] and not day.read("three")
    stages.results["three"] = True
    assert go_through(day, list(stages.results)) == ["two"]
    assert stages.done[4:] == ["three"], "only what was not finished"


def test_a_stage_that_wants_more_time_is_left_for_the_next_call(
    day: Day, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = Stages(monkeypatch, one=True, two=True)
    day.tiny = False
    day.deadline = time.monotonic() + 5
    go_through(day, ["one", "two"])
    assert stages.done == ["one"], "the first one is begun however little time there is"
    day.deadline = time.monotonic() + 5
    go_through(day, ["one", "two"])
    assert stages.done == ["one", "two"]


def test_a_signal_ends_the_call(day: Day, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = Stages(monkeypatch, one=True)
    day.signals.append(signal.SIGTERM)
    go_through(day, ["one"])
    assert not stages.done
    with pytest.raises(Stopped):
        day.check()


def test_an_archive_holds_files_of_stages_and_curves(day: Day, tmp_path: Path) -> None:
    day.write("golden", {"ok": True})
    curve = day.curves / "paper/curl/walker_walk/seed_1.jsonl"
    curve.parent.mkdir(parents=True)
    curve.write_text("{}")
    pack(day, tmp_path / "back/results.tar.gz")
    with tarfile.open(tmp_path / "back/results.tar.gz") as file:
        names = file.getnames()
    assert "gpu/golden.json" in names
    assert "dmc/paper/curl/walker_walk/seed_1.jsonl" in names


def test_the_command_line_refuses_in_one_line() -> None:
    command = [sys.executable, "-m", "benchmarks.gpu_day", "--stages", "golde"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr == (
        f"error: a stage must be one of {', '.join(gpu_day.STAGES)}; got 'golde' "
        "(did you mean 'golden'?)\n"
    )


# -- processes -----------------------------------------------------------------------------------


def test_a_command_that_takes_too_long_is_ended_with_its_children(day: Day) -> None:
    program = "import subprocess, sys, time\n"
    program += "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
    program += "print(child.pid, flush=True)\ntime.sleep(60)"
    code, text = day.call([sys.executable, "-c", program], day.log("late"), seconds=3)
    assert code == -signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        for _ in range(100):  # until whoever adopts it has taken note
            os.kill(int(text), 0)
            time.sleep(0.05)


def test_the_end_of_the_call_ends_a_command(day: Day) -> None:
    day.deadline = time.monotonic() + 0.5
    with pytest.raises(Stopped):
        day.call([sys.executable, "-c", "import time; time.sleep(60)"], day.log("late"))


def test_outcomes_of_pytest() -> None:
    assert outcome(0, "3 passed\n")["ok"]
    assert outcome(5, "3 deselected\n")["ok"]
    failed = outcome(1, "E  x\nFAILED tests/run/test_a.py::test_b - x\n1 failed, 2 passed\n")
    assert not failed["ok"]
    assert failed["failures"] == ["FAILED tests/run/test_a.py::test_b - x"]
    assert failed["said"] == "1 failed, 2 passed"


# -- how many runs side by side ------------------------------------------------------------------


def test_the_fewest_runs_that_no_number_outdoes_by_much() -> None:
    assert best({1: 800.0}) == 1
    assert best({1: 800.0, 2: 1500.0, 4: 2000.0, 6: 2050.0}) == 4
    assert best({1: 800.0, 2: 700.0}) == 1


def test_only_rows_of_learning_count(tmp_path: Path) -> None:
    rows = [
        {"kind": "train", "env_steps": 400, "wall_time": 1.0, "updates_per_second": 0.0},
        {"kind": "evaluation", "env_steps": 400, "wall_time": 2.0},
        {"kind": "train", "env_steps": 800, "wall_time": 3.0, "updates_per_second": 50.0},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows) + '{"kind": "train", "env_st'
    (tmp_path / "metrics.jsonl").write_text(text)
    assert learning(tmp_path) == [(800.0, 3.0)]
    assert learning(tmp_path / "nothing") == []


# -- captured against eager ----------------------------------------------------------------------


def compared() -> dict[str, Any]:
    sizes = Sizes(frame=24, crop=20, hidden=8, transitions=20)
    return captured.compare(
        "float32", device=CPU, batch_size=2, updates=2, sizes=sizes, seconds=0.01
    )


def test_agents_that_are_alike_do_not_drift_apart() -> None:
    found = compared()
    assert found["metrics_differ_by"] == {"captured": 0, "eager again": 0}
    assert found["weights_differ_by"] == {"captured": 0, "eager again": 0}
    assert found["finite"]


def test_a_recording_that_does_something_else_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    make = captured.make_agent

    def wrong(*, capture: bool, **arguments: Any) -> Any:
        agent = make(capture=capture, **arguments)
        if capture:
            agent.critic_tau = 0.5
        return agent

    monkeypatch.setattr(captured, "make_agent", wrong)
    found = compared()
    assert found["weights_differ_by"]["captured"] > 1e-4
    assert found["weights_differ_by"]["eager again"] == 0


# -- a rehearsal ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_killed_rehearsal_goes_on(tmp_path: Path) -> None:
    """Killed while the table is filled: its runs stop, the next call does only the rest."""
    command = [sys.executable, "-m", "benchmarks.gpu_day", "--tiny", "--device", "cpu"]
    command += ["--stages", "golden", "captured", "dmc", "--minutes", "8"]
    command += ["--out", str(tmp_path / "gpu"), "--work", str(tmp_path / "work")]
    driver = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    runs = tmp_path / "work/dmc"
    deadline = time.monotonic() + 300
    while not (tmp_path / "gpu/captured.json").exists() or not list(runs.rglob("metrics.jsonl")):
        assert time.monotonic() < deadline and driver.poll() is None
        time.sleep(0.2)
    before = (tmp_path / "gpu/golden.json").stat().st_mtime
    driver.kill()
    driver.wait()
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "golden: done before" in ended.stdout and "captured: done before" in ended.stdout
    assert (tmp_path / "gpu/golden.json").stat().st_mtime == before
    assert json.loads((tmp_path / "gpu/dmc.json").read_text())["ok"]
    assert len(list((tmp_path / "dmc/tiny").rglob("seed_*.jsonl"))) == 2
