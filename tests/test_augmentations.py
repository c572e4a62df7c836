"""Augmentations: what a crop reads, on frames whose pixels name their place; all their contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor

from curl import augmentations
from curl.augmentations.base import Augmentation
from curl.augmentations.crop import Crop
from curl.batch import FrameStacks

CONFIGS = sorted((Path(__file__).parents[1] / "configs" / "augmentation").glob("*.yaml"))
FRAMES, DEPTH = 5, 3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def placed_frames(height: int, width: int) -> Tensor:
    """uint8 [FRAMES, height, width, 3]: a pixel's RGB are its row, its column and its frame."""
    frames = torch.empty(FRAMES, height, width, 3, dtype=torch.uint8)
    frames[..., 0] = torch.arange(height, dtype=torch.uint8)[:, None]
    frames[..., 1] = torch.arange(width, dtype=torch.uint8)
    frames[..., 2] = torch.arange(FRAMES, dtype=torch.uint8)[:, None, None]
    return frames


def placed_stacks(count: int, height: int = 100, width: int = 100) -> FrameStacks:
    rows = torch.randint(FRAMES, (count, DEPTH), generator=generator(1))
    return FrameStacks(placed_frames(height, width), rows)


def corners(view: Tensor) -> Tensor:
    """Row and column of every frame's first pixel, [B, S, 2], of a view of placed stacks."""
    return view[:, :, 0, 0].view(len(view), DEPTH, 3)[:, :, :2].long()


# -- reading a window ------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_a_window_is_the_slice_of_every_frame(data: st.DataObject) -> None:
    """Random frames of any shape, any offsets, against plain slicing; channels-last in memory."""
    draw = data.draw
    height, width, count = draw(st.tuples(*map(st.integers, (1, 1, 1), (12, 12, 4))))
    size, depth = draw(st.integers(1, min(height, width))), draw(st.integers(1, 4))
    frames = torch.randint(256, (FRAMES, height, width, 3), generator=generator()).byte()
    rows = torch.randint(FRAMES, (count, depth), generator=generator())
    top, left = (
        torch.tensor(draw(st.lists(st.integers(0, edge - size), min_size=count, max_size=count)))
        for edge in (height, width)
    )
    view = FrameStacks(frames, rows).window(top, left, size)
    assert view.dtype == torch.uint8 and view.shape == (count, 3 * depth, size, size)
    assert view.permute(0, 2, 3, 1).is_contiguous()
    for b in range(count):
        y, x = int(top[b]), int(left[b])
        slices = [frames[row, y : y + size, x : x + size].permute(2, 0, 1) for row in rows[b]]
        assert torch.equal(view[b], torch.cat(slices))


def test_the_whole_of_a_stack() -> None:
    stacks = placed_stacks(2, 10, 10)
    expected = stacks.frames[stacks.rows].permute(0, 1, 4, 2, 3).flatten(1, 2)
    assert torch.equal(stacks.whole(), expected)
    with pytest.raises(ValueError, match="square"):
        placed_stacks(2, 10, 12).whole()


# -- the crop --------------------------------------------------------------------------------------


@pytest.mark.parametrize("last_offset", [True, False])
def test_crop_draws_every_offset(last_offset: bool) -> None:
    """84 of 100 pixels leave the offsets 0 to 16; the reference's bound stops at 15."""
    view = Crop(size=84, last_offset=last_offset)(placed_stacks(400), generator())
    expected = set(range(17 if last_offset else 16))
    for axis in (0, 1):
        assert set(corners(view)[:, 0, axis].tolist()) == expected


def test_crop_moves_all_frames_of_a_stack_alike() -> None:
    view = Crop(size=84)(placed_stacks(20), generator())
    assert (corners(view) == corners(view)[:, :1]).all()


def test_crop_draws_samples_and_axes_independently() -> None:
    """A batch's one offset gives 1 pair, both axes' one at most 17; 400 draws of 289 more."""
    view = Crop(size=84)(placed_stacks(400), generator())
    assert len(corners(view)[:, 0].unique(dim=0)) > 150


