"""What each augmentation draws, and does to pixels: against NumPy, SciPy, Pillow and colorsys."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage, stats
from torch import Tensor

from curl import augmentations
from curl.augmentations.color_jitter import jitter
from curl.augmentations.gaussian import normal_quantiles, random_words
from curl.augmentations.random_conv import convolved
from curl.data.batch import FrameStacks

EDGE, DEPTH = 24, 2
RARE = 1e-4  # a correct distribution fails its test with this probability, were the seed drawn


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stacks_of(count: int, edge: int = EDGE) -> FrameStacks:
    """`count` times one stack of random frames."""
    frames = torch.randint(256, (DEPTH, edge, edge, 3), generator=generator(1)).byte()
    return FrameStacks(frames, torch.arange(DEPTH).expand(count, -1))


def drawn(name: str, count: int, **settings: Any) -> tuple[np.ndarray, np.ndarray]:
    """Views [count, edge, edge, C] of one stack, and its clean pixels [edge, edge, C]."""
    stacks = stacks_of(count)
    view = augmentations.make(name, size=EDGE, **settings)(stacks, generator())
    clean = stacks.whole()[0].permute(1, 2, 0).numpy()
    view = view.permute(0, 2, 3, 1)
    return (view if view.dtype == torch.uint8 else view.float()).numpy(), clean


def which(views: np.ndarray, candidates: list[np.ndarray]) -> np.ndarray:
    """The number of the candidate that each view equals; every view must equal one."""
    match = np.stack([(views == candidate).all((1, 2, 3)) for candidate in candidates])
    assert (match.sum(0) == 1).all()
    return match.argmax(0)


def assert_uniform(values: np.ndarray, low: int, high: int) -> None:
    """Whole numbers that reach every value from `low` to `high`, equally often."""
    counts = np.bincount(values - low, minlength=high - low + 1)
    assert values.min() == low and values.max() == high and (counts > 0).all()
    assert stats.chisquare(counts).pvalue > RARE


def assert_share(hits: np.ndarray, probability: float) -> None:
    assert stats.binomtest(int(hits.sum()), len(hits), probability).pvalue > RARE


# -- how often -------------------------------------------------------------------------------------

# the share of views that RAD's code transforms, or, for the last three, what replaces its 1.0
SHARES = {"flip": 0.2, "rotate": 0.3, "grayscale": 0.3, "color_jitter": 1.0}
SHARES |= {"random_conv": 0.9, "cutout": 0.5, "cutout_color": 0.5}


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("name", SHARES)
def test_a_share_of_the_views_is_transformed_and_the_rest_is_clean(name: str, given: bool) -> None:
    probability = 0.35 if given else SHARES[name]
    settings: dict[str, Any] = {"probability": probability} if given else {}
    if "cutout" in name:
        settings |= {"max_edge": 12}
    views, clean = drawn(name, 1500, **settings)
    levels = views.dtype == np.uint8
    difference = np.abs(views.astype(float) / (255 if levels else 1) - clean / 255)
    transformed = difference.max((1, 2, 3)) > 1 / 256  # half a step of bfloat16 below 1 is less
    assert_share(transformed, probability)
    assert transformed.all() == (probability == 1)


@pytest.mark.parametrize("name", SHARES)
def test_neighbours_are_transformed_independently(name: str) -> None:
    small = {"max_edge": 12} if "cutout" in name else {}
    views, clean = drawn(name, 1500, probability=0.5, **small)
    scale = 255 if views.dtype == np.uint8 else 1
    transformed = np.abs(views.astype(float) / scale - clean / 255).max((1, 2, 3)) > 1 / 256
    assert_share(transformed[1:] == transformed[:-1], 0.5)


# -- places ----------------------------------------------------------------------------------------


def test_none_is_the_central_window() -> None:
    stacks = stacks_of(2, edge=30)
    view = augmentations.make("none", size=20)(stacks, generator())
    assert torch.equal(view, stacks.whole()[:, :, 5:25, 5:25])


@pytest.mark.parametrize("pad", [1, 4])
def test_shift_is_a_window_of_the_padded_view(pad: int) -> None:
    views, clean = drawn("shift", 2000, pad=pad)
    padded = np.pad(clean, ((pad, pad), (pad, pad), (0, 0)), mode="edge")
    places = range(2 * pad + 1)
    windows = [padded[y : y + EDGE, x : x + EDGE] for y in places for x in places]
    assert_uniform(which(views, windows), 0, len(windows) - 1)


def test_translate_puts_the_frame_anywhere_on_black() -> None:
    stacks = stacks_of(2000, edge=16)
    view = augmentations.make("translate", size=20)(stacks, generator())
    frame = stacks.whole()[0].permute(1, 2, 0).numpy()
    places = [np.pad(frame, ((y, 4 - y), (x, 4 - x), (0, 0))) for y in range(5) for x in range(5)]
    assert_uniform(which(view.permute(0, 2, 3, 1).numpy(), places), 0, 24)
    middle = augmentations.make("translate", size=20).evaluate(stacks)[0]
    assert np.array_equal(middle.permute(1, 2, 0).numpy(), places[12])


def test_translate_puts_both_observations_at_one_place() -> None:
    """As RAD's code does: all 25 places are drawn, and next_obs lies where obs lies."""
    obs = stacks_of(2000, edge=16)
    next_obs = FrameStacks(obs.frames.flip(0), obs.indices)
    views = augmentations.make("translate", size=20).pair(obs, next_obs, generator())
    places = []
    for view, stacks in zip(views, (obs, next_obs), strict=True):
        frame = stacks.whole()[0].permute(1, 2, 0).numpy()
        canvases = [
            np.pad(frame, ((y, 4 - y), (x, 4 - x), (0, 0))) for y in range(5) for x in range(5)
        ]
        places.append(which(view.permute(0, 2, 3, 1).numpy(), canvases))
    assert_uniform(places[0], 0, 24)
    assert np.array_equal(*places)


