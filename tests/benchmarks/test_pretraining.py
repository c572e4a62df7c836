"""The study of pretraining: its runs, their order and what they begin from; its page."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import encoder_probes, pretraining
from benchmarks.cells import ROOT, compose_all
from benchmarks.pretraining import OBJECTIVES, PRETRAIN, STAGES, TASK, stages
from benchmarks.pretraining_page import NONE, PAGE, page, read_groups, read_probes
from curl.data.writing import write
from curl.study.curves import Curve, read_curve, write_curve
from support import faulty  # noqa: F401  registers the environment
from support.datasets import episode, origin
from support.paths import TESTS

STAND_IN = (sys.executable, str(TESTS / "support/stand_in_run.py"))
RESULTS = ROOT / "results/pretraining"


def planned(runs: Path, **changes: Any) -> dict[str, list[pretraining.Stage]]:
    chosen: dict[str, Any] = {
        "wanted": tuple(STAGES),
        "objectives": OBJECTIVES,
        "encoders": ("finetune", "frozen"),
        "seeds": (1, 2),
    }
    return stages(**chosen | changes, runs=runs)


def test_every_run_composes_and_begins_from_its_own_seed(tmp_path: Path) -> None:
    for stage, cells in planned(tmp_path).items():
        variants = len(OBJECTIVES) - 1 if stage == PRETRAIN else 2 * len(OBJECTIVES)
        assert len(cells) == len(set(cells)) == 2 * variants
        for cell, config in compose_all(cells).items():
            assert (config["seed"], config["label"]) == (cell.seed, cell.variant)
            assert config["encoder"] == ("frozen" if "_frozen" in cell.variant else "finetune")
            objective = cell.objective if stage == PRETRAIN else "none"
            assert config["objective"]["name"] == objective
            begins = None
            if stage != PRETRAIN and cell.objective != "none":
                begins = f"{tmp_path}/{PRETRAIN}/{cell.objective}/{TASK}/seed_{cell.seed}"
            assert config["init_from"] == begins


def test_all_agents_of_the_study_have_one_trunk(tmp_path: Path) -> None:
    """Else nothing could be taken over."""
    trunks = set()
    for cells in planned(tmp_path).values():
        for config in compose_all(cells).values():
            agent = config["agent"]
            size = config["augmentation"]["query"]["size"]
            trunks.add((str(agent["strides"]), agent["filters"], size, config["frame_stack"]))
    assert len(trunks) == 1


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in (pretraining.REPLAY, pretraining.EXPERT):
        write(name, [episode(1, 4, 24, ends="truncated")] * 2, origin(24))


def arguments(folder: Path, *more: str) -> list[str]:
    folders = ["--results", str(folder / "results"), "--runs", str(folder / "runs")]
    return [*folders, "--seeds", "1", "--encoders", "finetune", "--nice", "0", *more]


@pytest.mark.usefixtures("recorded")
def test_the_stages_run_one_after_another_and_nothing_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = arguments(tmp_path, "--objectives", "none,inverse", "--jobs", "2")
    assert pretraining.main(command, STAND_IN) == 0
    groups = read_groups(tmp_path / "results")
    wanted = {(PRETRAIN, "inverse")}
    wanted |= {(s, o) for s in STAGES if s != PRETRAIN for o in ("none", "inverse")}
    assert groups.keys() == wanted
    began = capsys.readouterr().out
    assert began.index(f"{PRETRAIN}/inverse/{TASK}/seed_1 is finished") < began.index("imitate/")
    axes = {stage: group.curves[0].axis for (stage, _), group in groups.items()}
    assert axes == {**dict.fromkeys(STAGES, "updates"), "online": "env_steps"}
    assert pretraining.main(command, STAND_IN) == 0
    assert "begins" not in capsys.readouterr().out
    facts = json.loads((tmp_path / "results/datasets.json").read_text())
    assert facts[pretraining.EXPERT]["episodes"] == 2
    text = page(groups, facts, {})
    assert "1.00" not in text and f"`{pretraining.EXPERT}`" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--objectives", "infonse"), "did you mean 'infonce'"),
        (("--stages", "imitate,imitate"), "each name once"),
        (("--seeds", "x"), "--seeds must be integers, got x"),
        (("--encoders", "scratch"), "--encoders must be one of finetune, frozen"),
        (("--jobs", "0"), "--jobs must be an integer >= 1"),
    ],
)
def test_a_bad_command_line_is_one_line(
    change: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pretraining.main(arguments(tmp_path, *change), STAND_IN) == 2
    told = capsys.readouterr().err.strip()
    assert message in told and "\n" not in told


# -- the page --------------------------------------------------------------------------------------


def make_curve(results: Path, stage: str, variant: str, seed: int, score: float) -> Path:
    axis = "env_steps" if stage == "online" else "updates"
    steps = np.array([0, 1000, 2000])
    config = {
        "seed": seed,
        "agent": {"label": "bc_small"},
        "dataset": None if stage == "online" else pretraining.REPLAY,
        "dataset_episodes": 5 if stage == "imitate" else None,
        "batch_size": 64,
    }
    header = {"preset": stage, "variant": variant, "task": TASK, "seed": seed, "commits": ["abc"]}
    header |= {"settings_hash": "abc", "used": {"axis": axis, "machine": {}}, "config": config}
    returns = score * steps[:, None] / steps[-1] + np.linspace(-5, 5, 10)
    path = results / stage / variant / TASK / f"seed_{seed}.jsonl"
    write_curve(path, Curve(header, steps, returns, steps * 0.06))
    return path


FACTS = {
    name: {"episodes": 3, "transitions": 375, "returns": [10.0, 20.0, 30.0], "env_steps": 100_000}
    for name in (pretraining.REPLAY, pretraining.EXPERT)
}


def test_the_page_says_what_the_curves_say(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        make_curve(tmp_path, PRETRAIN, "inverse", seed, 50 + seed)
        make_curve(tmp_path, "imitate", "none", seed, 100 * seed)
        make_curve(tmp_path, "imitate", "inverse", seed, 400 + seed)
        make_curve(tmp_path, "imitate", "vpn", seed, 10 * seed)
        make_curve(tmp_path, "online", "none_frozen", seed, 200)
    probes = {
        "none": {"1": {"state_r2": 0.2}},
        "vpn": {"1": {"state_r2": 0.4}, "2": {"state_r2": 0.6}},
    }
    text = page(read_groups(tmp_path), FACTS, probes)
    assert "| `none` | 0.20 |" in text and "| `vpn` | 0.50 ± 0.14 |" in text
    assert f"| `none` | 200 ± 100 [100, 300] (3 seeds) | {NONE} | {NONE} |" in text
    assert f"| `inverse` | 402 ± 1 [401, 403] (3 seeds) | {NONE} | {NONE} |" in text
    assert f"| `none` | {NONE} | {NONE} | 200 ± 0 [200, 200] (3 seeds) |" in text
    assert "| `inverse` | 52 ± 1 [51, 53] (3 seeds) |" in text
    assert "- imitation: `inverse` +202 beside `none`, P = 1.00" in text
    assert "- imitation: `vpn` -180 beside `none`, P = 0.00" in text
    assert (
        "- imitation, encoder trained on: every seed above every seed of `none`: `inverse`; "
        "every seed below: `vpn`." in text
    )
    make_curve(tmp_path, "offline_rl", "none", 1, 100)
    make_curve(tmp_path, "offline_rl", "inverse", 1, 200)
    text = page(read_groups(tmp_path), FACTS, probes)
    assert "`inverse` +100 beside `none`" in text and "(1 seed)" in text
    assert "- offline RL, encoder trained on" not in text  # one seed is not every seed
    assert "imitation: agent `bc_small`, 2,000 updates of batch size 64" in text
    assert "5 episodes; 9 runs, 2 min each (median)" in text
    assert "20 ± 10, 10 to 30" in text


def test_curves_in_the_wrong_place_are_refused(tmp_path: Path) -> None:
    path = make_curve(tmp_path, "imitate", "none", 1, 100)
    path.rename(path.with_name("seed_2.jsonl"))
    with pytest.raises(ValueError, match=r"holds the curve of imitate/none"):
        read_groups(tmp_path)
    other = read_curve(path.with_name("seed_2.jsonl"))
    changed = Curve(
        {**other.header, "seed": 2, "config": {**other.config, "batch_size": 3}},
        *(other.steps, other.returns, other.wall_seconds),
    )
    write_curve(path, other)
    write_curve(path.with_name("seed_2.jsonl"), changed)
    with pytest.raises(ValueError, match="of another experiment than its neighbour: batch_size"):
        read_groups(tmp_path)


@pytest.mark.skipif(not RESULTS.exists(), reason="no run of the study is finished yet")
def test_the_page_of_the_repository_is_that_of_its_curves() -> None:
    facts = json.loads((RESULTS / "datasets.json").read_text())
    assert PAGE.read_text() == page(read_groups(RESULTS), facts, read_probes(RESULTS)), (
        "run `python -m benchmarks.pretraining --page`"
    )


def test_encoders_are_probed_where_they_are_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a dataset of grey frames; the environment of the study does not come into it."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    episodes = [episode(number, 9, 44, ends="truncated") for number in range(8)]
    write(pretraining.REPLAY, episodes, origin(44))
    sound = {"env_id": "Sound-v0", "action_repeat": 1, "render_size": 44}
    monkeypatch.setattr("curl.data.environment.environment_settings", lambda *_: sound)
    monkeypatch.setattr("curl.run.probes.state_of", lambda env: None)
    command = ["--seeds", "1", "--results", str(tmp_path), "--runs", str(tmp_path / "runs")]
    assert encoder_probes.main(command) == 0
    found = read_probes(tmp_path)
    assert found.keys() == {"none"}  # nothing else is finished
    assert found["none"]["1"].keys() == {"reward_r2", "return_to_go_r2"}
