"""The page of results is made of the curve files, says what they say, and is up to date."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.cells import ROOT
from benchmarks.results_page import (
    DIGEST,
    NONE,
    PAGE,
    PRESETS,
    digest,
    page,
    read_groups,
    write_page,
)
from curl.study.curves import Curve, write_curve
from curl.study.published import AT_100K, CURL

RESULTS = ROOT / "results/dmc"
STALE = "run `python -m benchmarks.dmc --page` and commit what it wrote"


def make_curve(
    results: Path,
    score: float,
    *,
    preset: str = "small",
    variant: str = "curl",
    task: str = "cartpole_swingup",
    seed: int = 1,
    end: int = 100_000,
    **changes: Any,
) -> Path:
    """A curve that rises to `score`; one evaluation has a spread of 10 episodes around it."""
    steps = np.arange(0, end + 1, 10_000)
    returns = score * steps[:, None] / end + np.linspace(-5, 5, 10)
    config = {"task": {"name": task, "action_repeat": 8}, "env_steps": 100_000, "batch_size": 128}
    header = {"preset": preset, "variant": variant, "task": task, "seed": seed, "commits": ["abc"]}
    machine = {"processor": "Some CPU", "threads": 1}
    header |= {"settings_hash": "abc", "used": {"machine": machine, "device": "cpu"}}
    header |= {"config": config | {"seed": seed} | changes}
    path = results / preset / variant / task / f"seed_{seed}.jsonl"
    curve = Curve(header=header, steps=steps, returns=returns, wall_seconds=steps * 0.024)
    write_curve(path, curve)
    return path


def rows(text: str, first: str) -> list[list[str]]:
    """The cells of all table rows of a page that begin with this cell."""
    found = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines()]
    return [cells for cells in found if cells[0] == first and len(cells) > 1]


def png_texts(data: bytes) -> dict[str, str]:
    """The text chunks of a PNG file."""
    found, at = {}, 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        if data[at + 4 : at + 8] == b"tEXt":
            key, _, value = data[at + 8 : at + 8 + length].partition(b"\0")
            found[key.decode()] = value.decode()
        at += 12 + length
    return found


def test_the_page_of_the_repository_is_that_of_its_curves() -> None:
    presets = read_groups(RESULTS)
    assert PAGE.read_text() == page(presets), STALE
    for preset, groups in presets.items():
        image = PAGE.with_suffix("") / f"{preset}.png"
        assert image.exists() == bool(groups), STALE
        if groups:
            assert png_texts(image.read_bytes())[DIGEST] == digest(groups), STALE


def test_a_page_says_what_the_curves_say(tmp_path: Path) -> None:
    for seed, score in enumerate((500, 600, 700, 800, 900), start=1):
        make_curve(tmp_path, score, seed=seed)
        make_curve(tmp_path, score - 450, seed=seed, variant="crop_only")
    make_curve(tmp_path, 321, task="reacher_easy")
    text = page(read_groups(tmp_path))
    published, small, details, control = rows(text, "cartpole_swingup")
    assert published[1] == "582 ± 146"
    assert small[1:5] == ["700 ± 158 (5 seeds)", "250 ± 158 (5 seeds)", NONE, "582 ± 146"]
    assert details[1:4] == ["`curl`", "1, 2, 3, 4, 5", "700 ± 158"]
    assert re.fullmatch(r"700 \[5\d\d, 8\d\d\]", details[4])
    assert details[5:] == ["40 min", "Some CPU, 1 thread"]
    assert control[1:4] == ["`crop_only`", "1, 2, 3, 4, 5", "250 ± 158"]
    assert "`curl` scores higher than `crop_only`: P = 1.00" in text
    (reacher,) = (cells for cells in rows(text, "reacher_easy") if cells[1].startswith("321"))
    assert reacher[1:4] == ["321 (1 seed)", NONE, NONE]
    assert "Its sizes: batch size: 128; updates: 1 per agent step." in text
    assert text.count("No run of this preset is finished yet") == len(PRESETS) - 1
    assert text.count("**Not the paper's agent**") == 1


@pytest.mark.parametrize(
    ("score", "place"),
    [(435, "is more than one"), (437, "is within"), (727, "is within"), (729, "is more than one")],
)
def test_a_page_places_us_beside_the_published_score(
    tmp_path: Path, score: float, place: str
) -> None:
    """CURL has 582 ± 146 on cartpole swing-up."""
    make_curve(tmp_path, score)
    make_curve(tmp_path, 900, variant="crop_only")
    lines = [line for line in page(read_groups(tmp_path)).splitlines() if "582 ± 146." in line]
    assert len(lines) == 1 and f"the mean of `curl`, {score}, {place}" in lines[0]
    if "more" in place:
        assert ("below" in lines[0], "above" in lines[0]) == (score < 582, score > 582)


def test_two_curves_alike_cannot_be_told_apart(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        make_curve(tmp_path, 500 + seed, seed=seed)
        make_curve(tmp_path, 500 - seed, seed=seed, variant="gaussian")
    text = page(read_groups(tmp_path))
    assert "`curl` and `gaussian` cannot be told apart: P = 1.00" in text


def test_an_empty_table_is_a_page(tmp_path: Path) -> None:
    text = page(read_groups(tmp_path / "nothing"))
    assert text.count("No run of this preset is finished yet") == len(PRESETS)
    assert "582 ± 146" in text


def test_figures_lie_beside_the_page_and_go_with_their_curves(tmp_path: Path) -> None:
    results, path = tmp_path / "curves", tmp_path / "docs/results.md"
    curve = make_curve(results, 500)
    written = write_page(results, path)
    assert written == [path, tmp_path / "docs/results/small.png"]
    assert "](results/small.png)" in path.read_text()
    (groups,) = (groups for groups in read_groups(results).values() if groups)
    assert png_texts(written[1].read_bytes())[DIGEST] == digest(groups)
    curve.unlink()
    assert write_page(results, path) == [path]
    assert not written[1].exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"seed": 2, "batch_size": 64}, "seed_2.jsonl is of another experiment than seed 1"),
        ({"seed": 2, "end": 50_000}, "ends at 50,000 of 100,000 env steps"),
    ],
)
def test_curves_that_do_not_belong_together_are_refused(
    tmp_path: Path, arguments: dict[str, Any], said: str
) -> None:
    make_curve(tmp_path, 500)
    make_curve(tmp_path, 500, **arguments)
    with pytest.raises(ValueError, match=said):
        read_groups(tmp_path)


def test_a_curve_in_the_wrong_place_is_refused(tmp_path: Path) -> None:
    path = make_curve(tmp_path, 500)
    path.rename(path.with_name("seed_2.jsonl"))
    with pytest.raises(ValueError, match=r"seed_2.jsonl holds the curve of .*seed_1.jsonl"):
        read_groups(tmp_path)


def test_published_scores_are_those_of_six_tasks_each() -> None:
    for scores in (*AT_100K.values(), CURL[500_000]):
        assert scores.keys() == CURL[100_000].keys()
    means = {n: round(np.mean([m for m, _ in s.values()])) for n, s in AT_100K.items()}
    # The means that go with the published tables.
    assert means == {"CURL": 560, "pixel SAC": 216, "DrQ": 688, "MLR": 773, "Simoun": 832}
