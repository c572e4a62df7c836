"""What every augmentation promises."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from curl.batch import FrameStacks


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
        """The deterministic view that acting and evaluation use."""
