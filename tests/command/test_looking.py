"""`python -m curl eval RUN --shift NAME,...`: its table, its files, its refusals and exit codes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import image

from curl.command import looking
from curl.shifts.noise import Noise
from support.looking import trained
from support.typed import Typed


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("made") / "run")


@pytest.fixture
def runs(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two copies of a run; the name of the second could be read as markup."""
    monkeypatch.setenv("COLUMNS", "200")
    return [Path(shutil.copytree(made, tmp_path / name)) for name in ("one", "[b]")]


def lines_of(text: str, look: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if look in line.split()[:2]]


def test_one_table_files_and_what_out_holds(
    runs: list[Path], commanded: Typed, tmp_path: Path
) -> None:
    out = tmp_path / "out" / "all.json"
    options = ("--shift", "noise,delay", "--episodes", 3, "--device", "cpu", "--out", out)
    code, printed, said = commanded("eval", *runs, *options)
    assert code == 0, said
    assert f"{runs[0]}: 40 env steps, 3 episodes on each look" in printed
    for look in ("training", "noise", "delay"):
        assert [line[0] for line in lines_of(printed, look)] == list(map(str, runs))
    results = json.loads(out.read_text())
    for run, result in zip(runs, results, strict=True):
        assert result["run"] == str(run) and set(result["looks"]) == {"training", "noise", "delay"}
        file, sheet = run / "shifts" / "40-seed0.json", run / "shifts" / "40-seed0.png"
        assert f"{file} {sheet}" in printed
        assert (result["file"], result["pictures"]) == (str(file), str(sheet))
        assert json.loads(file.read_text())["looks"] == result["looks"]
        strips = {path.stem: image.imread(path) for path in (run / "shifts/40-seed0").iterdir()}
        assert set(strips) == {"training", "noise", "delay"}
        assert {pixels.shape[:2] for pixels in strips.values()} == {(40, 8 * 42 - 2)}
        assert image.imread(sheet).std() > 0.01
    assert not (runs[0] / "evaluation.json").exists()
    again = commanded("eval", *runs, *options)
    assert again[:2] == (0, printed)  # nothing is played, everything is told


def test_one_run_has_no_column_of_its_own_and_videos_are_listed(
    runs: list[Path], commanded: Typed
) -> None:
    options = ("--shift", "noise:severity=1", "--episodes", 1, "--device", "cpu", "--video")
    code, printed, _ = commanded("eval", runs[0], *options)
    assert code == 0
    assert "1 episode on each look" in printed
    (row,) = [line for line in printed.splitlines() if line.startswith("noise:severity=1 ")]
    assert "[" not in row  # one episode has no interval
    videos = [runs[0] / f"shifts/40-seed0/{look}.mp4" for look in ("training", "noise:severity=1")]
    assert " ".join(map(str, videos)) in printed and all(video.exists() for video in videos)


@pytest.mark.parametrize("names", ["nois", "noise,nois", "", "noise:severity=9"])
def test_an_unknown_look_is_refused_before_anything_is_opened(
    runs: list[Path], commanded: Typed, names: str
) -> None:
    code, printed, said = commanded("eval", *runs, "--shift", names, "--device", "cpu")
    assert (code, printed) == (2, "")
    assert said.startswith("error: ") and said.count("\n") == 1
    assert not any((run / "shifts").exists() for run in runs)


def test_a_look_that_makes_no_sense_costs_only_that_run(
    runs: list[Path], commanded: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = iter(["it is silent"])

    def fit(self: Noise, name: str, simulation: object) -> None:
        for line in refusals:
            raise ValueError(line)

    monkeypatch.setattr(Noise, "fit", fit)
    options = ("--shift", "noise", "--episodes", 1, "--device", "cpu")
    code, printed, said = commanded("eval", *runs, *options)
    assert code == 2
    assert [line for line in said.splitlines() if line.startswith("error: ")] == [
        f"error: {runs[0]}: shift.noise: it is silent"
    ]
    assert f"{runs[1]}: 40 env steps" in printed and f"{runs[0]}: 40" not in printed


def test_pictures_that_cannot_be_written_lose_no_number(runs: list[Path], commanded: Typed) -> None:
    (runs[0] / "shifts").mkdir()
    (runs[0] / "shifts" / "40-seed0").touch()  # where a folder should be
    options = ("--shift", "noise", "--episodes", 1, "--device", "cpu")
    code, printed, said = commanded("eval", runs[0], *options)
    assert code == 2
    assert f"{runs[0]}/shifts/40-seed0.png could not be written: " in said
    assert lines_of(printed, "noise") and "40-seed0.png" not in printed
    assert (runs[0] / "shifts" / "40-seed0.json").exists()


def result(**returns: list[float]) -> dict[str, Any]:
    from curl.run.scoring import summary

    looks = {name: {**summary(values), "returns": values} for name, values in returns.items()}
    return {"seed": 0, "looks": looks}


def test_differences_and_ratios_are_paired() -> None:
    """Episodes differ much, and the look takes 10 or half of each."""
    base = [100.0, 200.0, 300.0, 400.0]
    (first, less, half) = looking.look_rows(
        result(training=base, less=[x - 10 for x in base], half=[x / 2 for x in base])
    )
    assert (
        first[0] == "training" and first[1].startswith("250.0 [44.6, ") and first[2:] == ["-"] * 2
    )
    assert less[2] == "-10.0 [-10.0, -10.0]"
    assert half[3] == "0.50 [0.50, 0.50]"


def test_nothing_is_kept_of_a_return_that_is_not_above_zero() -> None:
    rows = looking.look_rows(result(training=[-5.0, 1.0], noise=[-9.0, 2.0]))
    assert rows[1][3] == "-" and rows[1][2].startswith("-1.5 [")
    rows = looking.look_rows(result(training=[-5.0, 15.0], noise=[0.0, 5.0]))
    assert rows[1][3] == "0.50"  # a mean that may be negative gives no interval


def test_the_table_says_the_same_each_time() -> None:
    values = np.random.default_rng(0).uniform(1, 2, (2, 20)).tolist()
    once, again = (looking.look_rows(result(training=values[0], noise=values[1])) for _ in "12")
    assert once == again
