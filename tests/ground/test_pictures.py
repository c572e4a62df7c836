"""Moving pictures that are made up: a function of the generator, the time and the size alone."""

from __future__ import annotations

import numpy as np
import pytest

from curl.pictures import Noise, Plasma, Shapes, made_up, palette

KINDS = [Noise, Plasma, Shapes]


def picture(kind: type, seed: int = 0) -> Noise | Plasma | Shapes:
    return kind(np.random.default_rng(seed))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 2, 44, 84])
def test_the_same_time_shows_the_same_picture(kind: type, size: int) -> None:
    first = picture(kind)
    frames = [first.at(time, size) for time in (0, 3.25, 1000)]
    again = picture(kind)
    for time, frame in zip((1000, 0, 3.25), (frames[2], frames[0], frames[1]), strict=True):
        np.testing.assert_array_equal(again.at(time, size), frame)
        assert frame.shape == (size, size, 3) and frame.dtype == np.uint8


@pytest.mark.parametrize("kind", KINDS)
def test_it_moves_and_does_not_jump(kind: type) -> None:
    for seed in range(5):
        look = picture(kind, seed)
        first, soon, later = (look.at(time, 84).astype(int) for time in (0, 0.25, 50))
        near, far = np.abs(soon - first).mean(), np.abs(later - first).mean()
        assert 0 < near < 0.35 * far, (seed, near, far)
        assert far > 10


@pytest.mark.parametrize("kind", KINDS)
def test_another_seed_shows_another_picture(kind: type) -> None:
    frames = [picture(kind, seed).at(0, 44).astype(int) for seed in range(4)]
    for number, frame in enumerate(frames):
        assert frame.std() > 10
        for other in frames[:number]:
            assert np.abs(frame - other).mean() > 10


@pytest.mark.parametrize("kind", KINDS)
def test_a_large_frame_shows_what_a_small_one_shows(kind: type) -> None:
    """Its means over squares are nearer to the small frame than to that of another time."""
    look = picture(kind)
    large = look.at(40, 256).reshape(64, 4, 64, 4, 3).mean(axis=(1, 3))
    same, other = (np.abs(large - look.at(time, 64)).mean() for time in (40, 0))
    assert same < 0.2 * other


def test_all_kinds_are_drawn() -> None:
    drawn = {type(made_up(np.random.default_rng(seed))) for seed in range(30)}
    assert drawn == set(KINDS)


def test_a_palette_returns_to_where_it_began() -> None:
    colours = palette(np.random.default_rng(0)).astype(int)
    steps = np.abs(np.diff(colours, axis=0, append=colours[:1])).max(axis=1)
    assert steps.max() < 12
    assert np.ptp(colours, axis=0).max() > 50
