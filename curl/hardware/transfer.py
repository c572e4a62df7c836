"""Copies between host and GPU that wait for nothing which was launched after them.

A plain copy (`.cpu()`, `.item()`, `copy_` from ordinary memory) waits for all that the GPU has been
given so far, an update of several milliseconds included. From and to pinned memory it does not.
"""

from __future__ import annotations

import torch
from torch import Tensor


class ToHost:
    """A tensor that is copied to the host beside what the GPU computes next."""

    def __init__(self, tensor: Tensor) -> None:
        self._there, self._arrival = tensor, None
        if tensor.device.type == "cuda":
            self._there = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._there.copy_(tensor, non_blocking=True)
            self._arrival = torch.cuda.Event()
            self._arrival.record(torch.cuda.current_stream(tensor.device))

    def arrived(self) -> bool:
        """Whether `get` returns at once."""
        return self._arrival is None or self._arrival.query()

    def get(self) -> Tensor:
        """The tensor, in ordinary memory."""
        if self._arrival is None:
            return self._there
        self._arrival.synchronize()
        return self._there.clone()


def put(target: Tensor, source: Tensor) -> None:
    """Copy `source`, on the host, to `target`, on any device. `source` may change afterwards."""
    if target.device.type == "cuda":
        source = source.pin_memory()
    target.copy_(source, non_blocking=True)
