"""Random rotation by a multiple of 90 degrees (RAD, Laskin et al. 2020)."""

from __future__ import annotations

import torch
from torch import Tensor

from curl.augmentations.base import PixelAugmentation, gathered


class Rotate(PixelAugmentation):
    """The view turned anticlockwise by 0, 90, 180 or 270 degrees, equally likely."""

    def transform(self, view: Tensor, generator: torch.Generator) -> Tensor:
        height, width = view.shape[2:]
        turns = torch.randint(4, (len(view),), generator=generator, device=generator.device)
        pixels = torch.arange(height * width, dtype=torch.int32, device=view.device)
        pixels = pixels.view(height, width)
        sources = torch.stack([pixels.rot90(quarters) for quarters in range(4)])  # [4, H, W]
        return gathered(view, sources[turns])
