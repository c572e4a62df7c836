"""`python -m curl export`: the folder of a policy, what it holds, and when there is none."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from curl.command import export as module
from curl.data.seeding import Stream, episode_seed
from curl.run import exporting
from curl.run.checkpoint import load_file
from curl.run.exporting import EXTRA, ONNX_FILE, TORCH_FILE
from curl.run.folder import write_config
from curl.run.policy import load
from support import faulty
from support.typed import Typed
from support.untrained import save, settings

HAS_ONNX = all(importlib.util.find_spec(name) for name in EXTRA)
PROGRAMS = [TORCH_FILE, *([ONNX_FILE] if HAS_ONNX else [])]
BESIDE = ["README.md", "card.json", *(["requirements.txt"] if HAS_ONNX else [])]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "run"
    save(folder, settings())
    row = {"kind": "evaluation", "agent_steps": 3, "updates": 0}
    rows = [row | {"env_steps": at, "returns": [at / 4, -1.0]} for at in (8, 24, 32)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    (folder / "commits.txt").write_text("0123456789ab\n")
    return folder


@pytest.fixture(scope="module")
def policy_folder(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported policy, of a program of its own."""
    folder = tmp_path_factory.mktemp("exported") / "policy"
    command = [sys.executable, "-m", "curl", "export", str(made), "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = done.stderr if HAS_ONNX else ""
    assert "torch" not in said and "onnx" not in said, "exporters have nothing to say to a user"
    lines = done.stdout.splitlines()
    assert lines[-1] == str(folder)
    for name, line in zip(PROGRAMS, lines, strict=False):
        assert re.match(rf"{name}: [\d.]+ MB, acts as the checkpoint does in 10 steps \(", line)
    return folder


def card(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "card.json").read_text())


# -- what is written -------------------------------------------------------------------------------


def test_the_folder_holds_the_programs_and_what_explains_them(policy_folder: Path) -> None:
    assert sorted(path.name for path in policy_folder.iterdir()) == sorted([*PROGRAMS, *BESIDE])
    assert list(policy_folder.parent.iterdir()) == [policy_folder]
    sums = {n: hashlib.sha256((policy_folder / n).read_bytes()).hexdigest() for n in PROGRAMS}
    assert card(policy_folder)["sha256"] == sums


def test_the_card_says_what_goes_in_and_comes_out(policy_folder: Path) -> None:
    found = card(policy_folder)
    assert found["task"] == "pendulum"
    assert found["input"]["shape"] == ["batch", 3, 24, 24, 3]
    assert (found["input"]["name"], found["input"]["dtype"]) == ("frames", "uint8")
    assert found["output"] == {
        "name": "action",
        "dtype": "float32",
        "shape": ["batch", 1],
        "low": [-2.0],
        "high": [2.0],
    }
    assert found["environment"] == {
        "id": "Pendulum-v1",
        "kwargs": {"max_episode_steps": 40},
        "action_repeat": 4,
        "render_size": 24,
        "frame_stack": 3,
    }


def test_the_card_says_how_the_policy_was_made_and_checked(made: Path, policy_folder: Path) -> None:
    found = card(policy_folder)
    training, checks = found["training"], found["checks"]
    assert training["run"] == str(made) and training["commits"] == ["0123456789ab"]
    assert (training["axis"], training["env_steps"], training["agent_steps"]) == (
        *("env_steps", 24, 6),
    )
    assert training["settings"] == load(made, device="cpu", precision="float32").config
    (score,) = found["evaluations"]
    assert score == {
        "source": "metrics.jsonl",
        "axis": "env_steps",
        "env_steps": 24,  # the one of the checkpoint, and not a later one
        "episodes": 2,
        "mean": 2.5,
    }
    assert checks["steps"] == 10 and checks["tolerance"] == 1e-5
    assert 0 < checks["rounding"] < 1e-5
    assert list(checks["largest_difference"]) == PROGRAMS
    assert all(0 <= value <= 1e-5 for value in checks["largest_difference"].values())
    assert found["exported"]["torch"] == torch.__version__


