"""Random crop: CURL's augmentation (section 4.4): 100 x 100 -> 84 x 84, centre crop to evaluate.

Differs from CURL's reference code, whose exclusive upper bound never draws the last offset: all
render_size - size + 1 offsets are drawn here, as in RAD's code. `last_offset: false` brings the
reference's back. Both draw the windows of `obs` and `next_obs` independently, and so does this.
"""

from __future__ import annotations

import torch
from torch import Tensor

from curl.augmentations.base import Augmentation
from curl.checks import integer
from curl.data.batch import FrameStacks


class Crop(Augmentation):
    """A `size` x `size` window at an offset drawn uniformly, one for all frames of a stack."""

    def __init__(self, *, size: int = 84, last_offset: bool = True) -> None:
        self.size = integer("size", size)
        self.last_offset = last_offset

    def __call__(self, stacks: FrameStacks, generator: torch.Generator) -> Tensor:
        top = self._offsets(len(stacks), stacks.height, generator)
        left = self._offsets(len(stacks), stacks.width, generator)
        return stacks.window(top, left, self.size)

    def evaluate(self, stacks: FrameStacks) -> Tensor:
        return stacks.centre(self.size)

    def _offsets(self, count: int, edge: int, generator: torch.Generator) -> Tensor:
        offsets = max(1, edge - self.size + int(self.last_offset))
        if edge < self.size:
            raise ValueError(f"a crop of {self.size} pixels does not fit frames of {edge}")
        return torch.randint(offsets, (count,), generator=generator, device=generator.device)
