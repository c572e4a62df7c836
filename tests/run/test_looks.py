"""A saved run on several looks: the same episodes on each, none of them twice, whole files."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import curl
from curl.command.looks import chosen
from curl.data.seeding import Stream, episode_seed
from curl.hardware.device import choose_opengl
from curl.run import evaluation, looks, scoring
from curl.run.checkpoint import sha256
from curl.run.looks import TRAINING, Evaluated, evaluate_looks, read_looks
from curl.shifts.noise import Noise
from support.looking import trained
from support.worker_processes import make_here

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("made") / "run")


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "make_stacked_env", make_here)


@pytest.fixture
def episodes_played(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The seed of each episode that is played in this process."""
    played: list[int] = []
    play = evaluation.Evaluator._episode

    def noted(self: Any, agent: Any, env: Any, seed: int, film: Any) -> float:
        played.append(seed)
        return play(self, agent, env, seed, film)

    monkeypatch.setattr(evaluation.Evaluator, "_episode", noted)
    yield played


HOW: dict[str, Any] = {"episodes": 2, "seed": 3, "video": False, "device": CPU, "processes": 1}


def evaluate(run: Path, *names: str, **changes: Any) -> Evaluated:
    asked = chosen(names, "--shift")
    how = HOW | {"backend": choose_opengl("auto", CPU), "stop": lambda: False} | changes
    return evaluate_looks(run, looks=asked.settings, named=asked.named, **how)


def returns(found: Evaluated) -> dict[str, list[float]]:
    return {name: look["returns"] for name, look in found.content["looks"].items()}


def test_each_look_is_played_in_the_same_episodes_beside_the_training_look(
    run: Path, episodes_played: list[int]
) -> None:
    found = evaluate(run, "noise", "brightness:severity=5")
    seeds = [episode_seed(3, Stream.EVALUATION, i) for i in range(2)]
    assert episodes_played == 3 * seeds
    content = json.loads(found.file.read_text())
    assert content == found.content
    state = run / "checkpoints" / "state-40.pt"
    assert (content["checkpoint"], content["sha256"]) == (state.name, sha256(state))
    assert (content["env_steps"], content["seed"]) == (40, 3)
    assert content["episode_seeds"] == seeds and content["left_out"] == {}
    assert list(content["looks"]) == [TRAINING, "noise", "brightness:severity=5"]
    assert content["looks"]["brightness:severity=5"]["shift"]["brightness"]["severity"] == 5
    values = returns(found)
    assert len({tuple(value) for value in values.values()}) == 3
    plain = scoring.evaluate_run(run, backend=choose_opengl("auto", CPU), **HOW)
    assert values[TRAINING] == plain["returns"]
    summary = ("mean", "std", "interval")
    assert [content["looks"][TRAINING][key] for key in summary] == [plain[key] for key in summary]


