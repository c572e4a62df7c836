"""The episodes of V-D4RL, from a folder that the user has downloaded.

V-D4RL (Lu et al. 2023, https://github.com/conglu1997/v-d4rl) has two layouts. With 64 pixels an
episode is one compressed `.npz` file with `image`, uint8 [N, H, W, 3], `action`, `reward` and
`discount`, and often `is_last` and `is_terminal`. With 84 pixels several episodes lie one behind
the other in each of some `.hdf5` files with `observation`, uint8 [N, 3, H, W], `action`, `reward`,
`discount` and `step_type` (0: the first row of an episode, 1, 2: its last row).

In both of them a row holds a frame with the action, reward and discount that led to it, so those of
an episode's first row mean nothing. An episode of 1000 control steps at action repeat 2 has 501
rows. A discount of 0 is a termination. All other episodes were cut off.

Pixels stay what they are; actions and rewards become float32. One episode is read at a time.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from curl.data.episode import Episode
from curl.data.layout import DatasetError

ACTION_REPEAT = 2  # Lu et al. 2023, appendix B
FRAME_STACK = 3  # of the agents in Lu et al. 2023

NPZ, HDF5 = ".npz", ".hdf5"
FRAMES = {NPZ: "image", HDF5: "observation"}
KEYS = {NPZ: ("action", "reward", "discount"), HDF5: ("action", "reward", "discount", "step_type")}
OPTIONAL = {NPZ: ("is_last", "is_terminal"), HDF5: ()}
FIRST, LAST = 0, 2  # values of step_type

Header = tuple[np.dtype, tuple[int, ...]]


@dataclass(frozen=True)
class Span:
    """An episode: the rows `begin` to `end` - 1 of a file."""

    path: Path
    begin: int
    end: int


@dataclass(frozen=True)
class Source:
    """What a folder holds. No frame has been read yet.

    Attributes:
        folder: it.
        kind: .npz or .hdf5.
        spans: the episodes in their order.
        edge: of a frame in pixels.
        action_dim: A.
        size: bytes on the disk.
    """

    folder: Path
    kind: str
    spans: list[Span]
    edge: int
    action_dim: int
    size: int

    @property
    def frames(self) -> int:
        return sum(span.end - span.begin for span in self.spans)

    @property
    def frame_bytes(self) -> int:
        """Of all frames, without compression."""
        return self.frames * 3 * self.edge**2

    def __str__(self) -> str:
        count = len(self.spans)
        return (
            f"{self.folder}: {count:,} episodes, {self.frames - count:,} transitions, "
            f"{self.action_dim} action components, {self.frames:,} frames of {self.edge} x "
            f"{self.edge} pixels, {self.size / 1e6:,.1f} MB on the disk, "
            f"{self.frame_bytes / 1e6:,.1f} MB in memory"
        )

    def episodes(self) -> Iterator[Episode]:
        """All episodes, read one at a time.

        Raises:
            DatasetError: one of them is damaged; the message names its file.
        """
        for span in self.spans:
            with refusing(span.path):
                episode = _episode(span)
            yield episode


def find(folder: Path) -> Source:
    """Look through a folder in one of the two layouts, without reading frames.

    Raises:
        DatasetError: it holds no such files, or files of both layouts, or one that is damaged or
            of other sizes than the first one; the message names the file.
    """
    if not folder.is_dir():
        raise DatasetError(f"there is no folder {folder}")
    files = [path for path in folder.iterdir() if path.suffix in FRAMES]
    files.sort(key=lambda path: _in_order(path.name))
    kinds = sorted({path.suffix for path in files})
    if len(kinds) != 1:
        held = "holds both" if kinds else "holds neither"
        below = sorted(p.name for p in folder.iterdir() if p.is_dir() and re.search("px$", p.name))
        hint = f"; did you mean {folder / below[0]}" if below else ""
        raise DatasetError(
            f"{folder} {held} .npz episodes and .hdf5 shards, and must hold one of them{hint}"
        )
    spans: list[Span] = []
    sizes: tuple[int, int] | None = None
    for path in files:
        with refusing(path):
            rows, *found = _require_headers(path)
            if sizes is not None and sizes != tuple(found):
                raise ValueError(
                    f"its frames have {found[0]} pixels and its actions {found[1]} components, "
                    f"and not {sizes[0]} and {sizes[1]} as in {files[0].name}"
                )
            sizes = found[0], found[1]
            spans += _spans(path, rows)
    assert sizes is not None
    size = sum(path.stat().st_size for path in files)
    return Source(folder, kinds[0], spans, *sizes, size)


@contextlib.contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Whatever a damaged file makes NumPy, zlib or HDF5 raise becomes a `DatasetError`."""
    try:
        yield
    except KeyError as error:
        cause = str(error.args[0]) if error.args else repr(error)
    except (OSError, ValueError) as error:
        cause = str(error)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, TypeError) as error:
        cause = repr(error)
    else:
        return
    raise DatasetError(f"{path} cannot be imported: {' '.join(cause.split())[:300]}")


