"""Cutout in colour (RAD, Laskin et al. 2020): a random rectangle of a random colour.

Differs from RAD's code, which draws a colour of its own for each frame of a stack, and whose
training writes colours in [0, 1) into pixels that are still integers, which makes them black.
Here one colour serves all frames, any of 256^3. Place and probability are `cutout`'s.
"""

from __future__ import annotations

import torch
from torch import Tensor

from curl.augmentations.cutout import Cutout


class CutoutColor(Cutout):
    """Cutout's rectangle in one colour, uniform over RGB, in all frames of a stack."""

    def colours(self, view: Tensor, generator: torch.Generator) -> Tensor:
        shape, device = (len(view), 3), generator.device
        colours = torch.randint(256, shape, generator=generator, device=device)
        colours = colours.repeat(1, view.shape[1] // 3)  # [B, C], frame-major
        return (colours if view.dtype == torch.uint8 else colours / 255).to(view.dtype)
