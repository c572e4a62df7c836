"""Random rotation by a multiple of 90 degrees (RAD, Laskin et al. 2020).

As in RAD's code, 30 % of the samples are turned, by one of three angles, and the views of `obs` and
`next_obs` are turned independently.
"""

from __future__ import annotations

import torch
from torch import Tensor

from curl.augmentations.base import PixelAugmentation, chosen, gathered
from curl.checks import real


class Rotate(PixelAugmentation):
    """The view turned, with `probability`, by 90, 180 or 270 degrees anticlockwise alike."""

    def __init__(self, *, size: int = 84, probability: float = 0.3) -> None:
        super().__init__(size=size)
        self.probability = real("probability", probability, low=0, high=1)

    def transform(self, view: Tensor, generator: torch.Generator) -> Tensor:
        height, width = view.shape[2:]
        turned = chosen(self.probability, len(view), generator)
        turns = torch.randint(1, 4, (len(view),), generator=generator, device=generator.device)
        pixels = torch.arange(height * width, dtype=torch.int32, device=view.device)
        pixels = pixels.view(height, width)
        sources = torch.stack([pixels.rot90(quarters) for quarters in range(4)])  # [4, H, W]
        return gathered(view, sources[turns * turned])
