"""Compositions of augmentations, and what every augmentation refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from curl import augmentations
from curl.data.batch import FrameStacks

EDGE, DEPTH = 24, 2


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stacks_of(count: int) -> FrameStacks:
    """`count` times one stack of random frames."""
    frames = torch.randint(256, (DEPTH, EDGE, EDGE, 3), generator=generator(1)).byte()
    return FrameStacks(frames, torch.arange(DEPTH).expand(count, -1))


# -- composition -----------------------------------------------------------------------------------


def test_compose_is_one_after_another() -> None:
    stacks, source = stacks_of(5), generator(4)
    steps = [{"name": "crop", "size": 20}, {"name": "flip"}, {"name": "gaussian", "sigma": 0.2}]
    composed = augmentations.make("compose", steps=steps)
    assert composed.size == 20
    view = augmentations.make("crop", size=20)(stacks, source)
    for name, settings in (("flip", {}), ("gaussian", {"sigma": 0.2})):
        one: Any = augmentations.make(name, **settings)
        view = one.transform(view, source)
    assert torch.equal(composed(stacks, generator(4)), view)
    assert torch.equal(composed.evaluate(stacks), stacks.centre(20))


def test_compose_shares_what_its_first_step_shares() -> None:
    """Both observations lie at one place of the canvas; the noise on them is drawn twice."""
    obs = stacks_of(40)
    steps: list[dict[str, Any]] = [{"name": "translate", "size": EDGE + 6}]
    view, next_view = augmentations.make("compose", steps=steps).pair(obs, obs, generator())
    assert torch.equal(view, next_view)
    steps.append({"name": "gaussian"})
    view, next_view = augmentations.make("compose", steps=steps).pair(obs, obs, generator())
    assert ((view.float() - next_view.float()).flatten(1).abs().amax(1) > 0).all()
    # the black around the frames is noise around 0, half of it clamped: much less than the frames
    frames = [one.float().mean(1) > 0.2 for one in (view, next_view)]
    assert (frames[0] == frames[1]).float().mean() > 0.9


def test_every_transform_may_follow_a_crop_and_noise() -> None:
    names = ("none", "shift", "cutout", "cutout_color", "flip", "rotate", "grayscale")
    names += ("color_jitter", "random_conv", "gaussian")
    steps = [{"name": "crop", "size": 22}, {"name": "gaussian"}]
    for name in names:
        small = {"max_edge": 12} if "cutout" in name else {}
        made = augmentations.make("compose", steps=[*steps, {"name": name, **small}])
        view = made(stacks_of(4), generator())
        assert view.shape == (4, 3 * DEPTH, 22, 22) and view.dtype == torch.bfloat16
        assert view.min() >= 0 and view.max() <= 1
        assert view.permute(0, 2, 3, 1).is_contiguous()


CROP = {"name": "crop", "size": 20}


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([], "list of augmentations"),
        ("crop", "augmentation.steps must be a list"),
        (None, "augmentation.steps must be a list"),
        ({"name": "crop"}, "augmentation.steps must be a list"),
        (["crop"], "augmentation.steps must be a list, each a group of settings"),
        ([{"size": 84}], "mapping with a name"),
        ([CROP, CROP], "'crop' reads a window of its own"),
        ([CROP, {"name": "translate"}], "'translate' reads a window of its own"),
        ([CROP, {"name": "compose", "steps": [CROP]}], "'compose' reads a window of its own"),
        ([CROP, {"name": "flip", "size": 21}], "sizes 20 and 21"),
        ([CROP, {"name": "flop"}], "did you mean 'flip'"),
        (
            [CROP, {"name": "flip", "sigma": 1}],
            r"unknown key 'augmentation.steps\[1\].sigma'",
        ),
        ([CROP, {"name": "cutout"}], "does not fit a view of 20"),
    ],
)
def test_impossible_compositions_are_refused(steps: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        augmentations.make("compose", steps=steps)


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("none", {"size": 0}),
        ("none", {"size": 84.0}),
        ("shift", {"pad": 0}),
        ("shift", {"pad": 1.5}),
        ("translate", {"size": "108"}),
        ("gaussian", {"sigma": 0}),
        ("gaussian", {"sigma": -0.1}),
        ("gaussian", {"sigma": float("nan")}),
        ("gaussian", {"sigma": True}),
        ("cutout", {"min_edge": 0}),
        ("cutout", {"max_edge": 12, "min_edge": 13}),
        ("cutout", {"max_edge": 85}),
        ("cutout_color", {"max_edge": 9}),
        ("flip", {"probability": 1.1}),
        ("flip", {"probability": None}),
        ("rotate", {"size": -84}),
        ("rotate", {"probability": 1.1}),
        ("cutout", {"probability": -0.1}),
        ("cutout_color", {"probability": "0.5"}),
        ("color_jitter", {"probability": 2}),
        ("random_conv", {"probability": True}),
        ("grayscale", {"probability": -0.1}),
        ("color_jitter", {"brightness": 1.1}),
        ("color_jitter", {"contrast": -0.1}),
        ("color_jitter", {"saturation": "0.4"}),
        ("color_jitter", {"hue": 0.6}),
        ("random_conv", {"size": False}),
    ],
)
def test_impossible_values_are_refused(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        augmentations.make(name, **settings)


def test_frames_that_do_not_fit_are_refused() -> None:
    small = augmentations.make("translate", size=EDGE - 1)
    with pytest.raises(ValueError, match="do not fit a canvas"):
        small(stacks_of(1), generator())
    with pytest.raises(ValueError, match="do not fit a canvas"):
        small.evaluate(stacks_of(1))
    with pytest.raises(ValueError, match="does not fit frames"):
        augmentations.make("flip", size=EDGE + 1)(stacks_of(1), generator())
