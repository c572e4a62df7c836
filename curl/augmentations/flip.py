"""Random horizontal flip (RAD, Laskin et al. 2020): left and right change places."""

from __future__ import annotations

import torch
from torch import Tensor

from curl.augmentations.base import PixelAugmentation, gathered, uniform
from curl.checks import real


class Flip(PixelAugmentation):
    """The view mirrored with `probability`."""

    def __init__(self, *, size: int = 84, probability: float = 0.5) -> None:
        super().__init__(size=size)
        self.probability = real("flip probability", probability, low=0, high=1)

    def transform(self, view: Tensor, generator: torch.Generator) -> Tensor:
        height, width = view.shape[2:]
        flipped = uniform(0, 1, len(view), generator) < self.probability
        pixels = torch.arange(height * width, dtype=torch.int32, device=view.device)
        pixels = pixels.view(height, width)
        sources = torch.stack([pixels, pixels.flip(1)])  # [2, H, W]
        return gathered(view, sources[flipped.long()])
