"""Random convolution (network randomisation, Lee et al. 2020; RAD, Laskin et al. 2020).

Each sample has a random 3 x 3 convolution from RGB to RGB of its own, as in RAD's code; it is the
same for all frames of a stack. SAC acts on clean views, so a tenth of the views that it learns from
stay clean, as Lee et al. have it; RAD convolves all of them.

What else differs from RAD's code: weights N(0, 1), edges replicated, and a sigmoid that keeps views
in [0, 1], as SODA (Hansen and Wang 2021) does it. RAD draws Glorot's N(0, 2 / 54), pads with zeros
and lets its output be any real number, which no view of ours is; under a sigmoid those weights
would leave a view nearly without contrast.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from curl.augmentations.base import PixelAugmentation, blocks, chosen, gathered, scaled
from curl.checks import real


class RandomConv(PixelAugmentation):
    """sigmoid(a random convolution of the view) with `probability`, otherwise the view."""

    def __init__(self, *, size: int = 84, probability: float = 0.9) -> None:
        super().__init__(size=size)
        self.probability = real("probability", probability, low=0, high=1)

    def transform(self, view: Tensor, generator: torch.Generator) -> Tensor:
        shape, device = (len(view), 3, 3, 3, 3), generator.device
        random = convolved(view, torch.randn(shape, generator=generator, device=device))
        changed = chosen(self.probability, len(view), generator)[:, None, None, None]
        return torch.where(changed, random, scaled(view))


def convolved(view: Tensor, kernels: Tensor) -> Tensor:
    """sigmoid(convolution of every frame with its sample's kernel), bfloat16, channels-last.

    Args:
        view: [B, C, H, W], channels-last.
        kernels: float32 [B, 3, 3, 3, 3]: a sample's output and input colours, rows and columns.
    """
    _, channels, height, width = view.shape
    frames = torch.eye(channels // 3, device=view.device)
    # a frame sees itself alone: [B, frame and colour out, frame and colour in, 3, 3]
    kernels = torch.einsum("st,boiyx->bsotiyx", frames, kernels).flatten(1, 2).flatten(2, 3)
    out = torch.empty_like(view, dtype=torch.bfloat16)
    for clean, kernel, random in blocks(bordered(view), 1, kernels.to(torch.bfloat16), out):
        # samples side by side, as groups of channels
        pixels = scaled(clean).permute(2, 3, 0, 1).flatten(2)[None].permute(0, 3, 1, 2)
        mixed = F.conv2d(pixels, kernel.flatten(0, 1), groups=len(clean))
        random.copy_(mixed.sigmoid_().view(len(clean), channels, height, width))
    return out


def bordered(view: Tensor) -> Tensor:
    """The view with its outermost pixels once more around it: [B, C, H + 2, W + 2]."""
    rows, columns = (
        torch.arange(-1, edge + 1, dtype=torch.int32, device=view.device).clamp_(0, edge - 1)
        for edge in view.shape[2:]
    )
    sources = rows[:, None] * view.shape[3] + columns
    return gathered(view, sources.expand(len(view), -1, -1))
