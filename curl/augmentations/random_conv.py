"""Random convolution (network randomisation, Lee et al. 2020; RAD, Laskin et al. 2020).

One random 3 x 3 convolution from RGB to RGB a sample, the same for all frames of a stack. Weights
N(0, 1), edges replicated, and a sigmoid that keeps views in [0, 1], as SODA (Hansen and Wang 2021)
does it. RAD draws one convolution for a whole batch, from Glorot's N(0, 2 / 54), and lets its
output be any real number; under a sigmoid those weights leave a view nearly without contrast.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from curl.augmentations.base import PixelAugmentation, blocks, gathered, scaled


class RandomConv(PixelAugmentation):
    """sigmoid(a random convolution of the view)."""

    def transform(self, view: Tensor, generator: torch.Generator) -> Tensor:
        shape, device = (len(view), 3, 3, 3, 3), generator.device
        return convolved(view, torch.randn(shape, generator=generator, device=device))


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