def test_translate_onto_a_canvas_of_the_frames_own_size_is_the_frame() -> None:
    stacks = stacks_of(2, edge=16)
    assert torch.equal(
        augmentations.make("translate", size=16)(stacks, generator()), stacks.whole()
    )


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_flip_mirrors_left_and_right(probability: float) -> None:
    views, clean = drawn("flip", 1000, probability=probability)
    assert_share(which(views, [clean, np.fliplr(clean)]), probability)


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_rotate_turns_by_every_right_angle(probability: float) -> None:
    """The three turns are equally likely among the views that are turned."""
    views, clean = drawn("rotate", 1000, probability=probability)
    turns = which(views, [np.rot90(clean, turns) for turns in range(4)])
    assert_share(turns > 0, probability)
    if probability:
        assert_uniform(turns[turns > 0], 1, 3)


def rectangles(views: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """Top, left, height and width of what differs from `clean`, [N, 4]; it must be a rectangle."""
    found = []
    for view in views:
        changed = (view != clean).any(-1)
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        found.append((rows[0], columns[0], np.ptp(rows) + 1, np.ptp(columns) + 1))
        assert changed[np.ix_(rows, columns)].all() and changed.sum() == len(rows) * len(columns)
    return np.asarray(found)


@pytest.mark.parametrize("name", ["cutout", "cutout_color"])
def test_cutout_is_one_rectangle_of_any_size_anywhere(name: str) -> None:
    frames = torch.full((1, EDGE, EDGE, 3), 77, dtype=torch.uint8)  # a grey that cutouts change
    stacks = FrameStacks(frames, torch.zeros(3000, DEPTH, dtype=torch.int64))
    flat = stacks.whole()[0].permute(1, 2, 0).numpy()
    settings = {"min_edge": 3, "max_edge": 6, "probability": 1.0}
    views = augmentations.make(name, size=EDGE, **settings)(stacks, generator())
    found = rectangles(views.permute(0, 2, 3, 1).numpy(), flat)
    for axis in (0, 1):
        assert_uniform(found[:, 2 + axis], 3, 6)
        for edge in range(3, 7):
            assert_uniform(found[found[:, 2 + axis] == edge, axis], 0, EDGE - edge)
    assert abs(np.corrcoef(found[:, 2], found[:, 3])[0, 1]) < 0.08  # height, width
    assert abs(np.corrcoef(found[:, 0], found[:, 1])[0, 1]) < 0.08  # top, left


def test_cutout_may_cover_everything() -> None:
    views, _ = drawn("cutout", 2, min_edge=EDGE, max_edge=EDGE, probability=1.0)
    assert not views.any()


def test_cutout_color_draws_every_colour() -> None:
    views, _ = drawn("cutout_color", 8000, min_edge=EDGE, max_edge=EDGE, probability=1.0)
    assert (views == views[:, :1, :1, :]).all()
    frames = views[:, 0, 0].reshape(-1, DEPTH, 3)
    assert (frames == frames[:, :1]).all()
    for colour in range(3):
        assert_uniform(frames[:, 0, colour].astype(int), 0, 255)
    assert abs(np.corrcoef(frames[:, 0].T) - np.eye(3)).max() < 0.06


# -- noise -----------------------------------------------------------------------------------------


def noise(sigma: float) -> Tensor:
    """What is added to grey, [64, 48, 48, 6]."""
    frames = torch.full((1, 48, 48, 3), 128, dtype=torch.uint8)
    stacks = FrameStacks(frames, torch.zeros(64, DEPTH, dtype=torch.int64))
    view = augmentations.make("gaussian", size=48, sigma=sigma)(stacks, generator())
    return view.permute(0, 2, 3, 1).float() - 128 / 255


def test_noise_is_normal() -> None:
    """Up to bfloat16's steps of 1/256 above one half, 1/512 below."""
    values = noise(0.1).flatten()
    error = 0.1 / len(values) ** 0.5
    assert abs(float(values.mean())) < 4 * error
    assert float(values.std()) == pytest.approx(0.1, rel=0.005)
    assert stats.skew(values) == pytest.approx(0, abs=0.02)
    assert stats.kurtosis(values) == pytest.approx(0, abs=0.05)
    points = np.linspace(-0.25, 0.25, 41)
    shares = np.searchsorted(np.sort(values), points) / len(values)
    steps = stats.norm.cdf(points + 1 / 256, scale=0.1) - stats.norm.cdf(points, scale=0.1)
    assert (np.abs(shares - stats.norm.cdf(points, scale=0.1)) < steps + 0.005).all()


def test_noise_is_independent_in_all_directions() -> None:
    values = noise(0.1).double()
    for axis, length in enumerate(values.shape):
        for lag in (1, 2, 3, 4):
            if lag < length:
                ahead = values.narrow(axis, lag, length - lag)
                behind = values.narrow(axis, 0, length - lag)
                assert abs(float((ahead * behind).mean())) / 0.01 < 4.5 / ahead.numel() ** 0.5
    frames = values.view(-1, DEPTH, 3)
    assert abs(float((frames[:, 0] * frames[:, 1]).mean())) / 0.01 < 0.01


def test_noise_is_clamped_and_scales() -> None:
    assert float(noise(0.02).std()) == pytest.approx(0.02, rel=0.02)
    view = noise(2.0) + 128 / 255
    assert (view == 0).float().mean() > 0.3 and (view == 1).float().mean() > 0.3
    assert view.min() == 0 and view.max() == 1


def test_quantiles_are_those_of_the_normal_distribution() -> None:
    values = normal_quantiles(2**16)
    middles = (np.arange(2**16) + 0.5) / 2**16
    np.testing.assert_allclose(values.numpy(), stats.norm.ppf(middles), rtol=1e-9, atol=1e-12)
    assert float(values.std()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("count", [1, 3, 4, 400_001])
def test_random_words_are_uniform(count: int) -> None:
    words = random_words(count, generator()).to(torch.int32)
    assert words.shape == (count,) and words.min() >= 0 and words.max() < 2**16
    if count > 4:
        for place in range(4):  # all four quarters of what is drawn
            part = words[place::4].numpy()
            for high in (part >> 8, part & 255):
                assert_uniform(high, 0, 255)


# -- colours ---------------------------------------------------------------------------------------


def test_grayscale_is_pillows() -> None:
    views, clean = drawn("grayscale", 3, probability=1.0)
    for frame in range(DEPTH):
        colours = slice(3 * frame, 3 * frame + 3)
        expected = np.asarray(Image.fromarray(clean[:, :, colours]).convert("L"), float)
        # half a level of Pillow, 0.3 of the weights, twice half a level of bfloat16
        assert np.abs(255 * views[0, :, :, colours] - expected[:, :, None]).max() <= 1.8
        assert (views[..., colours] == views[..., colours][..., :1]).all()


def test_grayscale_leaves_grey_grey() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(1, 16, 16, 3)
    stacks = FrameStacks(levels.contiguous(), torch.zeros(1, 1, dtype=torch.int64))
    settings = {"size": 16, "probability": 1.0}
    view = augmentations.make("grayscale", **settings)(stacks, generator())
    plain = stacks.whole().bfloat16() / 255
    assert torch.equal(view, plain)


def test_grayscale_comes_with_its_probability() -> None:
    views, clean = drawn("grayscale", 1000)
    in_colour = torch.from_numpy(clean).bfloat16().div(255).float().numpy()
    coloured = (views == in_colour).all((1, 2, 3))
    grey = (views[..., :3] == views[..., :1]).all((1, 2, 3))
    assert (coloured ^ grey).all()
    assert_share(grey, 0.3)


@pytest.mark.parametrize(
    ("brightness", "contrast", "saturation", "turn"),
    [
        (1.0, 1.0, 1.0, 0.0),
        (0.6, 1.0, 1.0, 0.0),
        (1.4, 1.0, 1.0, 0.0),
        (1.0, 0.6, 1.0, 0.0),
        (1.0, 1.4, 1.0, 0.0),
        (1.0, 1.0, 0.0, 0.0),
        (1.0, 1.0, 1.4, 0.0),
        (1.0, 1.0, 1.0, 0.5),
        (1.0, 1.0, 1.0, -0.3),
        (1.3, 0.7, 1.2, 0.2),
    ],
)
def test_jitter_is_colorsys(
    brightness: float, contrast: float, saturation: float, turn: float
) -> None:
    """Random colours, and greys, black, white and pure ones, where a hue is a matter of course."""
    pure = torch.cartesian_prod(*[torch.tensor([0.0, 0.5, 1.0])] * 3)
    colours = torch.cat([torch.rand(100, 3, generator=generator()), pure])
    planes = [plane[None] for plane in colours.unbind(1)]
    out = [torch.empty_like(plane) for plane in planes]
    jitter(planes, out, *(torch.tensor([[f]]) for f in (brightness, contrast, saturation, turn)))
    mean = colours.mean(0)
    for before, after in zip(colours, torch.cat(out).T, strict=True):
        contrasted = ((before - mean) * contrast + mean).clamp(0, 1).tolist()
        hue, colour, value = colorsys.rgb_to_hsv(*contrasted)
        hsv = ((hue + turn) % 1, min(1, colour * saturation), min(1, value * brightness))
        assert after.tolist() == pytest.approx(colorsys.hsv_to_rgb(*hsv), abs=1e-4)


def test_jitter_of_nothing_changes_nothing() -> None:
    still = {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0}
    views, clean = drawn("color_jitter", 3, **still)
    assert np.abs(views - clean / 255).max() < 1 / 256


@pytest.mark.parametrize("knob", ["brightness", "contrast", "saturation", "hue"])
def test_jitter_draws_its_factors_uniformly(knob: str) -> None:
    """Read off the three pixels of frames whose colour tells each factor."""
    settings = {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0, knob: 0.4}
    colours = torch.tensor([[0.6, 0.3, 0.3], [0.3, 0.6, 0.6]])
    levels = (255 * colours).round().byte()
    frames = levels[torch.tensor([[0, 1], [1, 0]])][None]  # [1, 2, 2, 3], mean (0.45, 0.45, 0.45)
    stacks = FrameStacks(frames, torch.zeros(2000, 1, dtype=torch.int64))
    view = augmentations.make("color_jitter", size=2, **settings)(stacks, generator())
    pixel = view[:, :, 0, 0].double().numpy()
    low, high = {"hue": (-0.4, 0.4)}.get(knob, (0.6, 1.4))
    if knob == "brightness":
        factor = pixel[:, 0] / 0.6
    elif knob == "contrast":
        factor = (pixel[:, 0] - 0.45) / 0.15
    elif knob == "saturation":
        factor = 2 * (1 - pixel[:, 1] / pixel[:, 0])
    else:
        hues = np.asarray([colorsys.rgb_to_hsv(*colour)[0] for colour in pixel])
        factor = (hues + 0.5) % 1 - 0.5
    assert factor.min() == pytest.approx(low, abs=0.02)
    assert factor.max() == pytest.approx(high, abs=0.02)
    uniform = stats.uniform(low, high - low)
    shares = np.searchsorted(np.sort(factor), np.linspace(low, high, 11)) / len(factor)
    assert np.abs(shares - uniform.cdf(np.linspace(low, high, 11))).max() < 0.05


def test_random_conv_is_scipys_correlation() -> None:
    """bfloat16 sums of 27 products under a sigmoid, whose slope is at most 1/4."""
    stacks = stacks_of(3)
    kernels = torch.randn(3, 3, 3, 3, 3, generator=generator())
    view = convolved(stacks.whole(), kernels).float().numpy()
    pixels = stacks.whole().numpy() / 255
    for b in range(3):
        for frame in range(DEPTH):
            for colour in range(3):
                total = sum(
                    ndimage.correlate(
                        pixels[b, 3 * frame + seen],
                        kernels[b, colour, seen].numpy(),
                        mode="nearest",
                    )
                    for seen in range(3)
                )
                expected = 1 / (1 + np.exp(-total))
                np.testing.assert_allclose(view[b, 3 * frame + colour], expected, atol=0.02)


def test_random_conv_has_a_kernel_for_each_sample() -> None:
    """The same stack, often: one kernel for a batch would show it one way only."""
    views, _ = drawn("random_conv", 50, probability=1.0)
    assert len(np.unique(views.reshape(50, -1), axis=0)) == 50


def test_random_conv_draws_standard_normal_weights() -> None:
    """A white view shows the sum of 27 weights, N(0, 27)."""
    frames = torch.full((1, 4, 4, 3), 255, dtype=torch.uint8)
    stacks = FrameStacks(frames, torch.zeros(1500, 1, dtype=torch.int64))
    view = augmentations.make("random_conv", size=4, probability=1.0)(stacks, generator())
    sums = torch.logit(view[:, :, 1, 1].double())
    inside = sums.abs() < 4  # where bfloat16 still tells one from the next
    share = stats.norm(scale=27**0.5)
    assert_share(inside.flatten().numpy(), share.cdf(4) - share.cdf(-4))
    assert_share((sums > 0).flatten().numpy(), 0.5)
