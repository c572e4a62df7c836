"""Shifts of finished frames, by how much they change them: what their settings say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from curl import shifts
from curl.schema import SettingsError
from curl.shifts.base import Look
from curl.shifts.blur import disk

EDGE = 100
GREY = np.full((EDGE, EDGE, 3), 128, np.uint8)


def begun(name: str, seed: int = 0, **settings: Any) -> Look:
    look = shifts.make({name: settings})
    look.begin(np.random.SeedSequence(seed))
    return look


def picture(edge: int = EDGE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (edge, edge, 3), np.uint8)


@pytest.mark.parametrize(
    ("severity", "sigma"), [(1, 0.08), (2, 0.12), (3, 0.18), (4, 0.26), (5, 0.38)]
)
def test_noise_has_the_published_deviation(severity: int, sigma: float) -> None:
    noisy = begun("noise", severity=severity).after(GREY, 0).astype(float)
    inside = (noisy > 0) & (noisy < 255)
    expected = np.random.default_rng(1).normal(128, 255 * sigma, 10**5)
    expected = expected[(expected > 0) & (expected < 255)]
    assert noisy[inside].std() == pytest.approx(expected.std(), rel=0.03)
    assert np.mean(~inside) == pytest.approx(1 - len(expected) / 10**5, abs=0.01)
    assert noisy.mean() == pytest.approx(128, abs=2)


def test_noise_is_another_in_each_frame_pixel_and_channel() -> None:
    look = begun("noise", severity=1)
    first, later = (look.after(GREY, time).astype(int) - 128 for time in (0, 8))
    for other in (later, first[..., ::-1], np.roll(first, 1, axis=0), np.roll(first, 1, axis=1)):
        correlation = np.corrcoef(first[..., 0].ravel(), other[..., 0].ravel())[0, 1]
        assert abs(correlation) < 0.05
    np.testing.assert_array_equal(look.after(GREY, 8).astype(int) - 128, later)


@pytest.mark.parametrize(("severity", "added"), [(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4), (5, 0.5)])
def test_brightness_adds_to_the_value_and_keeps_hue_and_saturation(
    severity: int, added: float
) -> None:
    import colorsys

    look, before = begun("brightness", severity=severity), picture(20)
    before[0, 0] = 0
    after = look.after(before, 0)
    for old, new in zip(before.reshape(-1, 3) / 255, after.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*old)
        expected = colorsys.hsv_to_rgb(hue, saturation, min(value + added, 1))
        np.testing.assert_allclose(new, 255 * np.array(expected), atol=0.51)


@pytest.mark.parametrize(("severity", "radius"), [(1, 3), (2, 4), (3, 6), (4, 8), (5, 10)])
def test_blur_spreads_a_point_over_the_published_disk(severity: int, radius: int) -> None:
    """As far as in a frame of 224 pixels, and no farther; its light is all there."""
    for edge in (84, 100, 224):
        frame = np.zeros((edge, edge, 3), np.uint8)
        frame[edge // 2, edge // 2] = 255
        blurred = begun("blur", severity=severity).after(frame, 0).astype(float)
        kernel = disk(radius * edge / 224)
        assert kernel.sum() == pytest.approx(1, abs=1e-5)
        np.testing.assert_array_equal(kernel, kernel.T)
        rows = np.flatnonzero(blurred[:, edge // 2, 0])
        expected = 2 * radius * edge / 224
        assert expected - 1 <= rows[-1] - rows[0] + 1 < expected + 2  # parts of pixels
        area = np.pi * (radius * edge / 224) ** 2
        centre = blurred[edge // 2, edge // 2, 0]
        assert centre == pytest.approx(255 / area, abs=0.12 * 255 / area + 0.5)


def test_blur_keeps_a_plain_frame_and_mirrors_edges() -> None:
    look = begun("blur", severity=5)
    np.testing.assert_array_equal(look.after(GREY, 0), GREY)
    tilted = np.repeat(np.arange(EDGE, dtype=np.uint8)[:, None, None], EDGE, 1).repeat(3, 2)
    blurred = look.after(tilted, 0)
    np.testing.assert_allclose(blurred[10:-10], tilted[10:-10], atol=1)
    assert blurred[0, 0, 0] > 0 and blurred[-1, 0, 0] < EDGE - 1


@pytest.mark.parametrize("edge", [1, 2, 3, 5, 17])
@pytest.mark.parametrize("name", ["blur", "noise", "brightness"])
def test_the_smallest_frames_have_shifts_too(name: str, edge: int) -> None:
    frame = begun(name, severity=5).after(picture(edge), 0)
    assert frame.shape == (edge, edge, 3) and frame.dtype == np.uint8


def test_an_occlusion_hides_as_much_as_it_may_and_stays() -> None:
    shares, places = [], set()
    for seed in range(200):
        look = begun("occlusion", seed, min_area=0.02, max_area=0.4, aspect=0.3)
        before = picture()
        hidden = (look.after(before, 0) != before).any(axis=2)
        rows, columns = np.flatnonzero(hidden.any(1)), np.flatnonzero(hidden.any(0))
        assert hidden[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].mean() > 0.97
        np.testing.assert_array_equal(look.after(GREY, 0), look.after(GREY, 99))
        height, width = len(rows), len(columns)
        assert 0.25 <= height / width <= 1 / 0.25
        shares.append(height * width / EDGE**2)
        places.add((rows[0], columns[0]))
    assert 0.015 <= min(shares) < 0.05 and 0.35 < max(shares) <= 0.42
    assert len(places) > 150


def test_an_occlusion_may_hide_everything_or_one_pixel() -> None:
    look = begun("occlusion", min_area=1.0, max_area=1.0, aspect=0.3)
    assert len(np.unique(look.after(picture(), 0).reshape(-1, 3), axis=0)) == 1
    look = begun("occlusion", min_area=1e-9, max_area=1e-9, aspect=1.0)
    assert (look.after(GREY, 0) != GREY).any(axis=2).sum() == 1


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_delayed_frames_are_those_of_earlier_steps(steps: int) -> None:
    look = begun("delay", steps=steps)
    for repeated in (1, 2):  # another episode begins anew
        for number in range(8):
            frame = np.full((4, 4, 3), number, np.uint8)
            for _ in range(repeated):
                seen = look.after(frame, 3 * number)
                assert seen[0, 0, 0] == max(number - steps, 0)
            wide = look.after(np.full((8, 8, 3), number, np.uint8), 3 * number)
            assert wide.shape == (8, 8, 3) and wide[0, 0, 0] == max(number - steps, 0)
        look.begin(np.random.SeedSequence(1))


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("noise", {"severity": 6}, "shift.noise.severity must be one of 1, 2, 3, 4, 5; got '6'"),
        ("blur", {"severity": 0}, "shift.blur.severity must be one of 1, 2, 3, 4, 5"),
        ("brightness", {}, "shift.brightness.severity is missing"),
        ("delay", {"steps": 0}, "shift.delay.steps must be an integer >= 1"),
        ("delay", {"steps": 1, "late": 2}, "unknown key 'shift.delay.late'"),
        ("noise", {"severity": True}, "shift.noise.severity must be"),
        ("noize", {}, "shift.name must be one of"),
        ("base", {}, "shift.name must be one of"),
        (
            "occlusion",
            {"min_area": 0.3, "max_area": 0.2, "aspect": 0.3},
            "shift.occlusion.max_area must lie in [0.3, 1]",
        ),
    ],
)
def test_wrong_settings_are_refused_in_one_line(
    name: str, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        shifts.make({name: settings})
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_frames_that_are_handed_over_stay_as_they_are() -> None:
    look = shifts.make(
        {
            "noise": {"severity": 5},
            "blur": {"severity": 5},
            "brightness": {"severity": 5},
            "occlusion": {"min_area": 0.2, "max_area": 0.2, "aspect": 1.0},
            "delay": {"steps": 2},
        }
    )
    look.begin(np.random.SeedSequence(0))
    assert list(look.shifts) == ["occlusion", "blur", "brightness", "noise", "delay"]
    frame = picture()
    frame.setflags(write=False)
    for time in range(4):
        assert look.after(frame, time).flags.writeable