def test_a_look_takes_the_place_of_the_one_that_the_run_trained_on(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", shift="noise", shift__noise__severity=5)
    found = evaluate(run, "none", "noise", "noise:severity=5")
    shifts = {name: look["shift"] for name, look in found.content["looks"].items()}
    assert shifts["none"] == {} and shifts["noise"]["noise"]["severity"] == 3
    assert shifts[TRAINING] == shifts["noise:severity=5"]
    values = returns(found)
    assert values[TRAINING] == values["noise:severity=5"]
    assert values["none"] != values[TRAINING] != values["noise"] != values["none"]


def test_no_episode_is_played_twice(run: Path, episodes_played: list[int]) -> None:
    first = evaluate(run, "noise")
    kept = first.file.read_bytes()
    assert len(episodes_played) == 4
    again = evaluate(run, "noise")
    assert returns(again) == returns(first) and first.file.read_bytes() == kept
    assert len(episodes_played) == 4
    one = evaluate(run, "none", "noise", episodes=1)  # none is what the run trained on
    assert returns(one)["noise"] == returns(first)["noise"][:1]
    assert len(one.content["episode_seeds"]) == 1 and len(episodes_played) == 4
    assert read_looks(first.file)["looks"]["noise"]["episodes"] == 2  # nothing is thrown away
    evaluate(run, "delay")
    assert list(read_looks(first.file)["looks"]) == [TRAINING, "noise", "none", "delay"]
    assert len(episodes_played) == 6
    more = evaluate(run, "noise", episodes=3)
    assert returns(more)["noise"][:2] == returns(first)["noise"] and len(episodes_played) == 12


@pytest.mark.parametrize("changed", ["another checkpoint", "another file"])
def test_what_is_there_of_something_else_is_played_anew(
    run: Path, episodes_played: list[int], changed: str
) -> None:
    first = evaluate(run, "noise")
    if changed == "another checkpoint":
        content = json.loads(first.file.read_text())
        first.file.write_text(json.dumps(content | {"sha256": "0" * 64}))
    else:
        first.file.write_text('{"looks": {"noise": {"shift": 3, "returns": []}}}')
    assert returns(evaluate(run, "noise")) == returns(first)
    assert len(episodes_played) == 8


def test_a_state_file_and_another_seed_have_files_of_their_own(run: Path) -> None:
    names = [evaluate(run / "checkpoints" / "state-20.pt", "noise").file.name]
    names += [evaluate(run, "noise", seed=seed).file.name for seed in (3, 4)]
    assert names == ["20-seed3.json", "40-seed3.json", "40-seed4.json"]
    assert sorted(path.name for path in (run / "shifts").glob("*.json")) == names


def test_side_by_side_as_one_after_another_in_processes_that_are_started_once(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    single = evaluate(run, "noise", "delay", "brightness", episodes=3)
    single.file.unlink()
    started: list[int] = []
    workers = evaluation.Workers

    def counted(make: Any) -> Any:
        started.append(len(make))
        return workers(make)

    monkeypatch.setattr(evaluation, "Workers", counted)
    double = evaluate(run, "noise", "delay", "brightness", episodes=3, processes=2)
    assert started == [2]
    for name, value in returns(single).items():
        assert returns(double)[name] == pytest.approx(value), name
        np.testing.assert_array_equal(double.seen[name], single.seen[name])


def test_what_the_agent_saw_and_a_video_of_each_look(run: Path) -> None:
    plain = evaluate(run, "noise")
    assert plain.videos == {} and set(plain.seen) == {TRAINING, "noise"}
    assert plain.seen["noise"].shape == (20, 40, 40, 3)
    assert plain.seen["noise"][0].std() > plain.seen[TRAINING][0].std() == 0
    shown = evaluate(run, "noise", video=True)  # of episodes that are there already
    assert returns(shown) == returns(plain)
    assert all(path.stat().st_size for path in shown.videos.values())
    assert set(shown.videos) == {TRAINING, "noise"}
    before = {path: path.stat().st_mtime_ns for path in shown.videos.values()}
    again = evaluate(run, "noise", video=True)
    assert {path: path.stat().st_mtime_ns for path in again.videos.values()} == before


def test_what_makes_no_sense_is_left_out_of_all_and_refused_by_name(
    run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fit(self: Noise, name: str, simulation: object) -> None:
        raise ValueError(f"{name} is silent")

    monkeypatch.setattr(Noise, "fit", fit)
    monkeypatch.setattr(looks.log, "propagate", True)
    with pytest.raises(ValueError, match=r"^\S+: shift\.noise: Sound-v0 is silent$"):
        evaluate(run, "noise")
    assert not (run / "shifts").exists()
    with caplog.at_level("INFO", "curl"):
        found = evaluate(run, "all", episodes=1)
    assert f"{run}: noise is left out: shift.noise: Sound-v0 is silent" in caplog.messages
    assert found.content["left_out"]["noise"] == "shift.noise: Sound-v0 is silent"
    assert "noise" not in found.content["looks"]
    assert {"blur", "brightness", "delay", "occlusion"} <= set(found.content["looks"])


def test_an_interruption_keeps_the_looks_that_were_finished(
    run: Path, episodes_played: list[int]
) -> None:
    with pytest.raises(InterruptedError):
        evaluate(run, "noise", "delay", stop=lambda: len(episodes_played) > 5)
    assert list(read_looks(run / "shifts" / "40-seed3.json")["looks"]) == [TRAINING, "noise"]
    assert len(episodes_played) == 6
    evaluate(run, "noise", "delay")
    assert len(episodes_played) == 8  # those of delay


def test_a_file_that_cannot_be_written_loses_no_result(run: Path) -> None:
    (run / "shifts").touch()  # where a folder should be
    found = evaluate(run, "noise")
    (line,) = found.failures
    assert line.startswith(f"{run}/shifts/40-seed3.json could not be written: ")
    assert all(len(value) == 2 for value in returns(found).values())


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"looks": [1]}', '{"looks": {"a": {}}}'])
def test_a_file_that_is_something_else_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=r"a\.json is not an evaluation on several looks$"):
        read_looks(tmp_path / "a.json")


def test_the_environment_of_a_run_with_another_look(run: Path) -> None:
    frames = []
    for shift in (None, {}, {"noise": {"severity": 3}}):
        with contextlib.closing(curl.make_env(run, shift=shift, device="cpu")) as env:
            frames.append(env.reset(seed=1)[0])
    np.testing.assert_array_equal(frames[0], frames[1])
    assert frames[0].std() == 0 < frames[2].std()
    with pytest.raises(ValueError, match=r"^shift\.noise\.severity must be one of "):
        curl.make_env(run, shift={"noise": {"severity": 9}}, device="cpu")
