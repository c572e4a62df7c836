"""Random grayscale (RAD, Laskin et al. 2020): with a probability, every pixel becomes its luma.

As in RAD's code, 30 % of the samples become grey, each drawn for itself. Where it differs: RAD
truncates to whole grey levels, a bfloat16 view keeps eight significant bits. The weights are those
of ITU-R BT.601 (0.299, 0.587, 0.114) in steps of 1/512, which bfloat16 holds exactly and which sum
to 1, so white stays white; they move a luma by 0.3 grey levels at most.
"""

from __future__ import annotations

import torch
from torch import Tensor

from curl.augmentations.base import PixelAugmentation, chosen
from curl.checks import real

LUMA = (153 / 512, 300 / 512, 59 / 512)  # red, green, blue


class Grayscale(PixelAugmentation):
    """All frames of a stack grey with `probability`, otherwise in colour."""

    def __init__(self, *, size: int = 84, probability: float = 0.3) -> None:
        super().__init__(size=size)
        self.probability = real("probability", probability, low=0, high=1)
        frame = torch.tensor(LUMA)[:, None].expand(3, 3)  # rgb @ frame is (luma, luma, luma)
        self._mixtures = torch.stack([torch.eye(3), frame])  # in colour, grey

    def transform(self, view: Tensor, generator: torch.Generator) -> Tensor:
        batch, channels, height, width = view.shape
        grey = chosen(self.probability, batch, generator)
        self._mixtures = self._mixtures.to(view.device)  # copied at most once
        frames = torch.eye(channels // 3, device=view.device)
        mixtures = torch.stack([torch.kron(frames, mixture) for mixture in self._mixtures])
        mixtures = mixtures.to(torch.bfloat16)[grey.long()]  # [B, C, C], one matrix a sample
        pixels = view.permute(0, 2, 3, 1).reshape(batch, -1, channels).to(torch.bfloat16)
        mixed = torch.bmm(pixels, mixtures)  # in units of the view: levels up to 255 are exact
        if view.dtype == torch.uint8:
            mixed.div_(255)
        return mixed.view(batch, height, width, channels).permute(0, 3, 1, 2)
