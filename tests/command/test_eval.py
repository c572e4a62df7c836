"""eval.py where something fails: what was measured is printed and written all the same."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from curl.command import eval as program
from curl.errors import exits_with_one_line
from curl.run import scoring
from curl.run.checkpoint import read_state, save_file
from support.faulty_runs import run
from support.paths import ROOT, TESTS
from support.programs import ENVIRONMENT

pytestmark = pytest.mark.usefixtures("fault")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run of the environment that never fails."""
    folder = tmp_path_factory.mktemp("made") / "run"
    done = run(folder, env_steps=40, eval_every=1000)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> list[Path]:
    """Three copies of it, the second with a name that could be read as markup."""
    return [Path(shutil.copytree(made, tmp_path / name)) for name in ("one", "[b]", "three")]


@pytest.fixture
def evaluate(
    handlers: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Runs eval.py in this process; exit code, standard output, standard error."""
    monkeypatch.setenv("COLUMNS", "300")

    def call(runs: list[Path], **changes: Any) -> tuple[int, str, str]:
        arguments: dict[str, Any] = {"runs": runs, "episodes": 2, "seed": 0, "video": False}
        arguments |= {"device": "cpu", "opengl": "auto", "processes": 1, "out": None}
        arguments |= {"shift": None}
        code = exits_with_one_line(program.evaluate_all, argparse.Namespace(**arguments | changes))
        printed = capsys.readouterr()
        assert "Traceback" not in printed.out + printed.err
        return code, printed.out, printed.err

    yield call


def errors(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("error: ")]


def remove(folder: Path) -> None:
    shutil.rmtree(folder)


def garble(folder: Path) -> None:
    for path in (folder / "checkpoints").glob("state-*.pt"):
        path.write_bytes(b"garbled")


@pytest.mark.parametrize("damage", [remove, garble])
@pytest.mark.parametrize("bad", [0, 1, 2])
def test_one_bad_run_does_not_lose_the_others(
    runs: list[Path], tmp_path: Path, evaluate: Callable[..., Any], damage: Any, bad: int
) -> None:
    damage(runs[bad])
    code, printed, said = evaluate(runs, out=tmp_path / "out" / "all.json")
    assert code == 2
    (line,) = errors(said)
    assert str(runs[bad]) in line
    sound = [run for run in runs if run != runs[bad]]
    written = json.loads((tmp_path / "out" / "all.json").read_text())
    assert [result["run"] for result in written[:2]] == list(map(str, sound))
    assert written[2]["run"] == str(runs[bad]) and written[2]["error"] in line
    for folder in sound:
        assert f"\n{folder} " in printed and f"\n{folder}/evaluation.json" in printed
        assert json.loads((folder / "evaluation.json").read_text())["returns"]


def test_an_environment_that_fails_does_not_lose_the_other_runs(
    runs: list[Path], evaluate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = scoring.evaluate_run

    def failing(run: Path, **settings: Any) -> dict[str, Any]:
        if run == runs[1]:
            raise ArithmeticError("the joint broke\nin two")
        return measure(run, **settings)

    monkeypatch.setattr(scoring, "evaluate_run", failing)
    code, printed, said = evaluate(runs)
    assert code == 2
    assert errors(said) == [f"error: {runs[1]}: ArithmeticError: the joint broke in two"]
    assert all(str(run) in printed for run in (runs[0], runs[2]))


def test_a_run_folder_that_cannot_be_written_loses_nothing(
    runs: list[Path], tmp_path: Path, evaluate: Callable[..., Any]
) -> None:
    (runs[0] / "evaluation.json.aside").mkdir()  # not even root can write that file
    code, printed, said = evaluate(runs, out=tmp_path / "all.json")
    assert code == 2
    (line,) = errors(said)
    assert f"{runs[0]}/evaluation.json could not be written: " in line
    written = json.loads((tmp_path / "all.json").read_text())
    assert len(written) == 3 and all(len(result["returns"]) == 2 for result in written)
    assert written[0]["file"] is None and f"{runs[1]}/evaluation.json" in printed
    assert all(f"\n{run} " in printed for run in runs)


def test_a_video_that_cannot_be_written_loses_nothing(
    runs: list[Path], evaluate: Callable[..., Any]
) -> None:
    (runs[0] / "videos").touch()  # where a folder should be
    code, printed, said = evaluate(runs[:2], video=True)
    assert code == 2
    (line,) = errors(said)
    assert "/one/videos/evaluation-40-seed0.mp4 could not be written" in line
    assert str(runs[0]) in printed and f"{runs[1]}/videos/evaluation-40-seed0.mp4" in printed
    assert "video" not in json.loads((runs[0] / "evaluation.json").read_text())


def test_results_are_printed_though_out_cannot_be_written(
    runs: list[Path], tmp_path: Path, evaluate: Callable[..., Any]
) -> None:
    (tmp_path / "file").touch()
    code, printed, said = evaluate(runs, out=tmp_path / "file" / "all.json")
    assert code == 2
    (line,) = errors(said)
    assert f"{tmp_path}/file/all.json could not be written" in line
    assert all(f"\n{run} " in printed for run in runs)


def test_what_is_wrong_for_all_runs_is_said_once(
    runs: list[Path], evaluate: Callable[..., Any]
) -> None:
    code, printed, said = evaluate(runs, episodes=0)
    assert (code, printed, len(errors(said))) == (2, "", 1)


def test_one_episode_has_neither_deviation_nor_interval(
    runs: list[Path], evaluate: Callable[..., Any]
) -> None:
    code, printed, _ = evaluate(runs[:1], episodes=1)
    assert code == 0 and "sample std" in printed
    result = json.loads((runs[0] / "evaluation.json").read_text())
    assert result["std"] is None and result["interval"] is None
    row = next(line for line in printed.splitlines() if line.startswith(str(runs[0])))
    assert row.split()[-2:] == ["-", "-"]


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_signal_to_the_group_keeps_what_was_evaluated(
    runs: list[Path], tmp_path: Path, number: signal.Signals
) -> None:
    """The first run is evaluated; of the second, whose evaluation sleeps, the process group is
    interrupted, and its workers do not care."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text("from support import faulty\n")
    state = runs[1] / "checkpoints" / "state-40.pt"
    content = read_state(state)
    content["config"]["task"]["env_id"] = "SlowInEvaluation-v0"
    save_file(state, content, checksum=state.with_suffix(".sha256"))
    paths = os.pathsep.join([str(site), str(TESTS), str(ROOT)])
    out = tmp_path / "all.json"
    options = ["--episodes", "6", "--processes", "2", "--device", "cpu", "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "eval.py"), *map(str, runs), *options],
        env=ENVIRONMENT | {"PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        end = time.monotonic() + 120
        while not (runs[0] / "evaluation.json").exists():
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        time.sleep(0.5)
        os.killpg(process.pid, number)
        printed, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + number, said
    assert "Traceback" not in said and "stopping; results" in said
    assert str(runs[0]) in printed and str(runs[2]) not in printed
    assert [result["run"] for result in json.loads(out.read_text())] == [str(runs[0])]
