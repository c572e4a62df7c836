"""Cutout (RAD, Laskin et al. 2020, after DeVries and Taylor 2017): a random black rectangle.

Differs from RAD's code, which takes a rectangle's height for its distance from the top as well, and
its width for that from the left, and whose exclusive bound never draws the longest edge. Here edges
and place are independent, and the rectangle lies anywhere within the view. RAD covers part of every
view, while its agent acts on views without a rectangle. Here half of the views stay whole, as
DeVries and Taylor (section 3.2) propose for rectangles that lie within the image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from curl.augmentations.base import PixelAugmentation, chosen, samples, whole_below
from curl.checks import integer, real


class Cutout(PixelAugmentation):
    """With `probability`, a rectangle of `min_edge` to `max_edge` pixels, black in all frames."""

    def __init__(
        self, *, size: int = 84, min_edge: int = 10, max_edge: int = 30, probability: float = 0.5
    ) -> None:
        super().__init__(size=size)
        self.min_edge = integer("min_edge", min_edge)
        self.max_edge = integer("max_edge", max_edge)
        self.probability = real("probability", probability, low=0, high=1)
        if self.max_edge < self.min_edge:
            raise ValueError(f"max_edge {max_edge} is below min_edge {min_edge}")
        if self.max_edge > self.size:
            raise ValueError(f"max_edge {max_edge} does not fit a view of {self.size} pixels")

    def transform(self, view: Tensor, generator: torch.Generator) -> Tensor:
        _, channels, height, width = view.shape
        rows = self._span(len(view), height, generator)
        columns = self._span(len(view), width, generator)
        places = (samples(view)[:, None] * height + rows)[:, :, None] * width + columns[:, None]
        places = places.flatten(1)  # [B, max_edge ** 2]
        colours = self.colours(view, generator)[:, None]  # [B, 1, C]
        pixels = view.permute(0, 2, 3, 1).flatten(0, 2)  # the view's own memory
        before = pixels.index_select(0, places.flatten()).view(*places.shape, channels)
        covered = chosen(self.probability, len(view), generator)[:, None, None]
        after = torch.where(covered, colours, before)
        pixels.index_copy_(0, places.flatten(), after.flatten(0, 1))
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
