"""Cutout (RAD, Laskin et al. 2020, after DeVries and Taylor 2017): a random black rectangle.

Differs from RAD's code, which draws one number for a rectangle's edge and its offset, so that it
only lies on the diagonal, and whose exclusive bound never draws the longest edge: here edges and
place are independent, and the rectangle lies anywhere within the view.
"""

from __future__ import annotations

import torch
from torch import Tensor

from curl.augmentations.base import PixelAugmentation, samples, whole_below
from curl.checks import whole


class Cutout(PixelAugmentation):
    """A rectangle with edges of `min_edge` to `max_edge` pixels, black in all frames."""

    def __init__(self, *, size: int = 84, min_edge: int = 10, max_edge: int = 30) -> None:
        super().__init__(size=size)
        self.min_edge = whole("cutout min_edge", min_edge)
        self.max_edge = whole("cutout max_edge", max_edge)
        if self.max_edge < self.min_edge:
            raise ValueError(f"cutout max_edge {max_edge} is below min_edge {min_edge}")
        if self.max_edge > self.size:
            raise ValueError(
                f"cutout max_edge {max_edge} does not fit a view of {self.size} pixels"
            )

    def transform(self, view: Tensor, generator: torch.Generator) -> Tensor:
        _, channels, height, width = view.shape
        rows = self._span(len(view), height, generator)
        columns = self._span(len(view), width, generator)
        places = (samples(view)[:, None] * height + rows)[:, :, None] * width + columns[:, None]
        places = places.flatten(1)  # [B, max_edge ** 2]
        colours = self.colours(view, generator)[:, None].expand(*places.shape, channels)
        pixels = view.permute(0, 2, 3, 1).flatten(0, 2)  # the view's own memory
        pixels.index_copy_(0, places.flatten(), colours.flatten(0, 1))
        return view

    def colours(self, view: Tensor, generator: torch.Generator) -> Tensor:
        """The rectangles' colours, [B, C]."""
        return view.new_zeros(view.shape[:2])

    def _span(self, count: int, edge: int, generator: torch.Generator) -> Tensor:
        """int64 [count, max_edge]: the rows (or columns) of the rectangles.

        A shorter span repeats its last one: writing a pixel twice costs less than shapes that
        depend on what was drawn, which a GPU would have to be asked for.
        """
        device = generator.device
        length = torch.randint(
            self.min_edge, self.max_edge + 1, (count, 1), generator=generator, device=device
        )
        first = whole_below(edge - length + 1, generator)
        return first + torch.arange(self.max_edge, device=device).minimum(length - 1)
