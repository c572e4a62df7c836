"""Moving pictures of a folder: images, videos, and folders of images that are the frames of one.

PyAV decodes them, images too. A frame is scaled until it fills a square, and its middle is cut out.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np

IMAGES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
VIDEOS = (".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")


def clips(folder: str) -> list[Path]:
    """What lies in a folder, by name: files, and folders of images; all else is passed over.

    Raises:
        ValueError: there is no such folder, nothing in it can be used, or something cannot be
            read. Only the first frame of each is tried, and once while it stays as it is.
    """
    place = Path(folder).expanduser()
    if not place.is_dir():
        raise ValueError(f"folder {folder!r} is no folder")
    try:
        found = [path for path in sorted(place.iterdir()) if files_of(path)]
    except OSError as error:
        raise ValueError(f"folder {folder!r} cannot be read: {error.strerror}") from None
    if not found:
        raise ValueError(
            f"folder {folder!r} holds no image ({', '.join(IMAGES)}), no video "
            f"({', '.join(VIDEOS)}) and no folder of images"
        )
    for path in found:
        first = files_of(path)[0]
        about = first.stat()
        if problem := _problem(first, about.st_mtime_ns, about.st_size):
            raise ValueError(
                f"folder {folder!r} holds {path.name}, which cannot be read: {problem}"
            )
    return found


def files_of(clip: Path) -> list[Path]:
    """The files of a clip in their order; none if it is no clip."""
    if clip.name.startswith("."):  # what systems leave behind, such as ._name.png
        return []
    if clip.is_dir():
        within = (path for path in sorted(clip.iterdir()) if path.suffix.lower() in IMAGES)
        return [path for path in within if not path.name.startswith(".")]
    return [clip] if clip.suffix.lower() in IMAGES + VIDEOS else []


@functools.lru_cache(maxsize=100_000)
def _problem(path: Path, changed: int, length: int) -> str:
    """Why a file of that time of change and that length has no first frame; nothing if it has."""
    import av.error  # only those who use files need its libraries

    try:
        with contextlib.closing(_decoded(path)) as frames:
            next(frames)
    except (av.error.FFmpegError, OSError) as error:
        return error.strerror or type(error).__name__
    except (IndexError, StopIteration):  # a file of sound alone, or of no frames
        return "it shows nothing"
    return ""


def _decoded(path: Path) -> Generator[Any, None, None]:
    """The frames of a file, one by one: av.VideoFrame."""
    import av.error

    with av.open(str(path)) as container:
        yield from container.decode(container.streams.video[0])


class Clip:
    """A moving picture of files, played over and over; an image is one that stands still.

    Args:
        path: one of `clips`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.length: int | None = None
        """Frames, once its end was seen."""
        self._begin()

    def at(self, frame: float, size: int) -> np.ndarray:
        """uint8 [size, size, 3] of its frame number `frame`, which may lie beyond its end.

        Times that do not go back are the fast ones.
        """
        wanted = int(frame) if self.length is None else int(frame) % self.length
        if wanted < self._number:
            self._begin()
        while self._number < wanted:
            following = self._next()
            if following is None:
                self.length = self._number + 1
                return self.at(frame, size)
            self._number, self._frame = self._number + 1, following
            self._squares.clear()
        if size not in self._squares:
            self._squares[size] = filling(self._frame, size)
        return self._squares[size]

    def _begin(self) -> None:
        self._coming = self._frames()
        self._number, self._frame = 0, next(self._coming)
        self._squares: dict[int, np.ndarray] = {}

    def _next(self) -> Any:
        """The frame that follows; None at the end, and where the rest of a file is damaged."""
        import av.error

        try:
            return next(self._coming, None)
        except av.error.InvalidDataError:
            return None

    def _frames(self) -> Iterator[Any]:
        files = files_of(self.path)
        for file in files:
            with contextlib.closing(_decoded(file)) as frames:
                if len(files) == 1:
                    yield from frames
                else:
                    yield next(frames)


def filling(frame: Any, size: int) -> np.ndarray:
    """uint8 [size, size, 3]: the middle of an av.VideoFrame whose shorter edge has that size."""
    scale = size / min(frame.width, frame.height)
    width, height = (max(round(scale * edge), size) for edge in (frame.width, frame.height))
    scaled = frame.reformat(width, height, "rgb24", interpolation="AREA").to_ndarray()
    top, left = (height - size) // 2, (width - size) // 2
    return np.ascontiguousarray(scaled[top : top + size, left : left + size])
