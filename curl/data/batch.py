"""What the replay buffer hands to an agent: frame stacks that are read only when a view asks.

A frame is stored once, as uint8 [H, W, C]. A stack is a row of frame numbers; its pixels are
gathered by the augmentation, which reads just the window it needs. Where the frames lie on the host
and views are wanted on a GPU (`replay.device=cpu`), the window is gathered on the host, and nothing
else is copied over: no whole frames, and no stacks that no view shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from curl.hardware.kernels import kernels_on

Metrics = dict[str, Tensor]


@dataclass(frozen=True)
class FrameStacks:
    """B stacks of S frames, not yet read.

    Args:
        frames: uint8 [N, H, W, C], the store.
        indices: int64 [B, S], which frames of the store make each stack, oldest first.
        target: where views are wanted; None: beside the frames.
        rest: stacks from another store that come after these; None: there are none. Then B counts
            these as well.
    """

    frames: Tensor
    indices: Tensor
    target: torch.device | None = None
    rest: FrameStacks | None = None

    def __len__(self) -> int:
        return len(self.indices) + (0 if self.rest is None else len(self.rest))

    def __getitem__(self, which: slice) -> FrameStacks:
        """Some of the stacks, in their order: a slice without a step."""
        begin, end, step = which.indices(len(self))
        if step != 1:
            raise ValueError(f"stacks are sliced without a step, got {step}")
        own, rest, end = len(self.indices), self.rest, max(begin, end)
        if rest is not None:
            if begin >= own:
                return rest[begin - own : end - own]
            rest = rest[: end - own] if end > own else None
        return replace(self, indices=self.indices[begin:end], rest=rest)

    @property
    def device(self) -> torch.device:
        """Where views of the stacks are."""
        return self.target or self.frames.device

    @property
    def height(self) -> int:
        return self.frames.shape[1]

    @property
    def width(self) -> int:
        return self.frames.shape[2]

    @property
    def channels(self) -> int:
        """Channels of a stack: frame-major, RGB within a frame."""
        return self.indices.shape[1] * self.frames.shape[3]

    def first_frames(self) -> FrameStacks:
        """The oldest frame of every stack, repeated: no motion is seen."""
        rest = None if self.rest is None else self.rest.first_frames()
        return replace(self, indices=self.indices[:, :1].expand_as(self.indices), rest=rest)

    def window(self, top: Tensor, left: Tensor, size: int) -> Tensor:
        """Read a `size` x `size` window of every stack, one offset for all frames of a stack.

        Offsets that a GPU has drawn are copied to frames on the host in one piece, which waits for
        the GPU. There is hardly anything to wait for: an action has just been read from it, so the
        update before is done, and what is left is the draw and the copy of the view before this
        one. The window goes to the GPU from pinned memory, and nothing waits for that; PyTorch
        reuses pinned memory only once it has been read.

        Args:
            top, left: int64 [B], offsets in pixels.
            size: edge of the window in pixels.

        Returns:
            uint8 [B, S*C, size, size], channels-last in memory, on `device`.
        """
        if self.rest is not None:
            own = len(self.indices)
            ours = replace(self, rest=None).window(top[:own], left[:own], size)
            return torch.cat([ours, self.rest.window(top[own:], left[own:], size)])
        here = self.frames.device
        if top.device != here:
            top, left = torch.stack([top, left]).to(here)
        pinned = here.type == "cpu" and self.device.type == "cuda"
        _, height, width, colours = self.frames.shape
        if size > min(height, width):
            raise ValueError(f"a window of {size} pixels does not fit frames of {height} x {width}")
        kernels = kernels_on(here)
        if kernels is not None:
            view = kernels.window(self.frames, self.indices, top, left, size)
            return view.permute(0, 3, 1, 2).to(self.device)
        batch, depth = self.indices.shape
        # every horizontal run of `size` pixels in the store, as overlapping rows of one view
        runs = self.frames.view(-1).unfold(0, size * colours, colours)
        y = top[:, None] + torch.arange(size, device=here)  # [B, size]
        first = (self.indices[:, :, None] * height + y[:, None]) * width + left[:, None, None]
        pixels = runs.index_select(0, first.flatten()).view(batch, depth, size, size, colours)
        shape = (batch, size, size, depth * colours)
        view = torch.empty(shape, dtype=torch.uint8, device=here, pin_memory=pinned)
        for channel in range(depth * colours):  # whole planes: 7 x faster than a permuted copy
            view[..., channel] = pixels[:, channel // colours, :, :, channel % colours]
        return view.permute(0, 3, 1, 2).to(self.device, non_blocking=pinned)  # [B, S*C, size, size]

    def centre(self, size: int) -> Tensor:
        """The central window of every stack: uint8 [B, S*C, size, size], channels-last."""
        corner = torch.zeros(len(self), dtype=torch.int64, device=self.frames.device)
        return self.window(
            corner + (self.height - size) // 2, corner + (self.width - size) // 2, size
        )

    def whole(self) -> Tensor:
        """All pixels of every stack: uint8 [B, S*C, H, W], channels-last (square frames only)."""
        if self.height != self.width:
            raise ValueError(f"frames must be square, got {self.height} x {self.width}")
        return self.centre(self.height)


def stack_of(frames: Tensor) -> FrameStacks:
    """One stack from its frames, uint8 [S, H, W, C]."""
    return FrameStacks(frames, torch.arange(len(frames), device=frames.device)[None])


def join(many: Sequence[FrameStacks]) -> FrameStacks:
    """All stacks of several, one after the other. No frame is copied."""
    first, *others = many
    if not others:
        return first
    if first.rest is not None:
        return replace(first, rest=join([first.rest, *others]))
    rest = join(others)
    if first.frames is not rest.frames:
        return replace(first, rest=rest)
    return replace(first, indices=torch.cat([first.indices, rest.indices]), rest=rest.rest)


@dataclass(frozen=True)
class Later:
    """What was observed some agent steps after `Batch.obs`.

    Args:
        obs: the stacks. Where the episode had ended by then, its last stack (or the newest one, in
            the episode that is under way).
        action: float32 [B, A], the action that led to it.
        reward: float32 [B, 1], the reward of that action, summed over the action repeat.
        terminated: bool [B, 1], whether that action terminated the episode.
        valid: bool [B], False where the episode had ended by then. Action, reward and termination
            are then those of some other transition, and mean nothing.
    """

    obs: FrameStacks
    action: Tensor
    reward: Tensor
    terminated: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Batch:
    """B transitions.

    Args:
        obs, next_obs: the stacks before and after the action.
        action: float32 [B, A] in [-1, 1].
        reward: float32 [B, 1], summed over the action repeat.
        terminated: bool [B, 1]; a truncated episode is not terminated, its value is bootstrapped.
        future: for each time offset k > 0 that was asked for, what was observed k agent steps after
            `obs`.
    """

    obs: FrameStacks
    action: Tensor
    reward: Tensor
    terminated: Tensor
    next_obs: FrameStacks
    future: Mapping[int, Later] = field(default_factory=dict)


def join_batches(one: Batch, other: Batch) -> Batch:
    """The transitions of two batches, one after the other, which have the same offsets."""
    future = {
        offset: Later(
            join([later.obs, other.future[offset].obs]),
            *(
                torch.cat([getattr(later, name), getattr(other.future[offset], name)])
                for name in ("action", "reward", "terminated", "valid")
            ),
        )
        for offset, later in one.future.items()
    }
    return Batch(
        obs=join([one.obs, other.obs]),
        action=torch.cat([one.action, other.action]),
        reward=torch.cat([one.reward, other.reward]),
        terminated=torch.cat([one.terminated, other.terminated]),
        next_obs=join([one.next_obs, other.next_obs]),
        future=future,
    )
