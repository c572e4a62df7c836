"""The contact sheet: every configured augmentation, query and key, on one observation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from curl.command import views
from curl.data.batch import FrameStacks, stack_of
from curl.errors import exits_with_one_line
from support.paths import CONFIGS

NAMES = {path.stem for path in CONFIGS.glob("augmentation/*.yaml")}


def observation() -> FrameStacks:
    generator = torch.Generator().manual_seed(0)
    return stack_of(torch.randint(256, (3, 100, 100, 3), generator=generator).byte())


def test_the_sheet_shows_every_configuration() -> None:
    rows = views.rows(observation(), views=2, seed=0)
    assert {row.label for row in rows} == NAMES
    for row in rows:
        for picture in (row.evaluation, *row.query, *row.key):
            assert picture.dtype == np.uint8 and picture.shape == (*picture.shape[:1] * 2, 3)
        config = OmegaConf.load(CONFIGS / "augmentation" / f"{row.label}.yaml")
        assert row.evaluation.shape[0] == config["query"]["size"]
    clean = next(row for row in rows if row.label == "none")
    assert all(np.array_equal(picture, clean.evaluation) for picture in clean.query + clean.key)


def test_a_picture_is_the_newest_frame() -> None:
    stack = observation().whole()[0]
    levels = views.picture(stack).astype(int)
    newest = stack[-3:].permute(1, 2, 0).numpy()
    assert np.abs(levels - newest).max() <= 255 / (views.LEVELS - 1) / 2 + 1
    assert np.array_equal(views.picture(stack.float() / 255), levels)


def test_the_command_writes_a_png(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "observe", lambda task, seed, opengl="auto": observation())
    file = tmp_path / "views.png"
    assert views.main(["--task", "walker_walk", "--out", str(file), "--views", "1"]) == 0
    with Image.open(file) as image:
        assert image.format == "PNG"
        assert image.height > 80 * len(NAMES)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--task", "walker_wlak"], "did you mean 'walker_walk'"),
        (["--views", "0"], "views must be an integer >= 1"),
        (["--seed", "-1"], "seed must be an integer >= 0"),
        (["--out", "file/views.png"], "file"),
    ],
)
def test_refusals_are_one_line(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(views, "observe", lambda task, seed, opengl="auto": observation())
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    assert exits_with_one_line(views.main, arguments) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_real_task_is_observed() -> None:
    """Pendulum needs no OpenGL."""
    pytest.importorskip("pygame")
    stacks = views.observe(views.task_settings("pendulum"), seed=0, steps=3)
    assert stacks.frames.shape == (3, 100, 100, 3) and stacks.frames.float().std() > 0
    assert not torch.equal(stacks.frames[0], stacks.frames[1])
