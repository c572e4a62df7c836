"""Random inversion: with a probability, every pixel of a stack becomes its negative."""

import torch
from torch import Tensor

from curl.augmentations.base import PixelAugmentation, chosen, scaled
from curl.checks import real


class Invert(PixelAugmentation):
    """All frames of a stack negative with `probability`, otherwise as they are."""

    def __init__(self, *, size: int = 84, probability: float = 0.5) -> None:
        super().__init__(size=size)
        self.probability = real("probability", probability, low=0, high=1)

    def transform(self, view: Tensor, generator: torch.Generator) -> Tensor:
        inverted = chosen(self.probability, len(view), generator)  # one draw per stack, [B]
        pixels = scaled(view)  # bfloat16 in [0, 1], [B, C, H, W]
        return torch.where(inverted[:, None, None, None], 1 - pixels, pixels)
