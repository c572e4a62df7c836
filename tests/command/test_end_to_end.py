"""train.py and eval.py as a user runs them: finish, be interrupted, go on, refuse.

Runs are of 100 agent steps: 50 env steps each, so an episode has 20.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from ctypes.util import find_library
from pathlib import Path
from typing import Any

import av
import pytest

from curl.run.checkpoint import Checkpoints
from support.equality import assert_equal_runs
from support.paths import ROOT
from support.programs import ENVIRONMENT, assert_refused, command, rows, run, train


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("run") / "finished"
    train(folder)
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of it to tamper with."""
    return shutil.copytree(finished, tmp_path / "copy")


# -- finishing -----------------------------------------------------------------------------------


def test_a_run_leaves_metrics_and_checkpoints(finished: Path) -> None:
    assert (finished / "config.yaml").read_text().startswith("seed:")
    assert (finished / "checkpoints" / "state-5000.pt").exists()
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for row in rows(finished):
        assert row["env_steps"] == 50 * row["agent_steps"] and row["wall_time"] >= 0
        by_kind.setdefault(row["kind"], []).append(row)
    assert [row["env_steps"] for row in by_kind["evaluation"]] == [0, 2000, 4000, 5000]
    assert [row["env_steps"] for row in by_kind["train"]] == list(range(50, 5001, 50))
    episodes = [(row["env_steps"], row["length"]) for row in by_kind["episode"]]
    assert episodes == [(1000 * n, 20) for n in range(1, 6)]
    assert all(len(row["returns"]) == 1 for row in by_kind["evaluation"])
    expected = {"critic_loss", "actor_loss", "alpha", "contrastive_loss", "contrastive_accuracy"}
    assert expected <= by_kind["train"][-1].keys()
    assert not expected & by_kind["train"][23].keys()  # still random actions


def test_a_run_opens_with_what_it_will_do(tmp_path: Path) -> None:
    """Task, budget, where results go, how to stop and resume; the experiment's text, as it is."""
    done = run(command(tmp_path, env_steps=50, about="'It takes [bold] 1 minute.'"))
    assert done.returncode == 0, done.stderr
    opening = done.stdout.splitlines()[:4]
    assert opening[0].startswith("dm_control/cartpole-swingup-v0, 50 env steps, on cpu (")
    assert opening[1].startswith(f"Results go to {tmp_path}: ")
    assert opening[2] == "Ctrl-C stops with a checkpoint; the same command resumes the run."
    assert opening[3] == "It takes [bold] 1 minute."


@pytest.mark.slow
def test_running_it_again_changes_nothing(finished: Path, copy: Path) -> None:
    train(copy)
    assert rows(copy) == rows(finished)


@pytest.mark.slow
def test_an_evaluation_leaves_a_video(tmp_path: Path) -> None:
    train(tmp_path, env_steps=50, video=True)
    assert sorted(path.name for path in (tmp_path / "videos").iterdir()) == [
        "00000000.mp4",
        "00000050.mp4",
    ]
    assert_plays(tmp_path / "videos" / "00000050.mp4", frames=20)


def assert_plays(path: Path, frames: int) -> None:
    with av.open(str(path)) as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(shown) == frames
    height, width, _ = shown[0].shape
    assert height % 2 == width % 2 == 0
    assert (shown[0] != shown[-1]).any()


# -- being interrupted ---------------------------------------------------------------------------


