"""Random shift: DrQ's augmentation (Kostrikov, Yarats and Fergus 2020, section 3.1).

The view is padded by `pad` replicated pixels on each side and a window of its own size is cut from
that at a uniform offset. DrQ renders 84 x 84 frames; here the view is the central window of 100.
"""

from __future__ import annotations

import torch
from torch import Tensor

from curl.augmentations.base import PixelAugmentation, gathered
from curl.checks import integer


class Shift(PixelAugmentation):
    """The view moved by -pad to pad whole pixels along each axis, its edges drawn out."""

    def __init__(self, *, size: int = 84, pad: int = 4) -> None:
        super().__init__(size=size)
        self.pad = integer("pad", pad)

    def transform(self, view: Tensor, generator: torch.Generator) -> Tensor:
        height, width = view.shape[2:]
        rows = self._places(len(view), height, generator)
        columns = self._places(len(view), width, generator)
        return gathered(view, rows[:, :, None] * width + columns[:, None])

    def _places(self, count: int, edge: int, generator: torch.Generator) -> Tensor:
        """int32 [count, edge]: where each row (or column) comes from."""
        moves = torch.randint(
            -self.pad, self.pad + 1, (count, 1), generator=generator, device=generator.device
        )
        places = torch.arange(edge, device=moves.device) + moves
        return places.clamp_(0, edge - 1).to(torch.int32)
