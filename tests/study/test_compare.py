"""Comparison of runs, on synthetic run folders: what is said, what is refused, what is written."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curl.command.compare import main
from curl.study.compare import compare
from curl.study.report import sections
from curl.study.runs import due, find_runs
from support.synthetic_runs import STEPS, make_run

TASKS = ("cartpole_swingup", "walker_walk")


def make_grid(root: Path, levels: dict[str, float], *, seeds: int = 5, **options: Any) -> Path:
    """Runs of each variant on two tasks; seeds score 10 apart around the variant's level."""
    for variant, level in levels.items():
        for task in TASKS:
            for seed in range(1, seeds + 1):
                make_run(root, variant, task, seed, final=level + 10 * seed, **options)
    return root


def compared(*paths: Path, **options: Any) -> Any:
    return compare(paths, generator=np.random.default_rng(0), **options)


def refused(*paths: Path, **options: Any) -> str:
    """The one line with which a comparison is refused."""
    with pytest.raises(ValueError) as caught:
        compared(*paths, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- what is said ---------------------------------------------------------------------------------


def test_the_better_variant_is_named_and_alike_ones_are_not(tmp_path: Path) -> None:
    make_grid(tmp_path, {"crop": 300, "gaussian": 300, "shift": 600})
    comparison = compared(tmp_path)
    said = [str(pair) for pair in comparison.pairs]
    assert "shift beats crop on walker_walk: P = 1.00 [0.64, 1.00], 5 seeds" in said
    alike = (
        "crop and gaussian cannot be told apart on walker_walk with 5 seeds: P = 0.50 [0.21, 0.79]"
    )
    assert alike in said
    assert said[0].startswith("crop and gaussian cannot be told apart on all tasks")
    assert len(said) == 3 * 3  # pairs × (both tasks together, and each)


def test_numbers_by_hand(tmp_path: Path) -> None:
    comparison = compared(make_grid(tmp_path, {"crop": 300}))
    cell = comparison.cells["crop", "walker_walk"]
    np.testing.assert_allclose(cell.returns[:, -1], [310, 320, 330, 340, 350])
    assert cell.score.value == pytest.approx(330)
    assert 310 <= cell.score.low < 330 < cell.score.high <= 350
    assert cell.area.value == pytest.approx(165)  # a straight line from 0
    np.testing.assert_allclose(cell.curve[0], 330 * np.array(STEPS) / 100_000)
    aggregates = {name: estimate.value for name, estimate in comparison.aggregates["crop"].items()}
    expected = {"IQM": 0.33, "median": 0.33, "mean": 0.33, "optimality gap": 0.67}
    assert aggregates == pytest.approx(expected)
    assert comparison.profiles["crop"][0, 31] == pytest.approx(0.8)  # above 0.31: four of five


def test_the_same_generator_gives_the_same_numbers(tmp_path: Path) -> None:
    make_grid(tmp_path / "runs", {"crop": 300, "shift": 310})
    for name in ("one", "two"):
        compared(tmp_path / "runs", out=tmp_path / name)
    for file in sorted((tmp_path / "one").iterdir()):
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name


def test_a_baseline_is_compared_with_each_other_and_comes_first(tmp_path: Path) -> None:
    make_grid(tmp_path, {"crop": 300, "gaussian": 400, "shift": 600})
    comparison = compared(tmp_path, baseline="gaussian")
    assert comparison.grid.variants[0] == "gaussian"
    assert all("gaussian" in (pair.first, pair.second) for pair in comparison.pairs)
    message = refused(tmp_path, baseline="gausian")
    assert message.startswith("--baseline must be one of") and "did you mean 'gaussian'" in message


@pytest.mark.parametrize("by", ["label", "objective", "objective.name", "batch_size"])
def test_by_takes_shortcuts_and_dotted_keys(tmp_path: Path, by: str) -> None:
    for seed in (1, 2):
        make_run(tmp_path, seed=seed)
        make_run(tmp_path, seed=seed, objective__name="none", batch_size=512)
    expected = {
        "label": ("curl-crop-infonce", "curl-crop-none"),
        "batch_size": ("128", "512"),
    }
    assert compared(tmp_path, by=by).grid.variants == expected.get(by, ("infonce", "none"))


def test_by_task_lists_tasks_and_pairs_none(tmp_path: Path) -> None:
    comparison = compared(make_grid(tmp_path, {"crop": 300}), by="task")
    assert comparison.grid.variants == TASKS
    assert not comparison.pairs


def test_other_differences_than_the_one_compared_are_said(tmp_path: Path) -> None:
    for seed in range(1, 5):
        make_run(tmp_path, "crop", seed=seed)
        make_run(tmp_path, "shift", seed=seed, batch_size=512)
    said = "\n".join(line for part in sections(compared(tmp_path)) for line in part.bullets)
    assert "Variants differ in more than augmentation: batch_size." in said


def test_tasks_without_a_known_maximum_are_not_normalised(tmp_path: Path) -> None:
    for seed in (1, 2):
        make_run(tmp_path, seed=seed)
        make_run(tmp_path, task="pendulum", seed=seed, final=-300.0, task__env_id="Pendulum-v1")
    comparison = compared(tmp_path)
    assert comparison.normalised == ("cartpole_swingup",)
    assert comparison.aggregates["crop"]["mean"].value == pytest.approx(0.5)
    assert comparison.cells["crop", "pendulum"].score.value == pytest.approx(-300)


# -- what is missing ------------------------------------------------------------------------------


def test_missing_and_unfinished_runs_are_named_and_not_averaged_around(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        make_run(tmp_path, "crop", seed=seed)
        make_run(tmp_path, "gaussian", seed=seed, steps=STEPS[: 3 if seed == 2 else None])
        if seed != 3:
            make_run(tmp_path, "shift", seed=seed)
    comparison = compared(tmp_path, out=tmp_path / "report")
    assert set(comparison.cells) == {("crop", "cartpole_swingup")}
    assert set(comparison.aggregates) == {"crop"}
    assert not comparison.pairs
    unfinished, missing = comparison.grid.gaps()
    assert unfinished.startswith("unfinished: curl-gaussian-infonce/seed_2, ")
    assert unfinished.endswith("at 40,000 of 100,000 env steps")
    assert missing == "missing: shift on cartpole_swingup, seed 3"
    assert comparison.grid.remedy() == "compare what is there: --seeds 1"
    assert len(compared(tmp_path, seeds=[1]).cells) == 3
    assert unfinished in (tmp_path / "report" / "report.md").read_text()


def test_unfinished_runs_compare_at_a_step_that_all_reached(tmp_path: Path) -> None:
    for seed in (1, 2):
        make_run(tmp_path, "crop", seed=seed)
        make_run(tmp_path, "shift", seed=seed, steps=STEPS[:3])
    assert compared(tmp_path).grid.remedy() == "compare what is there: --at 40000"
    comparison = compared(tmp_path, at=40_000)
    assert len(comparison.cells) == 2
    assert comparison.grid.steps.tolist() == [0, 20_000, 40_000]


def test_nothing_complete_is_refused_with_the_reason(tmp_path: Path) -> None:
    make_run(tmp_path, "crop", seed=1)
    make_run(tmp_path, "shift", seed=2)
    message = refused(tmp_path)
    assert message.startswith("nothing is complete: missing: crop on cartpole_swingup, seed 2")


def test_a_run_that_is_being_written_is_unfinished(tmp_path: Path) -> None:
    make_run(tmp_path, "crop", seed=1)
    folder = make_run(tmp_path, "shift", seed=1)
    text = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(text[:-20])
    assert compared(tmp_path).grid.gaps()[0].endswith("at 80,000 of 100,000 env steps")


def test_evaluations_count_for_the_step_at_which_they_were_due(tmp_path: Path) -> None:
    """Where episodes have uneven lengths, an evaluation comes up to 7 env steps late (repeat 8)."""
    late = (
        (0, 20_003, 40_000, 60_007, 80_001, 100_004),
        (0, 20_005, 40_006, 60_000, 80_002, 100_000),
    )
    for seed, steps in enumerate(late, 1):
        make_run(tmp_path, seed=seed, steps=steps)
    runs = find_runs([tmp_path])
    assert [run.steps.tolist() for run in runs] == [list(STEPS)] * 2
    assert all(run.reached == run.budget == 100_000 for run in runs)
    assert compared(tmp_path).grid.steps.tolist() == list(STEPS)  # it refuses differing axes


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0),
        (20_000, 20_000),
        (20_007, 20_000),
        (20_008, 20_008),  # the interval was another one then
        (50_001, 50_001),
        (100_003, 100_000),
        (100_005, 100_005),
        (100_012, 100_005),
        (100_013, 100_013),  # of a larger budget
    ],
)
def test_a_budget_is_reached_by_the_agent_step_that_ends_beyond_it(
    step: int, expected: int
) -> None:
    config = {"task": {"action_repeat": 8}, "eval_every": 20_000, "env_steps": 100_005}
    assert due(step, config) == expected