def interrupt(folder: Path, number: signal.Signals, env_steps: int) -> int:
    """Start a run, send it a signal once it has logged `env_steps`; its exit code."""
    process = subprocess.Popen(
        command(folder), env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    started, metrics = time.monotonic(), folder / "metrics.jsonl"
    try:
        while f'"env_steps": {env_steps},' not in (metrics.read_text() if metrics.exists() else ""):
            assert process.poll() is None and time.monotonic() - started < 300
            time.sleep(0.01)
        process.send_signal(number)
        return process.wait(timeout=60)
    finally:
        process.kill()


def test_after_sigterm_the_same_command_goes_on_exactly(finished: Path, tmp_path: Path) -> None:
    assert interrupt(tmp_path, signal.SIGTERM, env_steps=2300) == 128 + signal.SIGTERM
    steps = [int(path.stem.split("-")[1]) for path in Checkpoints(tmp_path).states()]
    assert steps[0] == 2000 and 2300 <= steps[1] < 5000
    assert rows(tmp_path)[-1]["env_steps"] == steps[1]
    train(tmp_path)
    assert_equal_runs(tmp_path, finished)


def test_after_sigkill_the_run_goes_on_from_its_checkpoint(finished: Path, tmp_path: Path) -> None:
    assert interrupt(tmp_path, signal.SIGKILL, env_steps=2300) == -signal.SIGKILL
    assert [path.name for path in Checkpoints(tmp_path).states()] == ["state-2000.pt"]
    train(tmp_path)
    assert_equal_runs(tmp_path, finished)


@pytest.mark.slow
def test_after_sigkill_before_a_checkpoint_the_run_begins_anew(
    finished: Path, tmp_path: Path
) -> None:
    assert interrupt(tmp_path, signal.SIGKILL, env_steps=300) == -signal.SIGKILL
    assert not Checkpoints(tmp_path).states()
    train(tmp_path)
    assert_equal_runs(tmp_path, finished)


# -- refusing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"task": "cartpole_swingdown"}, "did you mean cartpole_swingup"),
        ({"bach_size": 8}, "did you mean batch_size"),
        ({"batch_size": -1}, "batch_size must be an integer >= 1, got -1"),
        pytest.param({"batch_size": "abc"}, "got 'abc'", marks=pytest.mark.slow),
        ({"replay__capacity": 10**9}, "lower replay.capacity"),
        ({"device": "cuda"}, "device=cuda does not exist"),
        pytest.param({"opengl": "garbage"}, "opengl must be one of", marks=pytest.mark.slow),
        pytest.param({"objective__name": "x"}, "infonce", marks=pytest.mark.slow),
        pytest.param({"task__env_id": "CartPole-v1"}, "continuous", marks=pytest.mark.slow),
        pytest.param({"seed": "abc"}, "seed must be an integer >= 0", marks=pytest.mark.slow),
        pytest.param({"threads": -1}, "threads must be an integer >= 0", marks=pytest.mark.slow),
        pytest.param(
            {"frame_stack": "abc"}, "frame_stack must be an integer", marks=pytest.mark.slow
        ),
        pytest.param({"render_size": 20}, "36 pixels does not fit", marks=pytest.mark.slow),
        pytest.param(
            {"replay__device": "abc"}, "replay.device must be one of", marks=pytest.mark.slow
        ),
    ],
    ids=str,
)
def test_bad_input_is_refused_in_one_line(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    assert_refused(run(command(tmp_path, **changes)), reason)


def test_a_garbled_mujoco_gl_is_refused(tmp_path: Path) -> None:
    done = run(command(tmp_path), MUJOCO_GL="garbage")
    assert_refused(done, "MUJOCO_GL must be egl, osmesa or glfw; got 'garbage'")


@pytest.mark.slow
@pytest.mark.skipif(find_library("OSMesa") is None, reason="no libosmesa6")
def test_a_refusal_under_osmesa_is_one_line_too(tmp_path: Path) -> None:
    assert_refused(run(command(tmp_path, batch_size=-1), MUJOCO_GL="osmesa"), "batch_size")


def test_other_settings_in_the_same_folder_are_refused(finished: Path) -> None:
    done = run(command(finished, batch_size=9))
    assert_refused(done, "batch_size=9 (there: 8)")


def truncate_states(folder: Path) -> None:
    for path in Checkpoints(folder).states():
        path.write_bytes(path.read_bytes()[:1000])


def test_damage_to_all_checkpoints_is_refused(copy: Path) -> None:
    truncate_states(copy)
    assert_refused(run(command(copy)), "checkpoints in")


@pytest.mark.slow
def test_damage_to_all_checkpoints_is_refused_again(finished: Path, copy: Path) -> None:
    """Not taken for a new run the second time, which would cost the metrics."""
    truncate_states(copy)
    for _ in range(2):
        assert_refused(run(command(copy)), "checkpoints in")
    assert rows(copy) == rows(finished)


# -- eval.py -------------------------------------------------------------------------------------


def evaluate(*arguments: Any) -> subprocess.CompletedProcess[str]:
    return run([sys.executable, str(ROOT / "eval.py"), *map(str, arguments)])


def test_eval_prints_and_writes_what_it_measured(copy: Path, tmp_path: Path) -> None:
    second = shutil.copytree(copy, tmp_path / "second")
    out = tmp_path / "out" / "all.json"
    done = evaluate(copy, second, "--episodes", 2, "--seed", 3, "--video", "--out", out)
    assert done.returncode == 0, done.stderr
    result = json.loads((copy / "evaluation.json").read_text())
    first, last = result["returns"]
    assert result["mean"] == pytest.approx((first + last) / 2)
    assert result["std"] == pytest.approx(abs(first - last) / 2**0.5)
    half = 12.7062 * abs(first - last) / 2  # Student's t of one degree of freedom
    low, high = result["interval"]
    assert (low, high) == pytest.approx((result["mean"] - half, result["mean"] + half), rel=1e-3)
    assert (result["env_steps"], result["episodes"], result["seed"]) == (5000, 2, 3)
    row = next(line for line in done.stdout.splitlines() if str(copy) in line)
    for cell in (
        "5,000",
        f"{result['mean']:.1f}",
        f"{result['std']:.1f}",
        f"[{low:.1f}, {high:.1f}]",
    ):
        assert cell in row
    again = json.loads((second / "evaluation.json").read_text())
    assert again["returns"] == result["returns"] and first != last
    assert json.loads(out.read_text()) == [result, again]
    assert_plays(Path(result["video"]), frames=20)


@pytest.mark.slow
def test_eval_of_a_state_file_names_the_file_it_wrote(copy: Path) -> None:
    done = evaluate(copy / "checkpoints" / "state-4000.pt", "--episodes", 1)
    assert done.returncode == 0, done.stderr
    assert json.loads((copy / "evaluation.json").read_text())["env_steps"] == 4000
    assert f"{copy}/evaluation.json" in done.stdout


def no_run(folder: Path) -> None:
    shutil.rmtree(folder)


def no_checkpoint(folder: Path) -> None:
    shutil.rmtree(folder / "checkpoints")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (no_run, "does not exist"),
        (no_checkpoint, "there is none"),
        (truncate_states, "are damaged"),
    ],
)
def test_eval_refuses_in_one_line(copy: Path, damage: Any, reason: str) -> None:
    damage(copy)
    assert_refused(evaluate(copy), reason)
