"""The composition root: a plain configuration becomes a run, in any program and thread."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from curl.data import environment
from curl.run.build import checked
from curl.run.checkpoint import (
    CheckpointError,
    Checkpoints,
    Sizes,
    read_state,
    save_file,
    sizes_of,
)
from curl.run.folder import RunFolder, read_config
from curl.run.guard import Signals, StopSignal, Watchdog
from curl.run.scoring import evaluate_run
from curl.run.start import train
from curl.version import commit
from support import faulty  # noqa: F401  registers environments
from support.paths import ROOT
from support.programs import SETTINGS

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def test_the_package_trains_without_hydra() -> None:
    program = "import sys, curl.run.start\n"
    program += "sys.exit(not sys.modules.keys().isdisjoint(('hydra', 'omegaconf')))"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run of 40 steps in an environment of grey frames, as plain values."""
    settings = SETTINGS | {"task.env_id": "Sound-v0", "task.action_repeat": 1, "env_steps": 40}
    settings |= {"initial_steps": 5, "run_dir": tmp_path_factory.mktemp("run")}
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        composed = compose("train", [f"{key}={value}" for key, value in settings.items()])
    plain = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items() if key != "experiment"}


@pytest.fixture(scope="module")
def trained(config: dict[str, Any]) -> Path:
    """The folder of that run, which another thread of this program trained."""
    codes: list[int] = []
    before = handlers()
    thread = threading.Thread(target=lambda: codes.append(train(config)))
    thread.start()
    thread.join()
    assert codes == [0] and handlers() == before
    return Path(config["run_dir"])


def test_a_program_trains_from_plain_values(trained: Path, config: dict[str, Any]) -> None:
    saved = read_config(trained)
    used = saved.pop("used")
    assert (used["device"], used["commit"]) == ("cpu", commit())
    assert saved == checked(config)
    assert Checkpoints(trained).newest_state()["counters"]["env_steps"] == 40


def test_signals_are_given_back_when_a_run_ends_or_cannot_begin(
    trained: Path, config: dict[str, Any]
) -> None:
    before = handlers()
    assert train(config) == 0  # it is finished: its last evaluation is all that is looked at
    with pytest.raises(ValueError, match="seed=2"):
        train(config | {"seed": 2})
    assert handlers() == before


# -- what a checkpoint says of its agent -----------------------------------------------------------


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "copied")


def rewritten(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """The newest state file, after a change of what it holds."""
    path = RunFolder(folder).states()[-1]
    state = read_state(path)
    change(state)
    save_file(path, state, checksum=path.with_suffix(".sha256"))
    return path


def evaluate(folder: Path) -> dict[str, Any]:
    settings = {"episodes": 1, "seed": 0, "video": False, "processes": 1, "backend": "egl"}
    return evaluate_run(folder, device=torch.device("cpu"), **settings)


def test_a_checkpoint_says_what_its_agent_acts_on(trained: Path) -> None:
    assert sizes_of(Checkpoints(trained).newest_state()) == Sizes(1, (3, 40, 40, 3))


def test_eval_opens_no_environment_for_the_sizes_of_a_checkpoint(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    make_env = environment.make_env

    def noting(**settings: Any) -> Any:
        opened.append(settings["env_id"])
        return make_env(**settings)

    monkeypatch.setattr(environment, "make_env", noting)  # the evaluator has a name of its own
    found = evaluate(copied)
    assert opened == []
    rewritten(copied, lambda state: state.pop("sizes"))
    again = evaluate(copied)
    assert opened == [] and again["returns"] == found["returns"]  # the weights of the actor tell


@pytest.mark.parametrize(
    "sizes",
    [
        *(None, 3, {}, {"action_dim": 1}, {"action_dim": 0, "observation": [3, 40, 40, 3]}),
        *(
            {"action_dim": True, "observation": [3, 40, 40, 3]},
            {"action_dim": 1, "observation": []},
        ),
    ],
    ids=str,
)
def test_sizes_that_are_none_are_refused(copied: Path, sizes: Any) -> None:
    rewritten(copied, lambda state: state.update(sizes=sizes))
    with pytest.raises(CheckpointError, match="the checkpoint's sizes are"):
        evaluate(copied)


def test_a_checkpoint_of_another_action_space_is_refused_by_its_sizes(
    copied: Path, config: dict[str, Any]
) -> None:
    other = {"action_dim": 2, "observation": [3, 40, 40, 3]}
    rewritten(copied, lambda state: state.update(sizes=other))
    with pytest.raises(CheckpointError, match=r"is of Sizes\(action_dim=2, .*action_dim=1, "):
        train(config | {"run_dir": str(copied), "env_steps": 50})


# -- signals ---------------------------------------------------------------------------------------


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in NUMBERS]


def begin(signals: Signals) -> StopSignal:
    """Everything of a run that handles signals."""
    Watchdog(timeout=100, on_hang=lambda cause: None, signals=signals).close()
    return StopSignal(lambda text: None, signals=signals)


def test_signals_are_taken_and_given_back() -> None:
    before, signals = handlers(), Signals()
    asked = begin(signals)
    assert all(ours != theirs for ours, theirs in zip(handlers(), before, strict=True))
    signal.raise_signal(signal.SIGTERM)
    assert asked.number == signal.SIGTERM
    begin(signals)  # what was there before the first of them is what is given back
    signals.restore()
    assert handlers() == before


def test_the_handlers_of_a_host_program_are_left_alone() -> None:
    before = handlers()
    begin(Signals(owned=False))
    assert handlers() == before
    elsewhere = threading.Thread(target=lambda: begin(Signals()))  # Python refuses handlers there
    elsewhere.start()
    elsewhere.join()
    assert handlers() == before


def test_a_watchdog_that_is_closed_has_no_thread() -> None:
    before = set(threading.enumerate())
    watchdog = Watchdog(timeout=0.1, on_hang=lambda cause: None, signals=Signals(owned=False))
    (thread,) = set(threading.enumerate()) - before
    watchdog.close()
    thread.join(timeout=10)
    assert not thread.is_alive()
