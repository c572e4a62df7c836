"""Videos of episodes: an H.264 MP4, encoded frame by frame, written aside and then renamed.

A GIF is made of one for what plays no MP4.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

log = logging.getLogger("curl")

GIF_RATE = 10  # frames per second at most: a GIF is large, and browsers slow down fast ones


class Film:
    """A video under way; the context manager leaves a whole file, or none if its body raises.

    Frames are encoded as they come, so that a long episode needs no memory. A video is not worth
    an evaluation: the first failure (a full disk, for example) is only warned of.

    Args:
        path: of the MP4.
        rate: frames per second. It is kept exactly, so that the video plays at true speed.
    """

    def __init__(self, path: Path, rate: Fraction) -> None:
        self.path, self.rate = path, rate
        self._aside = path.with_suffix(".aside.mp4")
        self._container: Any = None
        self._stream: Any = None
        self._failed = False

    def __enter__(self) -> Film:
        return self

    def add(self, pixels: np.ndarray) -> None:
        """Append a frame, uint8 [H, W, 3] with even H and W."""
        if not self._failed:
            with self._tolerating():
                self._append(pixels)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        with self._tolerating():
            if self._container is not None:
                if kind is None and not self._failed:
                    self._container.mux(self._stream.encode())
                self._container.close()
                if kind is None and not self._failed:
                    self._aside.replace(self.path)
        with contextlib.suppress(OSError):
            self._aside.unlink(missing_ok=True)

    def _append(self, pixels: np.ndarray) -> None:
        import av  # only those who make videos need its libraries

        if self._container is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._container = av.open(str(self._aside), "w")
            self._stream = self._container.add_stream("libx264", rate=self.rate)
            self._stream.height, self._stream.width = pixels.shape[:2]
            self._stream.pix_fmt, self._stream.options = "yuv420p", {"crf": "20"}
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        self._container.mux(self._stream.encode(frame))

    @contextlib.contextmanager
    def _tolerating(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            if not self._failed:
                log.warning("the video %s could not be written: %s", self.path, error)
            self._failed = True


def animated_gif(path: Path) -> tuple[bytes, tuple[int, int]]:
    """An MP4 as an animated GIF that plays at true speed, and its height and width in pixels.

    It shows at most GIF_RATE frames per second, in 256 colours that all of them share.

    Raises:
        OSError, ValueError: the file cannot be read, or holds no frame.
    """
    import av
    from PIL import Image

    with av.open(str(path)) as container:
        rate = container.streams.video[0].average_rate or Fraction(GIF_RATE)
        every = max(1, math.ceil(rate / GIF_RATE))
        decoded = enumerate(container.decode(video=0))
        frames = [frame.to_image() for number, frame in decoded if number % every == 0]
    if not frames:
        raise ValueError("it holds no frame")
    # Pixels of every frame, enough to choose the colours by.
    sampled = [np.asarray(frame.resize((32, 32), Image.Resampling.NEAREST)) for frame in frames]
    palette = Image.fromarray(np.concatenate(sampled)).quantize(256)
    first, *rest = (frame.quantize(palette=palette, dither=0) for frame in frames)
    # A GIF counts hundredths of a second: the sum is kept exact, not each of them.
    ends = [round(100 * every * (n + 1) / rate) for n in range(len(frames))]
    durations = [10 * (end - begin) for begin, end in itertools.pairwise([0, *ends])]
    file = io.BytesIO()
    first.save(file, "GIF", save_all=True, append_images=rest, duration=durations, loop=0)
    return file.getvalue(), (first.height, first.width)
