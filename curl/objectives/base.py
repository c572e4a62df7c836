"""What every objective promises."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from curl.batch import Metrics


class Objective(nn.Module, ABC):
    """Scores query latents against key latents; its parameters are trained with the encoder."""

    offset: int = 0
    """How many agent steps after the query's observation the positive key is observed."""

    @abstractmethod
    def forward(self, query: Tensor, key: Tensor) -> tuple[Tensor, Metrics]:
        """Query [B, D] (with gradient), key [B, D] (without) -> scalar loss and metrics."""
