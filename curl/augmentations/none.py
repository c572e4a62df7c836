"""No augmentation: the central window of the rendered frames, as it is.

The control of RAD (Laskin et al. 2020) and the clean side of CURL's Gaussian variant.
"""

from __future__ import annotations

import torch
from torch import Tensor

from curl.augmentations.base import PixelAugmentation


class NoAugmentation(PixelAugmentation):
    """The window that evaluation sees, in training too."""

    def transform(self, view: Tensor, generator: torch.Generator) -> Tensor:
        return view