def test_a_resumed_run_that_was_evaluated_twice_counts_once(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    row = {"kind": "evaluation", "env_steps": 40_000, "return_mean": 9.0, "returns": [8, 9, 10]}
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    np.testing.assert_allclose(compared(tmp_path).cells["crop", TASKS[0]].curve[0, 2], 9)


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task__action_repeat": 4}, "action repeats differ: .* has 8, .* 4"),
        ({"steps": [0, 25_000, 100_000]}, "axes differ: .* at 20,000 env steps, .* was not"),
        ({"steps": [0, 20_000, 50_000]}, "axes differ: .* at 40,000 env steps, .* was not"),
        ({"episodes": 5}, "evaluation protocols differ: .* has 3 episodes an evaluation, .* 5"),
    ],
)
def test_what_must_not_be_mixed_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    make_run(tmp_path, "crop")
    make_run(tmp_path, "shift", **changes)
    assert re.search(message, refused(tmp_path))


def test_runs_of_one_variant_with_different_settings_are_refused(tmp_path: Path) -> None:
    make_run(tmp_path, seed=1)
    make_run(tmp_path, seed=2, batch_size=512)
    message = refused(tmp_path)
    assert message.startswith("crop mixes settings: ")
    assert message.endswith("seed_2 512; compare --by batch_size")
    other = make_run(tmp_path / "again", seed=1, objective__name="none")
    message = refused(tmp_path / TASKS[0] / "curl-crop-infonce" / "seed_1", other)
    assert message.startswith("two runs of crop on cartpole_swingup with seed 1: ")
    assert message.endswith("they differ in objective.name; compare --by objective.name, or label")


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert refused(tmp_path / "empty").startswith("no run in ")
    folder = make_run(tmp_path / "runs")
    metrics = folder / "metrics.jsonl"
    good = metrics.read_text()
    metrics.write_text("{half\n" + good)
    assert refused(folder).endswith("metrics.jsonl, line 1 is not a row of metrics")
    metrics.write_text(good.replace("500.0", "NaN"))
    assert "the return at 100,000 env steps is not finite" in refused(folder)
    metrics.write_text(good)
    assert "did you mean 'batch_size'?" in refused(folder, by="batchsize")
    assert "is a group of settings; give one of" in refused(folder, by="augmentation.query")
    assert "its own variant" in refused(folder, by="seed")
    assert refused(folder, at=30_000).endswith("the last evaluation before is --at 20000")
    assert refused(folder, at=200_000).startswith("no run has reached 200,000 env steps")
    assert refused(folder, seeds=[7]) == "no run has seed 7"
    (folder / "config.yaml").unlink()
    assert refused(folder).endswith("has metrics.jsonl but no config.yaml")


