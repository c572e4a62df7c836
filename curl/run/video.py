"""Videos of episodes: an H.264 MP4, encoded frame by frame, written aside and then renamed."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

log = logging.getLogger("curl")


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
