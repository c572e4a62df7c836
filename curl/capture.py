"""CUDA graphs: an update is recorded once and replayed as one launch.

An update on a GPU is some six hundred small kernels; launching them one by one takes longer than
computing them. Recording changes no arithmetic. Whatever the update does on the host (the actor
learns on every second update) repeats with a period, so there is one graph for each phase of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from curl.batch import Metrics

log = logging.getLogger("curl")

WARM_UP = 3  # eager updates of each phase before it is recorded: cuDNN and Adam settle on them


class Recording(Protocol):
    """What `torch.cuda.graph` makes; tests give one that runs on the CPU."""

    def replay(self) -> None:
        """Run the recorded work again, on the same memory."""


def record_cuda(work: Callable[[], None], generator: torch.Generator) -> Recording:
    """Record `work` in a CUDA graph; recording executes nothing."""
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        work()
    return graph


class Captured:
    """`learn(*views)` with the same results, replayed from recordings after some eager calls.

    Args:
        learn: maps tensors of fixed shapes (or None) to metrics; changes its own state in place.
        period: calls after which what `learn` does on the host repeats.
        generator: source of the randomness inside `learn`.
        eager: never record, only call `learn`.
        record: makes a recording of a function without arguments.
    """

    def __init__(
        self,
        learn: Callable[..., Metrics],
        *,
        period: int,
        generator: torch.Generator,
        eager: bool = False,
        record: Callable[[Callable[[], None], torch.Generator], Recording] = record_cuda,
    ) -> None:
        self._learn, self._period, self._generator, self._record = learn, period, generator, record
        self._eager = eager
        self.forget()

    def forget(self) -> None:
        """Begin anew: `learn`'s own tensors are others now."""
        self._inputs: dict[int, list[Tensor | None]] = {}  # by phase
        self._recordings: dict[int, tuple[Recording, Metrics]] = {}
        self._calls = 0

    def __call__(self, call: int, *views: Tensor | None) -> Metrics:
        """Update number `call`; its phase is `call` modulo the period."""
        phase = call % self._period
        self._calls += 1
        if self._eager or self._calls <= WARM_UP * self._period:
            return self._learn(*views)
        if phase not in self._inputs:
            self._inputs[phase] = [None if v is None else torch.empty_like(v) for v in views]
        for place, view in zip(self._inputs[phase], views, strict=True):
            if place is not None and view is not None:
                place.copy_(view)
        if phase not in self._recordings and not self._try_to_record(phase):
            return self._learn(*views)
        recording, metrics = self._recordings[phase]
        recording.replay()
        return dict(metrics)

    def _try_to_record(self, phase: int) -> bool:
        metrics: dict[str, Any] = {}
        try:
            recording = self._record(
                lambda: metrics.update(self._learn(*self._inputs[phase])), self._generator
            )
        except RuntimeError as error:
            reason = (str(error).splitlines() or ["no reason given"])[0]
            log.warning("updates run eagerly, they cannot be captured: %s", reason)
            self._eager = True
            return False
        self._recordings[phase] = (recording, metrics)
        return True
