"""A comparison on several looks: what is read, said, refused and written."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curl.command.compare import main
from curl.command.looks import known
from curl.run import looks as evaluations
from curl.study.compare import compare
from curl.study.look_report import look_sections
from curl.study.looks import TOGETHER, TRAINING, Looks
from support.synthetic_runs import make_run

SHIFTS: dict[str, Any] = {
    TRAINING: {},
    "noise": {"noise": {"label": "noise", "severity": 3}},
    "delay": {"delay": {"label": "delay", "steps": 2}},
}


def evaluated(folder: Path, returns: dict[str, list[float]], **changes: Any) -> Path:
    """Leaves what eval --shift leaves in a run folder."""
    content: dict[str, Any] = {"axis": "env_steps", "env_steps": 100_000, "seed": 0, "left_out": {}}
    content |= changes
    content["looks"] = {
        name: {"shift": SHIFTS[name.split(":")[0]], "returns": values}
        for name, values in returns.items()
    }
    file = folder / "shifts" / f"{content['env_steps']}-seed{content['seed']}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content))
    return folder


def make_grid(root: Path, shares: dict[str, float], *, seeds: int = 5) -> Path:
    """Returns of 500 + 10 seed on the training look; a variant keeps its share under noise."""
    for variant, share in shares.items():
        for seed in range(1, seeds + 1):
            own = 500.0 + 10 * seed
            training, noise = [own - 1, own + 1], [share * own - 1, share * own + 1]
            returns = {TRAINING: training, "noise": noise, "delay": training}
            evaluated(make_run(root, variant, seed=seed), returns)
    return root


def compared(*paths: Path, looks: tuple[str, ...] = ("all",), **options: Any) -> Looks:
    generator = np.random.default_rng(0)
    found = compare(paths, looks=looks, generator=generator, **options).looks
    assert found is not None
    return found


def refused(*paths: Path, **options: Any) -> str:
    with pytest.raises(ValueError) as caught:
        compared(*paths, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def said(*paths: Path, **options: Any) -> list[str]:
    comparison = compare(paths, looks=["all"], generator=np.random.default_rng(0), **options)
    return [line for part in look_sections(comparison) for line in part.bullets]


def test_numbers_by_hand(tmp_path: Path) -> None:
    found = compared(make_grid(tmp_path, {"crop": 0.5, "shift": 0.9}))
    assert found.names == (TRAINING, "noise", "delay", TOGETHER)
    assert (found.episodes, found.seed, found.lacking) == (2, 0, "")
    cell = found.cells["crop", "cartpole_swingup", "noise"]
    np.testing.assert_allclose(cell.returns, [255, 260, 265, 270, 275])
    assert cell.score.value == pytest.approx(265) and 255 <= cell.score.low < 265
    assert cell.ratio == pytest.approx((0.5, 0.5, 0.5))  # pairs are drawn together
    together = found.cells["crop", "cartpole_swingup", TOGETHER]
    assert together.ratio.value == pytest.approx(0.75)
    training = found.cells["shift", "cartpole_swingup", TRAINING]
    assert training.score.value == pytest.approx(530) and training.ratio.value == 1


def test_what_is_said_with_enough_seeds(tmp_path: Path) -> None:
    lines = said(make_grid(tmp_path, {"crop": 0.5, "none": 0.5, "shift": 0.9}))
    where = "on cartpole_swingup under"
    assert f"crop keeps 0.75 [0.75, 0.75] of its return {where} the mean of 2 looks." in lines
    assert (
        f"shift beats crop, none {where} noise with 5 seeds; no other two can be told apart."
        in lines
    )
    assert f"No two variants can be told apart {where} delay with 5 seeds." in lines
    assert any(line.startswith("9 comparisons at the 5 % level") for line in lines)


@pytest.mark.parametrize("seeds", [1, 2])
def test_nothing_is_said_with_fewer_than_three_seeds(tmp_path: Path, seeds: int) -> None:
    lines = said(make_grid(tmp_path, {"crop": 0.1, "shift": 0.9}, seeds=seeds))
    assert lines[0].startswith(f"Nothing is said of looks with {seeds} seed")
    assert not any("beats" in line or "keeps" in line for line in lines)


def test_three_seeds_tell_nothing_apart_and_say_so(tmp_path: Path) -> None:
    lines = said(make_grid(tmp_path, {"crop": 0.1, "shift": 0.9}, seeds=3))
    assert not any("beats" in line for line in lines)
    assert any("that takes 4" in line for line in lines)
    alike = [line for line in lines if line.startswith("shift and crop cannot be told apart")]
    assert len(alike) == 1 and "under noise, delay and all looks with 3 seeds." in alike[0]


def test_named_looks_alone_are_compared(tmp_path: Path) -> None:
    found = compared(make_grid(tmp_path, {"crop": 0.5}), looks=("noise",))
    assert found.names == (TRAINING, "noise") and not found.pairs


def test_runs_without_an_evaluation_are_named_with_the_command(tmp_path: Path) -> None:
    make_grid(tmp_path, {"crop": 0.5, "shift": 0.9}, seeds=3)
    without = make_run(tmp_path, "none", seed=1)
    for seed in (2, 3):
        evaluated(make_run(tmp_path, "none", seed=seed), {TRAINING: [1.0], "noise": [0.5]})
    found = compared(tmp_path)
    names = [f"curl-none-infonce/seed_{seed}" for seed in (1, 2, 3)]
    assert found.lacking == (
        f"3 runs were not evaluated on noise, delay; python -m curl eval {' '.join(names)} "
        "--shift noise,delay --episodes 2 does that"
    )
    assert found.lacking in said(tmp_path)
    assert ("none", "cartpole_swingup", "noise") not in found.cells
    assert ("crop", "cartpole_swingup", "noise") in found.cells
    assert found.episodes == 1  # the fewest that any run has, the same ones for all
    assert without.exists()


def test_a_look_that_makes_no_sense_on_a_task_is_not_lacking(tmp_path: Path) -> None:
    make_grid(tmp_path, {"crop": 0.5}, seeds=2)
    for seed in (1, 2):
        folder = make_run(tmp_path, "crop", "walker_walk", seed=seed)
        left_out = {"delay": "shift.delay: makes no sense"}
        evaluated(folder, {TRAINING: [100.0] * 2, "noise": [50.0] * 2}, left_out=left_out)
    found = compared(tmp_path)
    assert found.lacking == ""
    assert found.cells["crop", "walker_walk", TOGETHER].ratio.value == pytest.approx(0.5)
    assert ("crop", "walker_walk", "delay") not in found.cells


@pytest.mark.parametrize("damage", ["absent", "garbled", "another position", "no training look"])
def test_no_evaluation_at_all_is_refused_with_the_command(tmp_path: Path, damage: str) -> None:
    folder = make_run(tmp_path, "crop")
    if damage == "garbled":
        evaluated(folder, {TRAINING: [1.0]})
        next((folder / "shifts").iterdir()).write_text("{half")
    elif damage == "another position":
        evaluated(folder, {TRAINING: [1.0]}, env_steps=80_000)
    elif damage == "no training look":
        evaluated(folder, {"noise": [1.0]})
    assert refused(tmp_path) == (
        "no run was evaluated on other looks at 100,000 env steps; "
        "python -m curl eval seed_1 --shift all does that"
    )


def test_the_evaluation_may_be_an_agent_step_late(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "crop")
    evaluated(folder, {TRAINING: [1.0], "noise": [0.5]}, env_steps=100_004)
    assert compared(tmp_path).cells["crop", "cartpole_swingup", "noise"].ratio.value == 0.5


def test_two_looks_of_one_name_are_refused(tmp_path: Path) -> None:
    make_grid(tmp_path, {"crop": 0.5}, seeds=2)
    file = next(tmp_path.rglob("seed_2/shifts/*.json"))
    content = json.loads(file.read_text())
    content["looks"]["noise"]["shift"]["noise"]["severity"] = 5
    file.write_text(json.dumps(content))
    assert refused(tmp_path).startswith("noise is another look in seed_1 than in seed_2; ")


def test_returns_below_zero_have_no_ratio(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        folder = make_run(tmp_path, "crop", seed=seed)
        evaluated(folder, {TRAINING: [-100.0], "noise": [-200.0]})
    found = compared(tmp_path, out=tmp_path / "report")
    cell = found.cells["crop", "cartpole_swingup", "noise"]
    assert cell.score.value == -200 and np.isnan(cell.ratio).all()
    assert not any("keeps" in line for line in said(tmp_path))
    text = (tmp_path / "report" / "report.md").read_text()
    assert "| cartpole_swingup | noise | crop | -200 [-200, -200] | \N{EN DASH} |" in text


def test_report_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_grid(tmp_path / "runs", {"crop": 0.5, "shift|<b>": 0.9})
    out = tmp_path / "report"
    assert main([str(tmp_path / "runs"), "--out", str(out), "--shift", "all"]) == 0
    printed = capsys.readouterr().out
    assert "shift|<b> beats crop on cartpole_swingup under noise with 5 seeds." in printed
    assert "crop keeps 0.75" in printed
    for name in ("looks.csv", "look_runs.csv", "look_pairs.csv", "looks.png", "looks.svg"):
        assert (out / name).stat().st_size, name
    page, text = (out / "report.html").read_text(), (out / "report.md").read_text()
    assert "(looks.png)" in text and "<b>" not in page and str(tmp_path) not in page + text
    with (out / "looks.csv").open() as file:
        rows = {(r["variant"], r["look"]): r for r in csv.DictReader(file)}
    assert float(rows["crop", "noise"]["ratio_value"]) == pytest.approx(0.5)
    with (out / "look_runs.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2 * 4 * 5
    main([str(tmp_path / "runs"), "--out", str(tmp_path / "again"), "--shift", "all"])
    for file in sorted(out.iterdir()):
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes(), file.name


def test_without_the_option_nothing_changes(tmp_path: Path) -> None:
    make_grid(tmp_path / "runs", {"crop": 0.5, "shift": 0.9}, seeds=2)
    outs = []
    for looks in ((), ("all",)):
        out = tmp_path / f"report{len(looks)}"
        generator = np.random.default_rng(0)
        compare([tmp_path / "runs"], looks=looks, out=out, generator=generator)
        outs.append({file.name: file.read_bytes() for file in out.iterdir()})
    plain, more = outs
    assert not any("look" in name for name in plain)
    assert {name for name in plain if more[name] != plain[name]} == {"report.md", "report.html"}


def test_an_unknown_look_is_refused(tmp_path: Path) -> None:
    make_run(tmp_path, "crop")
    with pytest.raises(ValueError, match=r"^--shift must be one of .*did you mean 'noise'"):
        main([str(tmp_path), "--shift", "nois"])


def test_it_reads_what_eval_writes() -> None:
    assert evaluations.TRAINING == TRAINING
    assert not {TRAINING, TOGETHER} & set(known())
