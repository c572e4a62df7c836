"""Random translate (RAD, Laskin et al. 2020): the whole frame somewhere on a larger black canvas.

Evaluation sees it in the middle. As in RAD's code, frames of 100 x 100 lie on 108 x 108, every
place is drawn, the last row and column included, and `obs` and `next_obs` lie at the same place.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from curl.augmentations.base import Augmentation, samples
from curl.checks import integer
from curl.data.batch import FrameStacks


class Translate(Augmentation):
    """The frames, unscaled, at a uniform place of a `size` x `size` canvas."""

    def __init__(self, *, size: int = 108) -> None:
        self.size = integer("size", size)

    def __call__(self, stacks: FrameStacks, generator: torch.Generator) -> Tensor:
        return self._place(stacks, *self._corners(stacks, generator))

    def pair(
        self, obs: FrameStacks, next_obs: FrameStacks, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        top, left = self._corners(obs, generator)
        return self._place(obs, top, left), self._place(next_obs, top, left)

    def evaluate(self, stacks: FrameStacks) -> Tensor:
        free = self._free(stacks)
        before, after = free // 2, free - free // 2
        return F.pad(stacks.whole(), (before, after, before, after))  # an exported policy can pad

    def _corners(self, stacks: FrameStacks, generator: torch.Generator) -> Tensor:
        """int64 [2, B]: the first row and column of each frame on its canvas."""
        places, shape = self._free(stacks) + 1, (2, len(stacks))
        return torch.randint(places, shape, generator=generator, device=generator.device)

    def _free(self, stacks: FrameStacks) -> int:
        """Pixels of an edge of the canvas that the frame leaves free."""
        if stacks.height > self.size:
            edge = f"{stacks.height} pixels do not fit a canvas of {self.size}"
            raise ValueError(f"frames of {edge}; give translate a larger size")
        return self.size - stacks.height

    def _place(self, stacks: FrameStacks, top: Tensor, left: Tensor) -> Tensor:
        frames = stacks.whole().permute(0, 2, 3, 1)  # [B, edge, edge, C]
        batch, edge, _, channels = frames.shape
        free = self.size - edge
        width = free + edge + free
        # black on both sides, and a black row below that stands for all rows outside of the frame
        padded = frames.new_zeros(batch, edge + 1, width, channels)
        padded[:, :edge, free : free + edge] = frames
        rows = torch.arange(self.size, device=top.device) - top[:, None]
        rows = torch.where((rows >= 0) & (rows < edge), rows, edge)
        first = samples(frames)[:, None] * (edge + 1) + rows
        first = first * width + free - left[:, None]
        # every horizontal run of `size` pixels, as overlapping rows of one view
        runs = padded.view(-1).unfold(0, self.size * channels, channels)
        view = runs.index_select(0, first.flatten())
        return view.view(batch, self.size, self.size, channels).permute(0, 3, 1, 2)
