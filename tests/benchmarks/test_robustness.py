"""The study of robustness: its runs, what is kept of their tests on other looks, its page."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import robustness
from benchmarks.cells import ROOT, compose_all
from benchmarks.robustness import AUGMENTATIONS, TASK, TRAINED, Trained
from benchmarks.robustness_page import PAGE, compared, files, page, write_page
from support.paths import TESTS

STAND_IN = (sys.executable, str(TESTS / "support/stand_in_run.py"))
RESULTS = ROOT / "results/robustness"

PLAYED = """
import json, pathlib, sys
runs = sys.argv[2 : sys.argv.index("--shift")]
for number, run in enumerate(runs):
    looks = {
        "training": {"shift": {}, "returns": [400.0, 420.0]},
        "noise": {"shift": {"noise": {"severity": 3}}, "returns": [100.0 + number, 200.0]},
    }
    content = {"run": run, "axis": "env_steps", "env_steps": 100000, "seed": 0}
    file = pathlib.Path(run) / "shifts/100000-seed0.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content | {"left_out": {}, "looks": looks}))
"""
COMMANDS = (sys.executable, "-c", PLAYED)


def test_every_run_composes_and_all_agents_see_frames_of_one_size() -> None:
    cells = [Trained(TRAINED, augmentation, TASK, 3) for augmentation in AUGMENTATIONS]
    for cell, config in compose_all(cells).items():
        assert (config["seed"], config["augmentation"]["label"]) == (3, cell.variant)
        assert config["augmentation"]["query"]["size"] == 44
        assert config["render_size"] == (52 if "crop" in cell.variant else 44)
        assert (config["agent"]["label"], config["env_steps"]) == ("curl_small", 100_000)


def arguments(folder: Path, *more: str) -> list[str]:
    folders = ["--results", str(folder / "results"), "--runs", str(folder / "runs")]
    return [*folders, "--nice", "0", "--jobs", "2", "--augmentations", "none,shift", *more]


def test_what_was_trained_is_tested_and_the_page_says_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert robustness.main(arguments(tmp_path), STAND_IN, COMMANDS) == 0
    kept = sorted((tmp_path / "results").rglob("*.looks.json"))
    assert len(kept) == 6  # two augmentations, three seeds
    content = json.loads(kept[0].read_text())
    assert content["run"] == f"{TRAINED}/none/{TASK}/seed_1"  # and no path of this machine
    comparison = compared(tmp_path / "results")
    assert comparison.looks is not None
    assert comparison.looks.names == ("training", "noise")
    cell = comparison.looks.cells["none", TASK, "noise"]
    assert cell.returns.tolist() == [150.0, 151.0, 152.0]
    path = tmp_path / "docs/page.md"
    written = write_page(tmp_path / "results", path)
    assert [file.name for file in written[1:]] == list(files(path).values())
    text = path.read_text()
    for file in written[1:]:
        assert f"]({file.name})" in text and file.stat().st_size > 1000
    assert f"none keeps 0.37 [0.37, 0.37] of its return on {TASK} under noise." in text


def test_only_what_is_finished_is_tested(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert robustness.main(arguments(tmp_path, "--stages", "test"), STAND_IN, COMMANDS) == 0
    assert "no run is finished" in capfd.readouterr().out
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--augmentations", "crops"), "--augmentations must be one of none, crop"),
        (("--stages", "play"), "--stages must be one of train, test"),
        (("--minutes", "-1"), "--minutes must lie in (0, inf)"),
        (("--jobs", "0"), "--jobs must be"),
    ],
)
def test_a_bad_command_line_is_one_line(
    change: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert robustness.main([*arguments(tmp_path), *change], STAND_IN, COMMANDS) == 2
    told = capsys.readouterr().err.strip()
    assert message in told and "\n" not in told


def test_the_exit_code_is_that_of_the_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    fails = (sys.executable, "-c", "import sys; sys.exit(1)")
    assert robustness.main(arguments(tmp_path, "--seeds", "1"), STAND_IN, fails) == 1


@pytest.mark.skipif(not PAGE.exists(), reason="the study is not finished yet")
def test_the_page_of_the_repository_is_that_of_its_curves() -> None:
    assert PAGE.read_text() == page(compared(RESULTS), files(PAGE)), (
        "run `python -m benchmarks.robustness --page`"
    )
