"""The frames of a dataset in a file that is mapped into memory, for datasets that exceed it.

HDF5 cannot be mapped as frames are sampled, so the frames are written once more, one behind the
other, into a file beside the dataset. The system reads the pages of it that batches need, and
forgets them when memory runs short. A label beside the file says what it was made of, and its
checksum. Where either differs, the file is written anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from curl.files import require_room, sha256

log = logging.getLogger("curl")

FRAMES, LABEL, ASIDE = "frames.uint8", "frames.json", ".aside"


def mapped_frames(
    folder: Path,
    parts: Iterable[np.ndarray],
    *,
    shape: tuple[int, int, int, int],
    made_of: Mapping[str, str],
    what: str,
) -> Tensor:
    """All frames as a tensor over a file, which is written if it is not there or not sound.

    What is written to the tensor stays in this process, and never reaches the file.

    Args:
        folder: of the file; it is made.
        parts: the frames, uint8 [n, H, W, 3] each. They are read if they have to be written.
        shape: [N, H, W, 3] of all of them.
        made_of: file name -> SHA-256 of what the frames are read from.
        what: they belong to, for messages.

    Raises:
        OSError: the file cannot be written, or the disk has no room for it.
    """
    size = math.prod(shape)
    folder.mkdir(exist_ok=True)
    path = folder / FRAMES
    with locked(folder):
        sound = is_sound(folder, size, made_of)
        if not sound:
            write(folder, parts, size, made_of, what)
    log.info(
        "%s: its %.2f GB of frames are mapped from %s, which %s",
        *(what, size / 1e9, path, "was there already" if sound else "has been written"),
    )
    return torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8).view(shape)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time: another one that wants the same frames waits, and finds them."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def is_sound(folder: Path, size: int, made_of: Mapping[str, str]) -> bool:
    """Whether the file holds the frames of what its label says, byte for byte."""
    path = folder / FRAMES
    try:
        label = json.loads((folder / LABEL).read_text(encoding="utf-8"))
        wanted = {"made_of": dict(made_of), "size": size, "sha256": label["sha256"]}
        return label == wanted and path.stat().st_size == size and sha256(path) == label["sha256"]
    except (OSError, ValueError, LookupError, TypeError):
        return False


def write(
    folder: Path, parts: Iterable[np.ndarray], size: int, made_of: Mapping[str, str], what: str
) -> None:
    """Write the frames aside, and move them into place when they are complete."""
    path, label = folder / FRAMES, folder / LABEL
    for left in (path, label, *folder.glob(f"*{ASIDE}")):  # of a process that was killed
        left.unlink(missing_ok=True)
    require_room(folder, size, f"{what}: a file of its frames")
    aside, digest = folder / f"{FRAMES}{ASIDE}", hashlib.sha256()
    try:
        with aside.open("wb") as file:
            for part in parts:
                content = np.ascontiguousarray(part).data
                digest.update(content)
                file.write(content)
        content = {"made_of": dict(made_of), "size": size, "sha256": digest.hexdigest()}
        label.write_text(json.dumps(content), encoding="utf-8")
        aside.rename(path)
    finally:
        aside.unlink(missing_ok=True)
