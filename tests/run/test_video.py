"""A video as an animated GIF: true speed, few enough frames, the right pixels."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from curl.run.video import GIF_RATE, Film, animated_gif


def film(path: Path, frames: int, rate: Fraction) -> None:
    """A video that turns from black to white."""
    with Film(path, rate) as video:
        for number in range(frames):
            video.add(np.full((16, 24, 3), 255 * number // max(frames - 1, 1), np.uint8))


@pytest.mark.parametrize("frames", [1, 2, 60])
@pytest.mark.parametrize("rate", [Fraction(5), Fraction(25, 2), Fraction(40), Fraction(100, 3)])
def test_it_plays_at_true_speed_and_no_faster_than_browsers_can(
    tmp_path: Path, frames: int, rate: Fraction
) -> None:
    film(tmp_path / "video.mp4", frames, rate)
    content, size = animated_gif(tmp_path / "video.mp4")
    with Image.open(io.BytesIO(content)) as picture:
        shown = [
            (np.asarray(each.convert("L")).mean(), each.info["duration"])
            for each in ImageSequence.Iterator(picture)
        ]
    seconds = sum(duration for _, duration in shown) / 1000
    assert size == (16, 24)
    assert frames / rate <= seconds + 0.01 and seconds < frames / rate + 1 / GIF_RATE + 0.1
    assert len(shown) <= frames / rate * GIF_RATE + 1
    greys = [grey for grey, _ in shown]
    assert greys[0] < 5 and greys == sorted(greys)
    assert greys[-1] >= 250 or rate > GIF_RATE or frames == 1


@pytest.mark.parametrize("content", [b"", b"no video"])
def test_what_is_no_video_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "video.mp4").write_bytes(content)
    with pytest.raises((OSError, ValueError)):
        animated_gif(tmp_path / "video.mp4")
