"""CUDA graphs: an update is recorded once and replayed as one launch.

An update on a GPU is some six hundred small kernels; launching them one by one takes longer than
computing them. Recording changes no arithmetic. Whatever the update does on the host (the actor
learns on every second update) repeats with a period, so there is one graph for each phase of it.

How to record follows PyTorch's notes on CUDA graphs. They ask for some eager updates on a side
stream first, since cuDNN, cuBLAS and Adam allocate what they need the first time that a stream uses
them; here it is the very stream that is captured afterwards.

All phases share one memory pool, and so need the memory of the largest and not of their sum. That
is safe for graphs that never run at the same time (all are launched on one stream), as long as none
reads what another one left in the pool. None does: weights, moving averages, Adam's moments and the
inputs lie outside, each graph writes its gradients before it reads them, and the metrics are copied
out of the pool right after their replay, before the next graph can overwrite them.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.cuda.memory import _cuda_endAllocateToPool as end_allocations  # pyright: ignore
from torch.cuda.memory import _cuda_releasePool as release_pool  # pyright: ignore

from curl.data.batch import Metrics

log = logging.getLogger("curl")

WARM_UP = 3  # eager updates of each phase before it is recorded

Work = Callable[[], Metrics]


class Recording(Protocol):
    """Work that can be done again; the tensors it returned are then overwritten."""

    def replay(self) -> None:
        """Do the recorded work, on the same memory."""


class Recorder(Protocol):
    """What makes recordings: `CudaRecorder`; tests give one that runs on the CPU."""

    def warm_up(self, work: Work) -> Metrics:
        """Do `work` eagerly, as the recorded work will be done."""
        ...

    def record(self, work: Callable[[], None]) -> Recording:
        """Record `work` without doing it. `RuntimeError` if that cannot be done."""
        ...


class CudaRecorder:
    """Records CUDA graphs on a stream of its own, in one memory pool.

    Args:
        generator: source of the randomness inside the recorded work, on the GPU it runs on.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator
        self._device = generator.device
        self._stream = torch.cuda.Stream(self._device)
        self._pool = torch.cuda.graph_pool_handle()

    def warm_up(self, work: Work) -> Metrics:
        """Do `work` on the side stream, after all that was launched and before all that will be.

        Both streams wait for each other, so memory may be freed on either without further ado.
        """
        ours = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(ours)
        with torch.cuda.stream(self._stream):
            metrics = work()
        ours.wait_stream(self._stream)
        return metrics

    def record(self, work: Callable[[], None]) -> Recording:
        """Record `work` in a CUDA graph.

        After a capture that fails everything is as it was before, so that work can go on eagerly:
        `torch.cuda.graph` would leave its stream the current one if the capture cannot be ended,
        random generators as if a capture were under way (they then refuse to draw), and the
        allocator waiting for the capture's end.
        """
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._generator)
        index = self._device.index or 0
        generators = [self._generator, torch.cuda.default_generators[index]]
        states = [generator.clone_state() for generator in generators]
        try:
            with (
                torch.cuda.stream(self._stream),  # restores the caller's stream in any case
                torch.cuda.graph(graph, pool=self._pool, stream=self._stream),
            ):
                work()
        except BaseException:
            for generator, state in zip(generators, states, strict=True):
                generator.graphsafe_set_state(state)
            with contextlib.suppress(RuntimeError):
                # It raises where PyTorch has done it, which is wherever the capture could be ended.
                end_allocations(index, self._pool)
                release_pool(index, self._pool)
            raise
        return graph


