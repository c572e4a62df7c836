"""Runs whose evaluations play other looks as well: metrics, resuming, refusals, both loops."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from curl.command.interactive import configuration
from curl.command.looks import chosen
from curl.data.writing import write
from curl.hardware.device import choose_opengl
from curl.run import evaluation
from curl.run.build import checked
from curl.run.folder import read_config
from curl.run.looks import evaluate_looks
from curl.run.start import train
from curl.schema import SettingsError
from curl.shifts.noise import Noise
from curl.study.runs import read_run
from support import offline
from support.datasets import origin
from support.equality import assert_equal
from support.faulty import EDGE
from support.looking import config, trained
from support.offline import newest
from support.programs import timeless
from support.recorded import played

LOOKS = "[noise,delay]"
OURS = [f"{look}/{what}" for look in ("noise", "delay") for what in ("return_mean", "return_std")]
OURS += ["noise/returns", "delay/returns"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("made") / "run", eval_shifts=LOOKS, eval_episodes=2)


@pytest.fixture
def unfit(monkeypatch: pytest.MonkeyPatch) -> None:
    """`noise` makes no sense anywhere."""

    def fit(self: Noise, name: str, simulation: object) -> None:
        raise ValueError(f"{name} is silent")

    monkeypatch.setattr(Noise, "fit", fit)


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a dataset of random actions."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    write("sound/random-v0", [played(seed) for seed in (0, 1)], origin(EDGE, action_dim=1))
    yield "sound/random-v0"


def evaluations(folder: Path) -> list[dict[str, Any]]:
    return [row for row in timeless(folder) if row["kind"] == "evaluation"]


def test_each_evaluation_plays_them_as_eval_does(run: Path) -> None:
    rows = evaluations(run)
    assert [row["env_steps"] for row in rows] == [0, 20, 40]
    assert all(set(OURS) < set(row) for row in rows)
    asked = chosen(["noise", "delay"], "--shift")
    cpu = torch.device("cpu")
    how: dict[str, Any] = {"episodes": 2, "seed": 1, "video": False, "device": cpu, "processes": 1}
    how |= {"backend": choose_opengl("auto", cpu)}
    found = evaluate_looks(run, looks=asked.settings, named=asked.named, **how)
    for name in ("noise", "delay"):
        look = found.content["looks"][name]
        assert rows[-1][f"{name}/returns"] == [round(value, 4) for value in look["returns"]]
        assert rows[-1][f"{name}/return_mean"] == pytest.approx(look["mean"], rel=1e-5)
    assert rows[-1]["noise/returns"] != rows[-1]["returns"]
    assert read_run(run, "run").returns[-1] == pytest.approx(rows[-1]["return_mean"], rel=1e-5)
    assert read_config(run)["eval_shifts"] == asked.settings


def test_nothing_else_of_the_run_changes(run: Path, tmp_path: Path) -> None:
    plain = trained(tmp_path / "plain", eval_episodes=2)
    assert not any("/" in key for row in timeless(plain) for key in row)
    without = [{k: v for k, v in row.items() if k not in OURS} for row in timeless(run)]
    assert without == timeless(plain)
    for part in ("agent", "counters", "generator"):
        assert_equal(newest(run)[part], newest(plain)[part], part)


def test_a_resumed_run_has_the_same_rows(run: Path, tmp_path: Path) -> None:
    trained(tmp_path / "run", eval_shifts=LOOKS, eval_episodes=2, env_steps=25)
    again = trained(tmp_path / "run", eval_shifts=LOOKS, eval_episodes=2)
    assert [r for r in evaluations(again) if r["env_steps"] != 25] == evaluations(run)


def test_an_offline_run_plays_them(tmp_path: Path, recorded: str) -> None:
    settings = offline.config(tmp_path / "run", dataset=recorded)
    looks = chosen(["brightness"], "eval_shifts").settings
    assert train(settings | {"eval_shifts": looks}) == 0
    rows = evaluations(tmp_path / "run")
    assert [row["updates"] for row in rows] == [0, 6, 12]
    assert all("brightness/return_mean" in row for row in rows)


def test_a_look_whose_evaluation_fails_is_only_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    call = evaluation.Evaluator.__call__

    def failing(self: Any, agent: Any, **how: Any) -> list[float]:
        if "noise" in (how.get("shift") or ()):
            raise ArithmeticError("it is too loud")
        return call(self, agent, **how)

    monkeypatch.setattr(evaluation.Evaluator, "__call__", failing)
    monkeypatch.setattr(logging.getLogger("curl"), "propagate", True)
    run = trained(tmp_path / "run", eval_shifts=LOOKS)
    assert "the evaluation on noise at 20 env steps failed: ArithmeticError" in caplog.text
    for row in evaluations(run):
        assert "delay/return_mean" in row and "return_mean" in row
        assert not any(key.startswith("noise") for key in row)


@pytest.mark.usefixtures("unfit")
@pytest.mark.parametrize("setting", ["shift", "eval_shifts"])
@pytest.mark.parametrize("loop", ["online", "offline"])
def test_what_makes_no_sense_is_refused_before_the_run_begins(
    tmp_path: Path, recorded: str, loop: str, setting: str
) -> None:
    folder = tmp_path / "run"
    settings = config(folder) if loop == "online" else offline.config(folder, dataset=recorded)
    look = chosen(["noise"], "eval_shifts").settings
    settings |= {setting: look if setting == "eval_shifts" else look["noise"]}
    with pytest.raises(ValueError, match=r"shift\.noise: Sound-v0 is silent") as caught:
        train(settings)
    assert "\n" not in str(caught.value) and not folder.exists()
    if setting == "eval_shifts":
        assert str(caught.value).startswith("eval_shifts: noise makes no sense here: ")


def test_wrong_settings_of_a_look_are_refused(tmp_path: Path) -> None:
    looks = {"loud": {"noise": {"label": "noise", "severity": 9}}}
    with pytest.raises(SettingsError, match=r"^shift\.noise\.severity must be one of "):
        checked(config(tmp_path / "run") | {"eval_shifts": looks})


def test_a_run_of_a_version_that_knew_none_has_none(tmp_path: Path) -> None:
    old = config(tmp_path / "run")
    del old["eval_shifts"]
    assert checked(old)["eval_shifts"] is None


def test_names_in_python_and_those_of_a_whole_configuration() -> None:
    found = configuration({"eval_shifts": ["noise", "blur:severity=1"]})
    assert list(found["eval_shifts"]) == ["noise", "blur:severity=1"]
    assert configuration("eval_shifts=[noise,delay]")["eval_shifts"].keys() == {"noise", "delay"}
    assert configuration(found)["eval_shifts"] == found["eval_shifts"]
    assert list(configuration(found, {"eval_shifts": ["delay"]})["eval_shifts"]) == ["delay"]
    assert configuration({"eval_shifts": []})["eval_shifts"] is None
    with pytest.raises(ValueError, match=r"^eval_shifts must be one of .*did you mean 'noise'"):
        configuration("eval_shifts=[nois]")