def test_overlapping_folders_count_a_run_once(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    assert len(compared(tmp_path, folder, folder.parent).grid.runs) == 1


# -- what is written ------------------------------------------------------------------------------


def test_report_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_grid(tmp_path / "runs", {"crop": 300, "shift|<b>": 600})
    out = tmp_path / "report"
    assert main([str(tmp_path / "runs"), "--out", str(out), "--baseline", "crop"]) == 0
    said = "shift|<b> beats crop on walker_walk: P = 1.00 [0.64, 1.00], 5 seeds"
    assert said in capsys.readouterr().out
    figures = ("curves", "scores", "aggregates", "profiles", "improvement")
    expected = {f"{name}.{kind}" for name in figures for kind in ("png", "svg")}
    expected |= {"report.md", "report.html", "runs.csv", "curves.csv", "summary.csv", "pairs.csv"}
    assert {file.name for file in out.iterdir()} == expected
    assert all((out / f"{name}.png").read_bytes().startswith(b"\x89PNG") for name in figures)

    page = (out / "report.html").read_text()
    assert "shift|&lt;b&gt; beats crop" in page and "<b>" not in page
    assert page.count("data:image/svg+xml;base64,") == len(figures)
    assert not re.search(r"https?://|<script|<link|@import|url\(", page)
    text = (out / "report.md").read_text()
    assert "shift\\|<b>" in text and all(f"({name}.png)" in text for name in figures)
    assert str(tmp_path) not in page + text + (out / "runs.csv").read_text()

    with (out / "pairs.csv").open() as file:
        first = next(csv.DictReader(file))
    assert (first["task"], first["first"], first["told_apart"]) == (
        "all tasks",
        "shift|<b>",
        "True",
    )
    with (out / "summary.csv").open() as file:
        rows = {(r["variant"], r["task"], r["statistic"]): r["value"] for r in csv.DictReader(file)}
    assert float(rows["crop", "normalised", "optimality_gap"]) == pytest.approx(0.67)
    with (out / "runs.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 20 * len(STEPS)


def test_published_scores_are_shown_where_they_apply(tmp_path: Path) -> None:
    make_grid(tmp_path, {"crop": 300}, seeds=2)

    def table(**options: Any) -> list[list[str]]:
        parts = sections(compared(tmp_path, **options))
        return next(part.table for part in parts if part.title.startswith("Scores")) or []

    assert ["walker_walk", "CURL, published", "\N{EN DASH}", "403 ± 24", "\N{EN DASH}"] in table()
    assert not any("CURL, published" in row for row in table(at=80_000))


def test_one_run_is_reported_without_intervals(tmp_path: Path) -> None:
    make_run(tmp_path / "runs")
    comparison = compared(tmp_path / "runs", out=tmp_path / "report")
    assert np.isnan(comparison.cells["crop", TASKS[0]].score.low)
    assert "| cartpole_swingup | crop | 500 |" in (tmp_path / "report" / "report.md").read_text()