def test_crop_evaluates_on_the_centre() -> None:
    stacks = placed_stacks(2)
    expected = stacks.whole()[:, :, 8:92, 8:92]
    assert torch.equal(Crop(size=84).evaluate(stacks), expected)


@pytest.mark.parametrize("last_offset", [True, False])
def test_crop_of_the_frames_own_size_is_the_frame(last_offset: bool) -> None:
    stacks = placed_stacks(2, 10, 10)
    crop = Crop(size=10, last_offset=last_offset)
    assert torch.equal(crop(stacks, generator()), stacks.whole())


def test_a_crop_larger_than_the_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        Crop(size=11)(placed_stacks(2, 10, 10), generator())


def test_a_crop_larger_than_the_frame_is_refused_in_evaluation() -> None:
    with pytest.raises(ValueError, match="11"):
        Crop(size=11).evaluate(placed_stacks(2, 10, 10))


@pytest.mark.parametrize("size", [0, -1, 8.5])
def test_an_impossible_size_is_refused(size: Any) -> None:
    with pytest.raises(ValueError, match="size"):
        Crop(size=size)


def test_unknown_names_and_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="did you mean 'crop'"):
        augmentations.make("crap")
    with pytest.raises(ValueError, match="did you mean 'size'"):
        augmentations.make("crop", sizes=84)


# -- the contract of every configured augmentation -------------------------------------------------


@pytest.fixture(params=CONFIGS, ids=lambda path: path.stem)
def config(request: pytest.FixtureRequest) -> Any:
    return OmegaConf.load(request.param)


@pytest.fixture(params=["query", "key"])
def augmentation(config: Any, request: pytest.FixtureRequest) -> Augmentation:
    return augmentations.make(**config[request.param])


def random_stacks(count: int = 6) -> FrameStacks:
    frames = torch.randint(256, (FRAMES, 100, 100, 3), generator=generator()).byte()
    return FrameStacks(frames, torch.randint(FRAMES, (count, DEPTH), generator=generator(1)))


def views(augmentation: Augmentation, stacks: FrameStacks) -> list[Tensor]:
    return [augmentation(stacks, generator()), augmentation.evaluate(stacks)]


def test_views_are_channels_last_images_in_range(augmentation: Augmentation) -> None:
    for view in views(augmentation, random_stacks()):
        assert view.shape == (6, 3 * DEPTH, augmentation.size, augmentation.size)
        assert view.permute(0, 2, 3, 1).is_contiguous()
        assert view.dtype == torch.uint8 or view.is_floating_point()
        assert view.dtype == torch.uint8 or (view.min() >= 0 and view.max() <= 1)
        assert view.float().std() > 0.1


def test_identical_frames_of_a_stack_stay_identical(augmentation: Augmentation) -> None:
    frames = random_stacks().frames
    for view in views(augmentation, FrameStacks(frames, torch.tensor([[2, 2, 2], [4, 4, 4]]))):
        assert torch.equal(view[:, :3], view[:, 3:6]) and torch.equal(view[:, :3], view[:, 6:])


def test_views_come_from_the_generator_alone(augmentation: Augmentation) -> None:
    stacks, before = random_stacks(), torch.get_rng_state()
    first = augmentation(stacks, generator(3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert torch.equal(augmentation(stacks, generator(3)), first)


def test_evaluation_is_deterministic(augmentation: Augmentation) -> None:
    stacks, before = random_stacks(), torch.get_rng_state()
    assert torch.equal(augmentation.evaluate(stacks), augmentation.evaluate(stacks))
    assert torch.equal(torch.get_rng_state(), before)


def test_stored_frames_stay_as_they_are(augmentation: Augmentation) -> None:
    stacks = random_stacks()
    before = stacks.frames.clone()
    for view in views(augmentation, stacks):
        view.zero_()
    assert torch.equal(stacks.frames, before)


def test_query_and_key_views_have_one_size(config: Any) -> None:
    """Query and key encoder have the same layers, so they take the same images."""
    query, key = (augmentations.make(**config[part]) for part in ("query", "key"))
    assert query.size == key.size
