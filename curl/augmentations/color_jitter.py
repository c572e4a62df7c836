"""Colour jitter in HSV (RAD, Laskin et al. 2020): brightness, contrast, saturation and hue.

As in RAD's code, every view is jittered by factors of its own, from RAD's ranges. The clean view
that the agent acts on is the middle of them.

Contrast is scaled about the mean colour of the stack, then saturation and value (brightness) are
scaled and the hue is turned; everything is clamped to [0, 1]. One set of factors for all frames.

Differs from RAD's code: contrast comes first instead of first or last at random, and about the mean
of the stack instead of each frame's; the hue of 0.5 turns reaches the whole circle (RAD multiplies
it by 255/360, and reaches 0.354 turns).
"""

from __future__ import annotations

import torch
from torch import Tensor

from curl.augmentations.base import PixelAugmentation, blocks, chosen, uniform
from curl.checks import real

CACHED = 8  # views whose planes, in float32, stay in a CPU's cache
EPSILON = 1e-6


class ColorJitter(PixelAugmentation):
    """Factors from [1 - x, 1 + x] for brightness, contrast and saturation; hue in turns.

    `probability` is that of a jittered view; the others keep their colours.
    """

    def __init__(
        self,
        *,
        size: int = 84,
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.4,
        hue: float = 0.5,
        probability: float = 1.0,
    ) -> None:
        super().__init__(size=size)
        self.brightness = real("brightness", brightness, low=0, high=1)
        self.contrast = real("contrast", contrast, low=0, high=1)
        self.saturation = real("saturation", saturation, low=0, high=1)
        self.hue = real("hue", hue, low=0, high=0.5)
        self.probability = real("probability", probability, low=0, high=1)

    def transform(self, view: Tensor, generator: torch.Generator) -> Tensor:
        jittered = torch.empty_like(view, dtype=torch.bfloat16)
        jitters = chosen(self.probability, len(view), generator)
        factors = [
            torch.where(
                jitters, uniform(middle - reach, middle + reach, len(view), generator), middle
            )[:, None]
            for middle, reach in (
                (1, self.brightness),
                (1, self.contrast),
                (1, self.saturation),
                (0, self.hue),
            )
        ]
        for clean, out, *drawn in blocks(view, CACHED, jittered, *factors):
            jitter(colours(clean), colours(out), *drawn)
        return jittered


def colours(view: Tensor) -> list[Tensor]:
    """The red, green and blue planes of [B, C, H, W], channels-last: three of [B, H * W * S]."""
    return list(view.permute(0, 2, 3, 1).reshape(len(view), -1, 3).unbind(-1))


def jitter(
    clean: list[Tensor],
    out: list[Tensor],
    brightness: Tensor,
    contrast: Tensor,
    saturation: Tensor,
    turn: Tensor,
) -> None:
    """Write the jittered planes of `clean` (red, green, blue, [B, P]) to `out`; factors [B, 1]."""
    planes = []
    for plane in clean:
        levels = plane.dtype == torch.uint8
        plane = plane.to(torch.float32).div_(255) if levels else plane.to(torch.float32)
        planes.append(torch.lerp(plane.mean(1, keepdim=True), plane, contrast).clamp_(0, 1))
    red, green, blue = planes
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    scale = (chroma + EPSILON).reciprocal_()
    # hue in sixths of a turn: red 0, green 2, blue 4
    hue = torch.where(value == green, (blue - red) * scale + 2, (red - green) * scale + 4)
    hue = torch.where(value == red, (green - blue) * scale, hue)
    hue = hue.add_(6 * turn).remainder_(6)
    share = chroma.div_(value + EPSILON).mul_(saturation).clamp_(max=1)  # the new saturation
    value = value.mul_(brightness).clamp_(max=1)
    chroma = share.mul_(value)
    value = value.sub_(chroma)  # now the smallest of the three channels
    out[0].copy_(((hue - 3).abs_() - 1).clamp_(0, 1).mul_(chroma).add_(value))
    out[1].copy_((2 - (hue - 2).abs_()).clamp_(0, 1).mul_(chroma).add_(value))
    out[2].copy_((2 - (hue - 4).abs_()).clamp_(0, 1).mul_(chroma).add_(value))