def _in_order(name: str) -> list[tuple[int, str]]:
    """A key to sort names by, in which 10 comes after 9."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


# -- what a file declares --------------------------------------------------------------------------


def _headers(path: Path) -> dict[str, Header]:
    """The dtype and shape of each array in a file. No array is read."""
    if path.suffix == HDF5:
        import h5py

        with h5py.File(path) as file:
            arrays = {key: each for key, each in file.items() if isinstance(each, h5py.Dataset)}
            return {key: (each.dtype, each.shape) for key, each in arrays.items()}
    found = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as member:
                major, _ = np.lib.format.read_magic(member)
                read = np.lib.format.read_array_header_1_0
                shape, _, dtype = (read if major == 1 else np.lib.format.read_array_header_2_0)(
                    member
                )
            found[name.removesuffix(".npy")] = dtype, shape
    return found


def _require_headers(path: Path) -> tuple[int, int, int]:
    """Rows, edge and action dimension of a file; `ValueError` if an array is missing or wrong."""
    headers, frames = _headers(path), FRAMES[path.suffix]
    wanted = (frames, *KEYS[path.suffix])
    if missing := [key for key in wanted if key not in headers]:
        raise ValueError(f"it lacks {', '.join(missing)}; it has {', '.join(headers) or 'nothing'}")
    dtype, shape = headers[frames]
    edge = shape[2] if len(shape) == 4 else 0
    if dtype != np.uint8 or shape[1:] not in ((3, edge, edge), (edge, edge, 3)) or not edge:
        raise ValueError(
            f"{frames} must be uint8 [N, 3, H, H] or [N, H, H, 3], got {dtype} {list(shape)}"
        )
    rows = shape[0]
    for key in (*KEYS[path.suffix], *(key for key in OPTIONAL[path.suffix] if key in headers)):
        dtype, shape = headers[key]
        axes = 2 if key == "action" else 1
        if len(shape) != axes or shape[0] != rows or 0 in shape or dtype.kind not in "fiub":
            line = f"[{rows}, A]" if axes == 2 else f"[{rows}]"
            raise ValueError(f"{key} must be numbers {line}, got {dtype} {list(shape)}")
    return rows, edge, headers["action"][1][1]


def _spans(path: Path, rows: int) -> list[Span]:
    """The episodes of a file."""
    if path.suffix == NPZ:
        edges = [0, rows]
    else:
        kinds = _read(path, ["step_type"], 0, rows)["step_type"]
        if not np.isin(kinds, (FIRST, 1, LAST)).all():
            raise ValueError("its step_type must be 0, 1 or 2")
        if kinds[0] != FIRST:
            raise ValueError("it begins in the middle of an episode: its step_type is not 0 there")
        if not (kinds[1:][kinds[:-1] == LAST] == FIRST).all():
            raise ValueError("its step_type is 2, and the episode goes on")
        edges = [*np.flatnonzero(kinds == FIRST).tolist(), rows]
    spans = [Span(path, *pair) for pair in itertools.pairwise(edges)]
    if short := [span for span in spans if span.end - span.begin < 2]:
        raise ValueError(f"its episode from row {short[0].begin} on has no transition")
    return spans


# -- what a file holds -----------------------------------------------------------------------------


def _read(path: Path, keys: Sequence[str], begin: int, end: int) -> dict[str, Any]:
    """Some rows of some arrays; what the file lacks is left out."""
    if path.suffix == HDF5:
        import h5py

        with h5py.File(path) as file:
            arrays = {key: each for key, each in file.items() if isinstance(each, h5py.Dataset)}
            return {key: arrays[key][begin:end] for key in keys if key in arrays}
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key][begin:end] for key in keys if key in file}


def _episode(span: Span) -> Episode:
    """Read an episode; `ValueError` if it is none."""
    kind = span.path.suffix
    keys = (FRAMES[kind], *KEYS[kind], *OPTIONAL[kind])
    rows = _read(span.path, keys, span.begin, span.end)
    frames = rows[FRAMES[kind]]
    if frames.shape[-1] != 3:
        frames = frames.transpose(0, 2, 3, 1)
    over = rows["discount"] == 0
    if "is_terminal" in rows:
        over = over | (rows["is_terminal"] != 0)
    where = f"in its rows {span.begin} to {span.end - 1}"
    if over[1:-1].any():
        raise ValueError(f"an episode goes on after a discount of 0, {where}")
    if kind == HDF5:
        ended = rows["step_type"][-1] == LAST
    else:
        ended = "is_last" not in rows or bool(rows["is_last"][-1])
    try:
        return Episode(
            np.ascontiguousarray(frames),
            np.asarray(rows["action"][1:], np.float32),
            np.asarray(rows["reward"][1:], np.float32),
            terminated=bool(over[-1]),
            truncated=bool(ended and not over[-1]),
        )
    except ValueError as error:
        raise ValueError(f"{error}, {where}") from None
