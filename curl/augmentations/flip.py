"""Random horizontal flip (RAD, Laskin et al. 2020): left and right change places.

As in RAD's code, a fifth of the samples is flipped, and whether the view of `obs` is flipped says
nothing about that of `next_obs`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from curl.augmentations.base import PixelAugmentation, chosen, gathered
from curl.checks import real


class Flip(PixelAugmentation):
    """The view mirrored with `probability`."""

    def __init__(self, *, size: int = 84, probability: float = 0.2) -> None:
        super().__init__(size=size)
        self.probability = real("probability", probability, low=0, high=1)

    def transform(self, view: Tensor, generator: torch.Generator) -> Tensor:
        height, width = view.shape[2:]
        flipped = chosen(self.probability, len(view), generator)
        pixels = torch.arange(height * width, dtype=torch.int32, device=view.device)
        pixels = pixels.view(height, width)
        sources = torch.stack([pixels, pixels.flip(1)])  # [2, H, W]
        return gathered(view, sources[flipped.long()])
