"""ReplayBuffer: every frame once, as uint8 on the device; stacks are rebuilt by index.

Frames are numbered 0, 1, 2, ... over the whole run; frame n lies in row n % rows of a ring. With a
frame lie the action, reward and termination that led to it, so a row is complete once written. A
transition is named by its second frame: obs ends at frame n - 1, next_obs at frame n. The first
frame of an episode ends no transition, and stacks repeat it instead of crossing it.

The ring holds the last `capacity` transitions however short the episodes are. It begins with 1/64
more rows than that for the first frames of episodes, which is enough where they last 64 agent steps
or more; where they are shorter it grows, once or twice, up to two frames per transition.

Differs from the reference, which stores both stacks of a transition: 3.05 GB here against 18 GB
for 100 000 transitions of 100 x 100 pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from curl.checks import integer
from curl.data.batch import Batch, FrameStacks, Later
from curl.hardware.device import free_bytes
from curl.hardware.transfer import put

log = logging.getLogger("curl")

COLUMNS = ("frames", "action", "reward", "terminated", "start")  # of a row, with its frame
CHUNK = 1024  # frames that are copied at a time


class ReplayBuffer:
    """A ring of frames that yields uniformly drawn transitions.

    Args:
        capacity: transitions kept.
        frame_size: edge of a square frame in pixels.
        action_dim: A.
        frame_stack: S, frames in a stack.
        device: where everything is stored.
        target: where batches are wanted, if not on `device`: the windows that views show are then
            gathered on `device` and copied over.
        filled: frames that lie elsewhere on `device` already, uint8 [rows, H, W, 3], such as those
            of a file that is mapped into memory. `restore` then leaves them as they are, and no
            others are added.

    Raises:
        ValueError: impossible sizes. MemoryError: more bytes than `device` has free.
    """

    frames: Tensor  # uint8 [rows, H, W, 3]
    action: Tensor  # float32 [rows, A]
    reward: Tensor  # float32 [rows, 1]
    terminated: Tensor  # bool [rows, 1]
    start: Tensor  # int64 [rows], the first frame of the episode

    def __init__(
        self,
        *,
        capacity: int,
        frame_size: int,
        action_dim: int,
        frame_stack: int = 3,
        device: torch.device | None = None,
        target: torch.device | None = None,
        filled: Tensor | None = None,
    ) -> None:
        self.capacity = integer("replay capacity", capacity)
        self.frame_stack = integer("frame_stack", frame_stack)
        self.device = torch.empty(0, device=device or "cpu").device
        self.target = torch.empty(0, device=target or self.device).device  # cuda is cuda:0
        integer("frame_size", frame_size)
        integer("action_dim", action_dim)
        self._filled = filled
        self.rows = capacity + capacity // 64 + frame_stack + 1 if filled is None else len(filled)
        self._sizes = frame_size, action_dim
        needed, free = self._bytes(self.rows) + capacity * 16, free_bytes(self.device)
        line = f"replay buffer: {capacity} transitions need {needed / 1e9:.2f} GB on {self.device}"
        if needed > free:
            raise MemoryError(f"{line}, {free / 1e9:.2f} GB are free; lower replay.capacity")
        if filled is None:
            log.info("%s, and up to twice that if episodes are shorter than 64 agent steps", line)
        for column, tensor in self._columns(self.rows).items():
            setattr(self, column, tensor)
        self.arrivals = torch.zeros(capacity, dtype=torch.int64, device=self.device)
        self._start, self._arrivals = np.zeros(self.rows, np.int64), np.zeros(capacity, np.int64)
        self._back = torch.arange(frame_stack - 1, -1, -1, device=self.device)  # S-1 .. 0
        self.written = 0  # frames ever written; the newest is written - 1
        self.first, self.last = 0, 0  # transitions ever forgotten, ever written
        self.episode_start = 0
        self._held = 0  # no frame before this one is there, whatever the number of rows
        self._may_grow = True

    def __len__(self) -> int:
        """Transitions that can be drawn."""
        return self.last - self.first

    def begin(self, frame: np.ndarray) -> None:
        """Open an episode with its first frame, uint8 [H, W, 3]."""
        self._require_frame(frame)
        self._make_room(forgotten=0)
        self.episode_start = self.written
        self._write(frame)

    def add(
        self, action: np.ndarray | Tensor, reward: float, terminated: bool, frame: np.ndarray
    ) -> None:
        """Append the transition that `action` [A] made from the newest frame to `frame`.

        Raises:
            ValueError: no episode has begun, or the frame or action has another shape or dtype.
        """
        if not self.written:
            raise ValueError("replay.add: no episode has begun")
        self._require_frame(frame)
        if tuple(action.shape) != self.action.shape[1:]:
            wanted = list(self.action.shape[1:])
            raise ValueError(f"action must have shape {wanted}, got {list(action.shape)}")
        self._make_room(forgotten=int(len(self) == self.capacity))
        row = self.written % self.rows
        put(self.action[row], torch.as_tensor(action, dtype=torch.float32))
        self.reward[row] = float(reward)
        self.terminated[row] = bool(terminated)
        self._write(frame)
        self._arrive(self.written - 1)

    def latest(self) -> FrameStacks:
        """The stack that ends at the newest frame, to act on: one row."""
        if not self.written:
            raise ValueError("the replay buffer is empty: there is no latest frame")
        newest = torch.full((1,), self.written - 1, device=self.device)  # no copy, so no wait
        return self.stacks(newest)

    def stacks(self, newest: Tensor) -> FrameStacks:
        """The stacks [B] that end at the frames numbered `newest`, int64 [B] on `device`."""
        start = self.start[newest % self.rows]
        numbers = torch.maximum(newest[:, None] - self._back, start[:, None])  # [B, S]
        target = None if self.target == self.device else self.target
        return FrameStacks(self.frames, numbers % self.rows, target)

    def sample(
        self, batch_size: int, generator: torch.Generator, offsets: Sequence[int] = ()
    ) -> Batch:
        """Draw transitions uniformly, with replacement.

        Args:
            batch_size: B.
            generator: source of the draw, on the buffer's device or on `target`.
            offsets: agent steps after obs at which `Batch.future` is wanted.

        Raises:
            ValueError: the buffer is empty.
        """
        if not len(self):
            raise ValueError("the replay buffer is empty: nothing to sample")
        number = torch.randint(
            self.first, self.last, (batch_size,), generator=generator, device=generator.device
        )
        return self.batch(number, offsets)

    def batch(self, number: Tensor, offsets: Sequence[int] = ()) -> Batch:
        """The transitions with these numbers.

        Args:
            number: int64 [B], from `first` on and below `last`, on any device.
            offsets: see `sample`.
        """
        after = self.arrivals[number.to(self.device) % self.capacity]  # frame number of next_obs
        row = after % self.rows
        later = {offset: self._later(after, offset) for offset in offsets}
        return Batch(
            self.stacks(after - 1),
            self.action[row].to(self.target),
            self.reward[row].to(self.target),
            self.terminated[row].to(self.target),
            self.stacks(after),
            later,
        )

    def _require_frame(self, frame: np.ndarray) -> None:
        shape = tuple(self.frames.shape[1:])
        if frame.shape != shape or frame.dtype != np.uint8:
            found = f"{frame.dtype} {list(frame.shape)}"
            raise ValueError(f"frame must be uint8 {list(shape)}, got {found}")

    def _write(self, frame: np.ndarray) -> None:
        row = self.written % self.rows
        put(self.frames[row], torch.as_tensor(frame))
        self.start[row] = self.episode_start
        self._start[row] = self.episode_start
        self.written += 1
        while len(self) and self._oldest_frame_of(self.first) < self.oldest():
            self.first += 1

    def _arrive(self, number: int) -> None:
        if len(self) == self.capacity:
            self.first += 1
        self.arrivals[self.last % self.capacity] = number
        self._arrivals[self.last % self.capacity] = number
        self.last += 1

    def _oldest_frame_of(self, number: int) -> int:
        """The oldest frame that transition `number` needs."""
        after = self._arrivals[number % self.capacity]
        return int(max(after - self.frame_stack, self._start[after % self.rows]))

    # -- growing, where short episodes need more frames than rows ---------------------------------

    def _make_room(self, forgotten: int) -> None:
        """Grow if the next frame would overwrite one that is still needed.

        Args:
            forgotten: how many of the oldest transitions are given up anyway.

        Raises:
            ValueError: the frames lie elsewhere and are not to be overwritten.
        """
        if self._filled is not None:
            raise ValueError(
                "this replay buffer shows the frames of a mapped dataset, and takes no others"
            )
        overwritten, number = self.written - self.rows, self.first + forgotten
        if overwritten < self.oldest() or number >= self.last or not self._may_grow:
            return
        if self._oldest_frame_of(number) <= overwritten:
            held = self.written - self.oldest()
            most = 2 * self.capacity + self.frame_stack + 1
            rows = min(most, held * self.capacity // len(self) + self.rows // 16)
            self._grow(max(rows, self.rows + self.rows // 16 + 1))

    def _grow(self, rows: int) -> None:
        """Move everything into a ring of `rows` rows; without the memory for it, stay as it is."""
        needed, free = self._bytes(rows), free_bytes(self.device)
        short = f"episodes of about {len(self) / max(1, self.rows - len(self)):.0f} agent steps"
        try:
            if needed > free:
                raise MemoryError
            new = self._columns(rows)
        except (MemoryError, torch.OutOfMemoryError):
            self._may_grow = False
            log.warning(
                "replay buffer: %s need %.2f GB for %d transitions and %.2f GB are free: it goes "
                "on with about %d transitions; lower replay.capacity",
                *(short, needed / 1e9, self.capacity, free / 1e9, len(self)),
            )
            return
        log.info("replay buffer: %s need more frames: it grows to %.2f GB", short, needed / 1e9)
        for first in range(self.oldest(), self.written, CHUNK):
            numbers = torch.arange(first, min(first + CHUNK, self.written), device=self.device)
            for column, tensor in new.items():
                tensor[numbers % rows] = getattr(self, column)[numbers % self.rows]
        self._held, self.rows = self.oldest(), rows
        for column, tensor in new.items():
            setattr(self, column, tensor)
        self._start = self.start.cpu().numpy().copy()

    def _columns(self, rows: int) -> dict[str, Tensor]:
        """What is stored per frame, for `rows` of them."""
        (edge, action_dim), device, frames = self._sizes, self.device, self._filled
        if frames is None:
            frames = torch.empty(rows, edge, edge, 3, dtype=torch.uint8, device=device)
        return {
            "frames": frames,
            "action": torch.zeros(rows, action_dim, device=device),
            "reward": torch.zeros(rows, 1, device=device),
            "terminated": torch.zeros(rows, 1, dtype=torch.bool, device=device),
            "start": torch.zeros(rows, dtype=torch.int64, device=device),
        }

    def _bytes(self, rows: int) -> int:
        """Bytes of `_columns`, and of the copy of `start` on the host."""
        edge, action_dim = self._sizes
        frame = 3 * edge**2 if self._filled is None else 0
        return rows * (frame + 4 * (action_dim + 1) + 1 + 16)

    def _later(self, after: Tensor, offset: int) -> Later:
        """What was observed `offset` steps after obs; `after`: the frame numbers of next_obs."""
        beyond = max(offset - 1, 0)  # frames after next_obs
        numbers = after[:, None] + torch.arange(1, beyond + 1, device=self.device)  # [B, beyond]
        there = numbers < self.written
        numbers = numbers.clamp(max=self.written - 1)
        there &= self.start[numbers % self.rows] == self.start[after % self.rows][:, None]
        reached = there.sum(dim=1)  # frames of one episode have consecutive numbers
        newest = after + reached if offset else after - 1
        row = newest % self.rows
        return Later(
            self.stacks(newest),
            self.action[row].to(self.target),
            self.reward[row].to(self.target),
            self.terminated[row].to(self.target),
            (reached == beyond).to(self.target),
        )

    # -- persistence: frames are append-only, so only those since a given one need be written ----

    def counters(self) -> dict[str, int]:
        """Everything but what is stored per frame."""
        names = ("written", "first", "last", "episode_start", "rows")
        return {name: int(getattr(self, name)) for name in names} | {"oldest": self.oldest()}

    def oldest(self) -> int:
        """Number of the oldest frame still in the ring."""
        return max(self._held, self.written - self.rows)

    def oldest_needed(self) -> int:
        """Number of the oldest frame that a transition needs; `written` if there is none."""
        return self._oldest_frame_of(self.first) if len(self) else self.written

    def export(self, first: int, last: int) -> dict[str, Any]:
        """Frames `first` to `last` - 1 with all that lies beside them, on the CPU.

        They are read in parts: a second copy of all frames may not fit beside them on a GPU.
        """
        exported: dict[str, Any] = {}
        for column in COLUMNS:
            stored = getattr(self, column)
            exported[column] = torch.empty(last - first, *stored.shape[1:], dtype=stored.dtype)
            for begin in range(first, last, CHUNK):
                numbers = torch.arange(begin, min(begin + CHUNK, last), device=self.device)
                part = exported[column][begin - first : begin - first + len(numbers)]
                part.copy_(stored[numbers % self.rows])
        return {"first": first} | exported

    def newest_frame(self) -> np.ndarray:
        """The frame written last, uint8 [H, W, 3]."""
        return self.frames[(self.written - 1) % self.rows].cpu().numpy()

    def restore(self, segments: Iterable[dict[str, Any]], counters: Any) -> None:
        """The inverse of `export` and `counters`, into a buffer of the same sizes.

        Raises:
            ValueError: segments or counters of other sizes or types, or with frames missing.
        """
        counters = self._require_counters(counters)
        if counters["rows"] > self.rows:
            self._resize_empty(counters["rows"])
        wanted = self._held = counters.pop("oldest")
        for segment in segments:
            self._require_segment(segment)
            count = len(segment["start"])
            keep = slice(max(0, wanted - segment["first"]), count)
            rows = torch.arange(segment["first"], segment["first"] + count)[keep] % self.rows
            if segment["first"] > wanted:
                raise ValueError(f"the saved replay buffer lacks frames from {wanted} on")
            for column in COLUMNS if self._filled is None else COLUMNS[1:]:  # all but the frames
                getattr(self, column)[rows.to(self.device)] = segment[column][keep].to(self.device)
            wanted = max(wanted, segment["first"] + count)
        if wanted != counters["written"]:
            raise ValueError(f"the saved replay buffer ends at frame {wanted}, not at its end")
        for name, value in counters.items():
            setattr(self, name, int(value))
        self._start = self.start.cpu().numpy().copy()
        numbers = np.arange(self.oldest(), self.written)
        ends = numbers[self._start[numbers % self.rows] != numbers][-len(self) or len(numbers) :]
        places = np.arange(self.last - len(ends), self.last) % self.capacity
        self._arrivals[places] = ends
        self.arrivals.copy_(torch.as_tensor(self._arrivals))

    def _resize_empty(self, rows: int) -> None:
        """Take `rows` rows, in a buffer that holds nothing yet."""
        self.frames = self.frames[:0].clone()  # the old ones need not lie beside the new ones
        needed, free = self._bytes(rows), free_bytes(self.device)
        if needed > free:
            raise MemoryError(
                f"the saved replay buffer needs {needed / 1e9:.2f} GB on {self.device}, "
                f"{free / 1e9:.2f} GB are free"
            )
        for column, tensor in self._columns(rows).items():
            setattr(self, column, tensor)
        self.rows = rows

    def _require_counters(self, counters: Any) -> dict[str, int]:
        """The saved counters, if they are integers that this buffer could have reached."""
        pairs = counters if isinstance(counters, Mapping) else {}
        found = dict(pairs)
        if "rows" not in found and type(found.get("written")) is int:  # before rings could grow
            found |= {"rows": self.rows, "oldest": max(0, found["written"] - self.rows)}
        names = list(self.counters())
        if {name: type(value) for name, value in found.items()} == dict.fromkeys(names, int):
            written, first, last, start, rows, oldest = (found[name] for name in names)
            if (
                0 <= first <= last <= min(written, first + self.capacity)
                and 0 <= start <= written
                and self.rows <= rows
                and 0 <= oldest <= written <= oldest + rows
            ):
                return found
        raise ValueError(f"the saved replay buffer has wrong counters: {str(counters)[:100]}")

    def _require_segment(self, segment: Any) -> None:
        """A saved segment has this buffer's columns, all equally long."""
        if not isinstance(segment, Mapping) or type(segment.get("first")) is not int:
            raise ValueError("the saved replay buffer does not fit: one of its segments is invalid")
        start = segment.get("start")
        count = start.numel() if isinstance(start, Tensor) else 0
        for column in COLUMNS:
            ours, theirs = getattr(self, column), segment.get(column)
            wanted = (ours.dtype, count, *ours.shape[1:])
            if not isinstance(theirs, Tensor) or (theirs.dtype, *theirs.shape) != wanted:
                found = (theirs.dtype, *theirs.shape) if isinstance(theirs, Tensor) else theirs
                raise ValueError(
                    f"the saved replay buffer has other sizes: {column} must be {wanted}, "
                    f"got {str(found)[:100]}"
                )
