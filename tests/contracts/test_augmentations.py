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
from torch.utils._python_dispatch import TorchDispatchMode

from curl import augmentations
from curl.augmentations.base import Augmentation, PixelAugmentation, scaled
from curl.augmentations.crop import Crop
from curl.data.batch import FrameStacks
from support.paths import CONFIGS

FILES = sorted((CONFIGS / "augmentation").glob("*.yaml"))
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
    expected = stacks.frames[stacks.indices].permute(0, 1, 4, 2, 3).flatten(1, 2)
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
    with pytest.raises(ValueError, match=r"did you mean augmentation\.size"):
        augmentations.make("crop", sizes=84)


# -- the contract of every configured augmentation -------------------------------------------------

# what takes a number off the device, or makes a shape depend on what was drawn: a GPU would stall
STALLS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal")


class NoStalls(TorchDispatchMode):
    """Refuses operators that a GPU has to be waited for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func.overloadpacket.__name__ not in STALLS, func
        return func(*args, **(kwargs or {}))


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def config(request: pytest.FixtureRequest) -> Any:
    config = OmegaConf.load(request.param)
    OmegaConf.resolve(config)
    return config


@pytest.fixture(params=["query", "key"])
def side(config: Any, request: pytest.FixtureRequest) -> Any:
    return OmegaConf.to_container(config[request.param])


@pytest.fixture
def augmentation(side: Any) -> Augmentation:
    return augmentations.make(**side)


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


def test_evaluation_reads_plain_pixels(augmentation: Augmentation) -> None:
    assert augmentation.evaluate(random_stacks()).dtype == torch.uint8


def test_identical_frames_of_a_stack_stay_identical(augmentation: Augmentation, side: Any) -> None:
    """One transform for a stack. Noise is no transform: it is drawn for every frame."""
    noisy = "gaussian" in str(side)
    stacks = FrameStacks(random_stacks().frames, torch.tensor([[2, 2, 2], [4, 4, 4]]))
    for view, same in zip(views(augmentation, stacks), (not noisy, True), strict=True):
        assert torch.equal(view[:, :3], view[:, 3:6]) is same
        assert torch.equal(view[:, :3], view[:, 6:]) is same


def test_samples_are_drawn_independently(augmentation: Augmentation, side: Any) -> None:
    """The same stack, often: a batch's one draw would show it one way only."""
    stacks = FrameStacks(random_stacks().frames, torch.tensor([[0, 1, 2]]).expand(40, -1))
    view = augmentation(stacks, generator())
    differing = (view != view[:1]).flatten(1).any(1)
    assert differing.any() == (side["name"] != "none")


def test_a_sample_does_not_depend_on_the_others(augmentation: Augmentation) -> None:
    stacks = random_stacks()
    rows = stacks.indices.clone()
    rows[2] = (rows[2] + 1) % FRAMES
    before = augmentation(stacks, generator())
    after = augmentation(FrameStacks(stacks.frames, rows), generator())
    changed = (before != after).flatten(1).any(1)
    assert changed.nonzero().flatten().tolist() == [2]