def test_the_programs_of_the_page_run(policy_folder: Path) -> None:
    """In the folder, as the page says; the one for ONNX Runtime loads neither PyTorch nor curl."""
    text = (policy_folder / "README.md").read_text()
    programs = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(programs) == len(PROGRAMS)
    for program in programs:
        told = "import sys; print(sorted({'torch', 'curl'} & set(sys.modules)), action.shape)"
        done = subprocess.run(
            [sys.executable, "-c", f"{program}\n{told}"],
            cwd=policy_folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        loaded = "['torch']" if "torch" in program else "[]"
        assert done.stdout.replace("torch.Size([1, 1])", "(1, 1)") == f"{loaded} (1, 1)\n"
    assert "Mean return 2.5 in 2 episodes after 24 env steps" in text
    assert "from [-2.0] to [2.0]" in text


def test_the_programs_act_as_an_evaluation_of_the_run(made: Path, policy_folder: Path) -> None:
    """In an environment that Gymnasium makes from the card, without wrappers of ours."""
    act = exporting.read_torch(policy_folder / TORCH_FILE)
    seed = episode_seed(0, Stream.EVALUATION, 0)
    policy, env = load(made, device="cpu"), module.make_env(made)
    frames, actions, over = [env.reset(seed=seed)[0]] * 3, [], False
    total = 0.0
    while not over:
        actions.append(policy.step(frames[-1]))
        frame, reward, terminated, truncated, _ = env.step(actions[-1])
        frames.append(frame)
        total, over = total + float(reward), terminated or truncated
    env.close()
    stacks = np.stack([np.stack(frames[i : i + 3]) for i in range(len(actions))])
    found = np.concatenate([act(stack[None]) for stack in stacks])
    np.testing.assert_allclose(found, 2 * np.stack(actions), atol=1e-5)
    made_from = card(policy_folder)["environment"]
    bare = gym.make(made_from["id"], **made_from["kwargs"])
    bare.reset(seed=seed)
    rewards = [float(bare.step(a)[1]) for action in found for a in [action] * 4]
    assert sum(rewards) == pytest.approx(total, abs=1e-3)


@pytest.mark.skipif(not HAS_ONNX, reason="extra onnx")
def test_the_requirements_are_what_the_check_ran_with(policy_folder: Path) -> None:
    found = card(policy_folder)["exported"]
    wanted = f"numpy=={found['numpy']}\nonnxruntime=={found['onnxruntime']}\n"
    assert (policy_folder / "requirements.txt").read_text() == wanted


def test_a_state_file_elsewhere_can_be_exported_without_its_folder(
    made: Path, commanded: Typed, tmp_path: Path
) -> None:
    state = tmp_path / "state-24.pt"
    state.write_bytes((made / "checkpoints" / "state-24.pt").read_bytes())
    code, _, said = commanded("export", state, "--out", tmp_path / "policy", "--no-onnx")
    assert (code, said) == (0, "")
    found = card(tmp_path / "policy")
    assert found["evaluations"] == found["training"]["commits"] == []
    assert found["training"]["used"] is None
    assert list(found["checks"]["largest_difference"]) == [TORCH_FILE]
    assert not (tmp_path / "policy" / "requirements.txt").exists()


def test_the_commit_of_the_last_start_is_known_without_a_list(tmp_path: Path) -> None:
    run = save(tmp_path, settings())
    assert module.commits_of(run) == []
    for found, told in (("0123456789ab", ["0123456789ab"]), (None, [])):
        write_config(run, {**settings(), "used": {"commit": found}})
        assert module.commits_of(run) == told
    (run / "commits.txt").write_text("first\nsecond\n")
    assert module.commits_of(run) == ["first", "second"]


def test_an_evaluation_of_the_checkpoint_is_on_the_card(made: Path, tmp_path: Path) -> None:
    policy = load(made, device="cpu")
    counts = {"env_steps": 24, "agent_steps": 6, "updates": 0}
    assert policy.clock.counts() == counts
    score = {"axis": "env_steps", "episodes": 1, "seed": 0, "mean": 3.0, "std": None}
    score |= {"interval": None, "returns": [3.0]}
    run = tmp_path / "run"
    save(run, settings())
    for other, kept in ((counts, True), (counts | {"env_steps": 20}, False)):
        (run / "evaluation.json").write_text(json.dumps(score | other | {"run": "x"}))
        found = list(module.evaluations_of(run, policy))
        assert found == ([{"source": "evaluation.json", **score, **counts}] if kept else [])
    (run / "evaluation.json").write_text("[1, 2")
    assert list(module.evaluations_of(run, policy)) == []


# -- when there is none ----------------------------------------------------------------------------


@pytest.fixture
def refused(commanded: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs an export that must leave nothing; returns its only line and its code."""
    monkeypatch.setenv("COLUMNS", "300")

    def run(source: Path, *options: str, code: int = 2) -> str:
        before = sorted(tmp_path.rglob("*"))
        found, printed, said = commanded("export", source, "--out", tmp_path / "policy", *options)
        assert (found, printed) == (code, "")
        assert sorted(tmp_path.rglob("*")) == before
        lines = [line for line in said.splitlines() if not line.startswith("WARNING")]
        assert len(lines) == 1, said
        return lines[0]

    return run


def test_a_program_that_acts_differently_leaves_nothing(
    made: Path, refused: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its view is half a frame off, as if the crop had been written by hand."""

    def shifted(self: Any, size: int) -> torch.Tensor:
        stacks = self.frames.unflatten(0, (-1, self.indices.shape[1]))
        return stacks[:, :, :size, :size].permute(0, 1, 4, 2, 3).flatten(1, 2)

    monkeypatch.setattr(exporting.SlicedStacks, "centre", shifted)
    line = refused(made, "--no-onnx")
    assert line.startswith(f"error: {TORCH_FILE} does not act as the checkpoint does: in 10 steps ")
    assert line.endswith("; 1e-05 is allowed")


@pytest.mark.skipif(not HAS_ONNX, reason="extra onnx")
def test_an_onnx_file_that_acts_differently_leaves_nothing(
    made: Path, refused: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = exporting.read_onnx

    def off(path: Path) -> Any:
        act = read(path)
        return lambda stacks: act(stacks) + np.float32(1e-3)

    monkeypatch.setattr(exporting, "read_onnx", off)
    assert refused(made).startswith(f"error: {ONNX_FILE} does not act as the checkpoint does")


def test_what_is_there_is_not_overwritten(made: Path, refused: Any, tmp_path: Path) -> None:
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "mine").write_text("text")
    assert refused(made) == f"error: {tmp_path / 'policy'} is not empty; name a new folder"


def test_what_is_no_run_is_refused(refused: Any, tmp_path: Path) -> None:
    assert refused(tmp_path / "nowhere").endswith("nowhere does not exist")
    (tmp_path / "empty").mkdir()
    assert "no checkpoint" in refused(tmp_path / "empty")
    assert refused(tmp_path / "empty", "--seed=-1").startswith("error: --seed must be ")


def test_an_environment_that_fails_leaves_nothing(
    refused: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = save(tmp_path / "run", settings(**{"task.env_id": "Sound-v0"}))
    monkeypatch.setattr(faulty.Sound, "fail", lambda self: float("nan"))
    assert refused(run) == "error: the environment returned the reward nan"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["acted", "write_torch", "require_same"])
def test_a_signal_leaves_nothing(
    made: Path,
    refused: Any,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    moment: str,
) -> None:
    wrapped = getattr(exporting, moment)

    def asked(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), number)
        return wrapped(*arguments, **options)

    monkeypatch.setattr(exporting, moment, asked)
    line = refused(made, "--no-onnx", code=128 + number)
    assert line == "stopping; nothing is written; a second signal stops at once"


# -- the extra -------------------------------------------------------------------------------------


@pytest.fixture
def without_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "EXTRA", ("a_module_that_is_not_there",))


def test_onnx_without_its_extra_is_refused(made: Path, refused: Any, without_extra: None) -> None:
    command = "pip install -e '.[onnx]' -c constraints.txt"
    assert refused(made, "--onnx") == f"error: --onnx needs an extra: {command}"


@pytest.mark.parametrize(
    ("asked", "written"), [(None, False), (False, False)], ids=["by default", "--no-onnx"]
)
def test_without_the_extra_the_rest_is_written(
    without_extra: None, caplog: pytest.LogCaptureFixture, asked: bool | None, written: bool
) -> None:
    with caplog.at_level(logging.WARNING, "curl"):
        assert module.wants_onnx(asked) is written
    lines = [record.getMessage() for record in caplog.records]
    assert [f"{ONNX_FILE} is not written" in line for line in lines] == [True] * (asked is None)


def test_the_stored_agent_is_the_one_that_was_saved(made: Path) -> None:
    """What the other tests compare with."""
    state = load_file(made / "checkpoints" / "state-24.pt")
    weights = load(made, device="cpu").agent.state()["modules"]["actor"]
    for key, value in state["agent"]["modules"]["actor"].items():
        assert torch.equal(weights[key], value)
