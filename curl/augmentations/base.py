"""What every augmentation promises, and what those share that change pixels of a view.

A view is uint8 where the transform is exact in it, otherwise bfloat16 in [0, 1]. That is no coarser
than the frames (its steps are at most 1/256) and what the convolutions compute in: half the memory
traffic of float32, and no conversion afterwards.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from curl.checks import integer
from curl.data.batch import FrameStacks


class Augmentation(ABC):
    """Draws a random view of each stack, the same transform for all its frames.

    A view is [B, C, size, size], channels-last: uint8 in [0, 255], or float in [0, 1].
    """

    size: int
    """Edge of the view in pixels."""

    @abstractmethod
    def __call__(self, stacks: FrameStacks, generator: torch.Generator) -> Tensor:
        """A random view, independent between samples; randomness from `generator` alone."""

    @abstractmethod
    def evaluate(self, stacks: FrameStacks) -> Tensor:
        """The deterministic view that acting and evaluation use.

        It must be among the views that training draws, or as near to them as one likes: SAC acts
        on it.
        """

    def pair(
        self, obs: FrameStacks, next_obs: FrameStacks, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Random views of what was observed before and after an action.

        They are drawn independently of each other, `obs` first. An augmentation whose source lets
        the two share a transform overrides this, as `translate` does.
        """
        return self(obs, generator), self(next_obs, generator)


class PixelAugmentation(Augmentation):
    """Transforms the central window; evaluation sees the window itself.

    RAD (Laskin et al. 2020) transforms whole frames of 100 pixels instead. The window gives all
    augmentations but `translate` views of the crop's size, so that their encoders are alike.
    `compose` applies the transform to other views too.
    """

    def __init__(self, *, size: int = 84) -> None:
        self.size = integer("size", size)

    def __call__(self, stacks: FrameStacks, generator: torch.Generator) -> Tensor:
        return self.transform(stacks.centre(self.size), generator)

    def evaluate(self, stacks: FrameStacks) -> Tensor:
        return stacks.centre(self.size)

    @abstractmethod
    def transform(self, view: Tensor, generator: torch.Generator) -> Tensor:
        """A random transform of each sample of `view`, which it may overwrite.

        Args:
            view: [B, C, size, size], channels-last: uint8 in [0, 255] or float in [0, 1]. Channels
                are frame-major, RGB within a frame.

        Returns:
            The same shape and layout; uint8 or bfloat16.
        """


# -- shared by transforms --------------------------------------------------------------------------


def scaled(view: Tensor) -> Tensor:
    """The view as bfloat16 in [0, 1]."""
    if view.dtype == torch.uint8:
        return view.to(torch.bfloat16).div_(255)
    return view.to(torch.bfloat16)


def gathered(view: Tensor, sources: Tensor) -> Tensor:
    """Every pixel of a view, all channels alike, from another place of the same view.

    Args:
        view: [B, C, H, W], channels-last.
        sources: int [B, H', W'], row * W + column of the pixel to read.

    Returns:
        [B, C, H', W'], channels-last.
    """
    pixels = view.permute(0, 2, 3, 1).flatten(0, 2)  # [B * H * W, C]
    first = view.shape[2] * view.shape[3] * samples(view, sources.dtype)
    chosen = pixels.index_select(0, (first[:, None, None] + sources).flatten())
    return chosen.view(*sources.shape, -1).permute(0, 3, 1, 2)


def samples(view: Tensor, dtype: torch.dtype = torch.int64) -> Tensor:
    """[B]: 0, 1, 2, ..."""
    return torch.arange(len(view), dtype=dtype, device=view.device)


def uniform(low: float, high: float, count: int, generator: torch.Generator) -> Tensor:
    """float32 [count] from [low, high)."""
    draws = torch.rand(count, generator=generator, device=generator.device)
    return low + (high - low) * draws


def chosen(probability: float, count: int, generator: torch.Generator) -> Tensor:
    """bool [count]: which samples are transformed, each with `probability` for itself."""
    return uniform(0, 1, count, generator) < probability


def whole_below(limit: Tensor, generator: torch.Generator) -> Tensor:
    """int64 like `limit`, each uniform over 0, ..., limit - 1 (to within 2^-55 of its limit)."""
    shape, device = limit.shape, generator.device
    return torch.randint(2**62, shape, generator=generator, device=device) % limit


def blocks(view: Tensor, size: int, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """`view` and `others` side by side, `size` samples at a time on a CPU, all at once on a GPU.

    A CPU is faster while what it computes stays in its cache; a GPU when it is asked once.
    """
    together = size if view.device.type == "cpu" else len(view)
    return zip(*(tensor.split(together) for tensor in (view, *others)), strict=True)
