"""Runs on a dataset that are killed, stopped or fail: nothing is lost, and they go on exactly.

The four phases of learning from recorded data: pretraining, imitation, offline reinforcement
learning, and online learning with a dataset beside it.
"""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from curl.agents.bc import BC
from curl.data.writing import write
from curl.run.checkpoint import Checkpoints
from curl.run.folder import RunFolder
from curl.run.start import train
from support.datasets import origin
from support.equality import assert_equal
from support.faulty import EDGE
from support.faulty_runs import arguments
from support.offline import OFFLINE, config, newest
from support.programs import ENVIRONMENT, timeless
from support.recorded import played

NAME = "sound/random-v0"
UPDATES, EVERY = 40, 5
BC_SIZES = {"agent": "bc", "augmentation": "crop", "augmentation__query__size": 36}
PHASES: dict[str, dict[str, Any]] = {
    "pretrain": {**BC_SIZES, "objective": "inverse", "agent__detach_encoder": True},
    "imitate": {**BC_SIZES, "objective": "none", "dataset_episodes": 2},
    "offline_rl": {**BC_SIZES, "agent": "td3_bc", "objective": "none"},
    "online": {"loop": "online", "updates": "null", "env_steps": 60},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    top = tmp_path_factory.mktemp("crashes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(top / "datasets"))
        write(NAME, [played(seed) for seed in range(4)], origin(EDGE, action_dim=1))
        yield top


def settings(phase: str) -> dict[str, Any]:
    own = {"dataset": NAME, "updates": UPDATES, "checkpoint_every": EVERY, "eval_every": 20}
    return {**own, "batch_size": 8, "updates_per_step": 1, "initial_steps": 5, **PHASES[phase]}


def started(run: Path, top: Path, phase: str) -> subprocess.Popen[str]:
    changes = {key.replace(".", "__"): value for key, value in OFFLINE.items()} | settings(phase)
    return subprocess.Popen(
        arguments(run, **changes),
        env=ENVIRONMENT | {"MINARI_DATASETS_PATH": str(top / "datasets")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def interrupted(run: Path, top: Path, phase: str, number: int) -> int:
    """Send a signal once the run has a checkpoint; returns its exit code."""
    process = started(run, top, phase)
    deadline = time.monotonic() + 120
    while not RunFolder(run).states() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(number)
    process.communicate(timeout=120)
    return process.returncode


@pytest.fixture(scope="module", params=list(PHASES))
def whole(request: pytest.FixtureRequest, folder: Path) -> tuple[str, Path]:
    """A phase, and its run that nobody has interrupted."""
    run = folder / request.param / "whole"
    assert train(config(run, **settings(request.param))) == 0
    return request.param, run


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_was_interrupted_ends_as_if_it_had_not_been(
    whole: tuple[str, Path], folder: Path, number: int
) -> None:
    phase, uninterrupted = whole
    run = folder / phase / signal.Signals(number).name
    code = interrupted(run, folder, phase, number)
    assert code == (-9 if number == signal.SIGKILL else 143)
    assert Checkpoints(run).load() is not None
    assert train(config(run, **settings(phase))) == 0
    for key in ("agent", "generator", "metrics"):
        assert_equal(newest(run)[key], newest(uninterrupted)[key], key)
    assert timeless(run) == timeless(uninterrupted)


def test_a_loss_that_is_not_finite_ends_the_run_with_the_last_good_checkpoint(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, update = folder / "nan", BC.update

    def broken(agent: BC, batch: Any) -> Any:
        metrics = update(agent, batch)
        return metrics if agent.updates < 13 else metrics | {"actor_loss": torch.tensor(np.nan)}

    monkeypatch.setattr(BC, "update", broken)
    with pytest.raises(ValueError, match=r"actor_loss .* at update 12") as caught:
        train(config(run, **settings("imitate")))
    assert "diagnostic checkpoint" in str(caught.value) and "\n" not in str(caught.value)
    assert [path.stem for path in RunFolder(run).states()] == ["state-5", "state-10"]
    monkeypatch.setattr(BC, "update", update)
    assert train(config(run, **settings("imitate"))) == 0
    assert newest(run)["counters"]["updates"] == UPDATES


def test_a_full_disk_leaves_the_last_checkpoint_and_the_run_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run, save, refused = folder / "full", Checkpoints.save, []

    def full(self: Checkpoints, position: int, *args: Any, **named: Any) -> Path:
        if 5 < position < 30:
            refused.append(position)
            raise OSError(28, "No space left on device")
        return save(self, position, *args, **named)

    monkeypatch.setattr(Checkpoints, "save", full)
    with caplog.at_level("WARNING", "curl"):
        assert train(config(run, **settings("imitate"))) == 0
    assert refused == [10, 15, 20, 25]
    assert caplog.text.count("No space left on device; going on") == len(refused)
    assert newest(run)["counters"]["updates"] == UPDATES
