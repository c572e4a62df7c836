"""Gaussian perturbation: x + N(0, sigma^2) on pixels scaled to [0, 1], clamped to [0, 1].

The key view of CURL's Gaussian variant, whose query view is clean. Noise has no transform to share:
it is drawn for every pixel and channel of every frame.

Where it differs: the normal distribution is drawn as one of 65,536 equally likely values, its
quantiles (|z| up to 4.3), from 16 random bits. On a CPU most of the time goes into random bits, and
`torch.randn` takes twice as many: `benchmarks/augmentations.py` has both.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from curl.augmentations.base import PixelAugmentation, blocks
from curl.checks import real

LEVELS = 2**16
CACHED = 8  # views whose noise, in float32, stays in a CPU's cache


class Gaussian(PixelAugmentation):
    """Independent noise of standard deviation `sigma`, in units of the pixel range."""

    def __init__(self, *, size: int = 84, sigma: float = 0.1) -> None:
        super().__init__(size=size)
        self.sigma = real("sigma", sigma, low=0, open_low=True)
        self._quantiles = (self.sigma * normal_quantiles(LEVELS)).float()

    def transform(self, view: Tensor, generator: torch.Generator) -> Tensor:
        self._quantiles = self._quantiles.to(view.device)  # copied at most once
        scale = 1 / 255 if view.dtype == torch.uint8 else 1
        noisy = torch.empty_like(view, dtype=torch.bfloat16)
        for clean, out in blocks(view, CACHED, noisy):
            levels = random_words(clean.numel(), generator).to(torch.int32)
            noise = self._quantiles.index_select(0, levels)
            noise = noise.view(clean.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2)  # channels-last
            out.copy_(noise.add_(clean, alpha=scale).clamp_(0, 1))
        return noisy


def normal_quantiles(count: int) -> Tensor:
    """float64 [count]: the standard normal distribution as `count` equally likely values."""
    middles = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return math.sqrt(2) * torch.erfinv(2 * middles - 1)


def random_words(count: int, generator: torch.Generator) -> Tensor:
    """uint16 [count], uniform over all 65,536 values: four from every 64 bits drawn."""
    draws = torch.empty(-(-count // 4), dtype=torch.int64, device=generator.device)
    draws.random_(-(2**63), None, generator=generator)  # all 64 bits
    return draws.view(torch.uint16)[:count]