def test_views_come_from_the_generator_alone(augmentation: Augmentation) -> None:
    stacks, before = random_stacks(), torch.get_rng_state()
    first = augmentation(stacks, generator(3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert torch.equal(augmentation(stacks, generator(3)), first)


def test_the_generator_goes_on(augmentation: Augmentation, side: Any) -> None:
    """A second call draws anew."""
    stacks, source = random_stacks(40), generator(3)
    first, second = augmentation(stacks, source), augmentation(stacks, source)
    assert torch.equal(first, second) is (side["name"] == "none")


def test_views_of_a_transition_are_drawn_one_after_the_other(
    augmentation: Augmentation, side: Any
) -> None:
    """Independently, as in the reference and in RAD, but for `translate`, which shares a place."""
    if side["name"] == "compose":
        return  # has a test of its own
    obs = random_stacks(40)
    next_obs, source = FrameStacks(obs.frames, (obs.indices + 1) % FRAMES), generator(3)
    expected = augmentation(obs, source), augmentation(next_obs, source)
    view, next_view = augmentation.pair(obs, next_obs, generator(3))
    assert torch.equal(view, expected[0])
    assert torch.equal(next_view, expected[1]) is (side["name"] != "translate")


NEAR = 16 / 255  # of the pixel range
DRAWS = 5000  # a place among 289 is missed by all of them once in 10^7 seeds


def nearest_to_evaluation(augmentation: Augmentation, draws: int) -> float:
    """How near the nearest of some random views is to the evaluation view, in its worst pixel.

    The frames are of muted colours, so that a jitter is seldom far away; black, turned, grey or
    noisy views are. It draws no further once it has found one that is near.
    """
    frames = torch.randint(100, 157, (1, 100, 100, 3), generator=generator()).byte()
    stacks = FrameStacks(frames, torch.zeros(100, 1, dtype=torch.int64))
    wanted, source = scaled(augmentation.evaluate(stacks[:1])).float(), generator()
    nearest = 1.0
    for _ in range(draws // len(stacks)):
        apart = scaled(augmentation(stacks, source)).float().sub_(wanted).abs_()
        nearest = min(nearest, float(apart.flatten(1).amax(1).min()))
        if nearest <= NEAR:
            break
    return nearest


def test_sac_learns_from_views_like_those_it_acts_on(config: Any) -> None:
    """One of the query's random views is the evaluation view.

    Crops and translations reach the middle; the others must leave some views clean, or nearly so:
    SAC acts on the evaluation view, and would otherwise never have seen its like.
    """
    query = augmentations.make(**OmegaConf.to_container(config["query"]))
    assert nearest_to_evaluation(query, DRAWS) <= NEAR


@pytest.mark.parametrize("name", ["random_conv", "rotate", "flip", "cutout", "grayscale"])
def test_an_augmentation_that_leaves_no_view_clean_is_found_out(name: str) -> None:
    always = augmentations.make(name, probability=1.0)
    assert nearest_to_evaluation(always, 200) > 2 * NEAR


def test_evaluation_is_deterministic(augmentation: Augmentation) -> None:
    stacks, before = random_stacks(), torch.get_rng_state()
    assert torch.equal(augmentation.evaluate(stacks), augmentation.evaluate(stacks))
    assert torch.equal(torch.get_rng_state(), before)


def test_no_view_makes_a_gpu_wait(augmentation: Augmentation) -> None:
    stacks, source = random_stacks(), generator()
    with NoStalls():
        augmentation(stacks, source)
        augmentation.evaluate(stacks)


def test_stored_frames_stay_as_they_are(augmentation: Augmentation) -> None:
    stacks = random_stacks()
    before = stacks.frames.clone()
    for view in views(augmentation, stacks):
        view.zero_()
    assert torch.equal(stacks.frames, before)


def test_one_frame_is_a_stack_too(augmentation: Augmentation) -> None:
    stacks = FrameStacks(random_stacks().frames, torch.tensor([[3]]))
    for view in views(augmentation, stacks):
        assert view.shape == (1, 3, augmentation.size, augmentation.size)


def test_a_transform_treats_floats_as_levels(augmentation: Augmentation) -> None:
    """In a composition a transform may follow one that left bfloat16."""
    if not isinstance(augmentation, PixelAugmentation):
        return
    view = random_stacks().centre(augmentation.size)
    floats = augmentation.transform(scaled(view), generator())
    levels = augmentation.transform(view, generator())
    assert floats.dtype == torch.bfloat16
    assert floats.permute(0, 2, 3, 1).is_contiguous()
    # rounding to bfloat16 before instead of after: wide for what amplifies it, as convolutions do
    torch.testing.assert_close(floats, scaled(levels), atol=0.06, rtol=0)


def test_query_and_key_views_have_one_size(config: Any) -> None:
    """Query and key encoder have the same layers, so they take the same images."""
    plain: Any = OmegaConf.to_container(config)
    query, key = (augmentations.make(**plain[part]) for part in ("query", "key"))
    assert query.size == key.size


def test_defaults_in_code_do_not_disagree(side: Any) -> None:
    small = side.get("size") == 44  # shift_small: the sizes of the small preset
    if side["name"] != "compose" and "last_offset" not in side and not small:
        configured, default = augmentations.make(**side), augmentations.make(side["name"])
        knobs = [name for name in vars(configured) if not name.startswith("_")]
        assert {name: getattr(default, name) for name in knobs} == {
            name: getattr(configured, name) for name in knobs
        }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_knob_has_a_comment(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ")
    for line in lines:
        knob = line.strip().removeprefix("- ")
        if ": " in knob and not knob.startswith(("#", "name:", "label:")):
            assert " # " in knob, line


def test_every_file_is_configured() -> None:
    """Found by their files, shown by their YAMLs."""
    folder = Path(augmentations.__file__).parent
    files = {path.stem for path in folder.glob("*.py")} - {"__init__", "base", "compose"}
    assert files <= {path.stem for path in FILES}
