"""What a trainer, an evaluation and a checkpoint need of an agent."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from curl.batch import Batch, FrameStacks, Metrics


class Agent(ABC):
    """Acts on frame stacks and learns from batches."""

    offsets: tuple[int, ...] = ()
    """Later time offsets that its batches must carry in `Batch.future`."""

    @abstractmethod
    def act(self, obs: FrameStacks, *, deterministic: bool) -> Tensor:
        """Actions float32 [B, A] in [-1, 1] for B stacks: the mean, or a sample."""

    @abstractmethod
    def update(self, batch: Batch) -> Metrics:
        """One gradient update; scalar metrics that stay on the device."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Everything that learning needs to go on, as tensors, numbers and dicts."""

    @abstractmethod
    def load(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`. `ValueError` where it does not fit."""