class Captured:
    """`learn(*views)` with the same results, replayed from recordings after some eager calls.

    Args:
        learn: maps tensors (or None) to scalar metrics; changes its own state in place, and on the
            host nothing that a repetition would need.
        period: calls after which what `learn` does on the host repeats.
        generator: source of the randomness inside `learn`.
        eager: never record, only call `learn`.
        recorder: makes what records.
    """

    def __init__(
        self,
        learn: Callable[..., Metrics],
        *,
        period: int,
        generator: torch.Generator,
        eager: bool = False,
        recorder: Callable[[torch.Generator], Recorder] = CudaRecorder,
    ) -> None:
        self._learn, self._period, self._generator = learn, period, generator
        self._make_recorder, self._eager = recorder, eager
        self.forget()

    def forget(self) -> None:
        """Begin anew: `learn`'s own tensors are others now.

        The recorder goes too: a memory pool ends with the last graph in it.
        """
        self._recordings: dict[int, Recorded] = {}  # by phase
        self._places: dict[tuple[int, torch.Size, torch.dtype], Tensor] = {}  # filled before use
        self._recorder: Recorder | None = None
        self._calls = 0

    def __call__(self, call: int, *views: Tensor | None) -> Metrics:
        """Update number `call`; its phase is `call` modulo the period.

        Views of other shapes or dtypes than were recorded (another batch size, say) are learnt from
        eagerly.
        """
        if self._eager:
            return self._learn(*views)
        if self._recorder is None:
            self._recorder = self._make_recorder(self._generator)
        if self._calls < WARM_UP * self._period:
            self._calls += 1
            return self._recorder.warm_up(lambda: self._learn(*views))
        phase = call % self._period
        if phase not in self._recordings and not self._try_to_record(phase, views):
            return self._learn(*views)
        recorded = self._recordings[phase]
        if not recorded.fits(views):
            return self._learn(*views)
        recorded.fill(views)
        recorded.recording.replay()
        # Copied out: the recording's own are overwritten by the next replay, even of another phase.
        return dict(zip(recorded.names, recorded.metrics.clone().unbind(), strict=True))

    def _try_to_record(self, phase: int, views: tuple[Tensor | None, ...]) -> bool:
        """Record a phase; if that fails, say so once, free all recordings and stay eager."""
        assert self._recorder is not None
        outputs: list[tuple[tuple[str, ...], Tensor]] = []
        try:
            places = [self._place(i, view) for i, view in enumerate(views)]

            def work() -> None:
                metrics = self._learn(*places)
                outputs.append((tuple(metrics), torch.stack([*metrics.values()])))

            recording = self._recorder.record(work)
        except RuntimeError as error:
            reason = (str(error).splitlines() or ["no reason given"])[0]
            log.warning("updates run eagerly, they cannot be captured: %s", reason)
            self.forget()
            self._eager = True
            return False
        self._recordings[phase] = Recorded(recording, places, *outputs[-1])
        return True

    def _place(self, position: int, view: Tensor | None) -> Tensor | None:
        """Memory that recordings read an input from; phases take turns and share it."""
        if view is None:
            return None
        form = (position, view.shape, view.dtype)
        if form not in self._places:
            self._places[form] = torch.empty_like(view)
        return self._places[form]


@dataclass(frozen=True)
class Recorded:
    """A recording of one phase, where it reads its inputs, and the metrics that it writes, [M]."""

    recording: Recording
    places: list[Tensor | None]
    names: tuple[str, ...]
    metrics: Tensor

    def fits(self, views: tuple[Tensor | None, ...]) -> bool:
        """Whether `views` have the shapes and dtypes that were recorded."""
        pairs = zip(self.places, views, strict=False)
        return len(views) == len(self.places) and all(
            (place is None and view is None)
            or (place is not None and view is not None and same_form(place, view))
            for place, view in pairs
        )

    def fill(self, views: tuple[Tensor | None, ...]) -> None:
        """Copy the inputs of the next replay to where it reads them."""
        for place, view in zip(self.places, views, strict=True):
            if place is not None and view is not None:
                place.copy_(view)


def same_form(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors agree in shape and dtype: a copy would broadcast or convert others."""
    return one.shape == other.shape and one.dtype == other.dtype
