"""The commands and the API on runs that learned from a dataset alone, whose axis is updates."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import curl
from curl.command import eval as eval_program
from curl.command import main
from curl.data import dataset as datasets
from curl.data.writing import write
from curl.errors import BAD_INPUT
from curl.run import logger as logging_of_runs
from curl.run.folder import RunFolder
from curl.run.start import train
from curl.run.wandb import Wandb
from support.datasets import origin
from support.faulty import EDGE, Sound
from support.offline import config
from support.programs import rows
from support.recorded import played

NAME = "sound/random-v0"

pytestmark = pytest.mark.usefixtures("handlers")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with two seeds of an offline run, and an online run of the same settings."""
    top = tmp_path_factory.mktemp("offline_runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(top / "datasets"))
        write(NAME, [played(seed) for seed in range(4)], origin(EDGE, action_dim=1))
        for seed in (1, 2):
            assert train(config(top / "offline" / f"seed_{seed}", dataset=NAME, seed=seed)) == 0
        online = {"loop": "online", "updates": "null", "env_steps": 30, "initial_steps": 5}
        assert train(config(top / "online" / "seed_1", **online, eval_every=15)) == 0
        yield top


@pytest.fixture
def called(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs a command in this process: exit code, standard output, standard error."""
    monkeypatch.setenv("COLUMNS", "300")

    def call(*arguments: Any, of: Callable[[list[str]], int] = main.main) -> tuple[int, str, str]:
        from curl.errors import exits_with_one_line

        code = exits_with_one_line(of, [str(each) for each in arguments])
        return code, *capsys.readouterr()

    return call


def test_status_shows_the_updates_of_offline_runs(runs: Path, called: Any) -> None:
    code, out, _ = called("status", runs / "offline")
    assert code == 0 and "updates" in out and "env steps" not in out
    assert out.count("finished") == 3  # two rows, and the line that counts them
    code, out, _ = called("status", runs)
    assert code == 0 and "12 updates" in out and "30 env steps" in out


def test_compare_compares_offline_runs_at_updates(runs: Path, called: Any, tmp_path: Path) -> None:
    code, out, err = called(
        "compare", runs / "offline", "--by", "label", "--at", "6", "--out", tmp_path
    )
    assert (code, err) == (0, "") and "6 updates" in out and "env steps" not in out
    assert "env steps" not in (tmp_path / "report.md").read_text()


def test_compare_refuses_to_mix_axes_in_one_line(runs: Path, called: Any) -> None:
    code, out, err = called("compare", runs, "--by", "loop")
    assert (code, out) == (BAD_INPUT, "")
    assert err.startswith("error: axes differ: ") and err.count("\n") == 1
    assert "counts updates" in err and "counts env steps" in err


def test_an_offline_run_is_evaluated_and_its_row_says_updates(
    runs: Path, called: Any, tmp_path: Path
) -> None:
    folder = shutil.copytree(runs / "offline" / "seed_1", tmp_path / "run")
    arguments = (folder, "--episodes", 2, "--out", tmp_path / "scores.json")
    code, out, err = called(*arguments, of=eval_program.main)
    assert code == 0, err
    assert "updates" in out and "env steps" not in out
    (found,) = json.loads((tmp_path / "scores.json").read_text())
    assert (found["axis"], found["updates"], found["episodes"]) == ("updates", 12, 2)


def test_an_offline_run_is_loaded_and_acts(runs: Path) -> None:
    policy = curl.load(runs / "offline" / "seed_1")
    assert (policy.clock.updates, policy.clock.env_steps) == (12, 0)
    env = Sound()
    env.reset(seed=0)
    policy.reset()
    assert policy.step(env.render()).shape == (1,)


def test_episodes_of_an_offline_run_are_recorded_and_say_how_far_it_was(
    runs: Path, called: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    folder = runs / "offline" / "seed_1"
    code, _, err = called("record", folder, "--dataset", "sound/mean-v0", "--episodes", 1)
    assert code == 0, err
    found = datasets.read("sound/mean-v0").origin
    assert (found.updates, found.env_steps) == (12, 0)
    assert found.checkpoint == str(RunFolder(folder).checkpoint(12))
    code, out, _ = called("dataset", "sound/mean-v0")
    assert code == 0 and "state-12.pt, 12 updates" in out and "env steps" not in out


def test_an_offline_run_has_no_replay_buffer_to_record(
    runs: Path, called: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    folder = runs / "offline" / "seed_1"
    code, out, err = called("record", folder, "--dataset", "sound/replay-v0", "--replay")
    assert (code, out) == (BAD_INPUT, "") and err.count("\n") == 1
    assert f"{folder} has no replay buffer: it learned from a dataset alone" in err


def test_the_rows_that_wandb_gets_of_an_offline_run_rise(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when a run is resumed, whose earlier rows an offline wandb run gets once more."""
    given: list[int] = []

    class Noted:
        def log(self, values: dict[str, Any], step: int) -> None:
            given.append(step)

        def finish(self) -> None:
            """Nothing is left to do."""

    def start(mode: str, *, axis: str, **others: Any) -> Wandb:
        return Wandb(Noted(), offline=True, axis=axis)

    monkeypatch.setattr(logging_of_runs, "start_wandb", start)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(runs / "datasets"))
    for updates in (8, 12):
        given.clear()
        assert train(config(tmp_path / "run", dataset=NAME, updates=updates)) == 0
        assert given == sorted(given) and len(set(given)) > 3 and given[-1] == updates
        assert given == [row["updates"] for row in rows(tmp_path / "run")]
