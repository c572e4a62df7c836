"""CUDA graphs: an update is recorded once and replayed as one launch, and so is acting.

An update on a GPU is some six hundred small kernels; launching them one by one takes longer than
computing them. Acting is some sixty, which compute hardly anything. Recording changes no
arithmetic. Whatever the update does on the host (the actor learns on every second update) repeats
with a period, so there is one graph for each phase of it.

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
import gc
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.cuda.memory import _cuda_endAllocateToPool as end_allocations  # pyright: ignore
from torch.cuda.memory import _cuda_releasePool as release_pool  # pyright: ignore

from curl.data.batch import Metrics

log = logging.getLogger("curl")

WARM_UP = 3  # eager calls of each phase and form before it is recorded

Work = Callable[[], Metrics]
Views = tuple[Tensor | None, ...]
Form = tuple[tuple[torch.Size, torch.dtype] | None, ...]


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

        Python collects no garbage meanwhile: if it came upon the graphs of an agent that is gone,
        their end would end the capture.

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
                no_garbage_collection(),
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


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Objects that refer to each other live on within."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Captured:
    """`learn(*views)` with the same results, replayed from recordings after some eager calls.

    Args:
        learn: maps tensors (or None) to named tensors of one shape, such as scalar metrics; changes
            its own state in place, and on the host nothing that a repetition would need.
        period: calls after which what `learn` does on the host repeats.
        generator: source of the randomness inside `learn`.
        eager: never record, only call `learn`.
        forms: how many forms of views (shapes and dtypes) are recorded. Of others, the result is
            computed eagerly.
        what: what `learn` does, for a message.
        recorder: makes what records.
    """

    def __init__(
        self,
        learn: Callable[..., Metrics],
        *,
        period: int,
        generator: torch.Generator,
        eager: bool = False,
        forms: int = 1,
        what: str = "updates",
        recorder: Callable[[torch.Generator], Recorder] = CudaRecorder,
    ) -> None:
        self._learn, self._period, self._generator = learn, period, generator
        self._make_recorder, self._eager = recorder, eager
        self._forms, self._what = forms, what
        self.forget()

    def forget(self) -> None:
        """Begin anew: `learn`'s own tensors are others now.

        The recorder goes too: a memory pool ends with the last graph in it.
        """
        self._calls: dict[int, dict[Form, int]] = {}  # eager ones, by phase and form
        self._recordings: dict[tuple[int, Form], Recorded] = {}
        self._places: dict[tuple[int, torch.Size, torch.dtype], Tensor] = {}  # filled before use
        self._recorder: Recorder | None = None

    def __call__(self, call: int, *views: Tensor | None) -> Metrics:
        """Call number `call`; its phase is `call` modulo the period."""
        phase, form = call % self._period, form_of(views)
        calls = self._calls.setdefault(phase, {})
        if self._eager or (form not in calls and len(calls) == self._forms):
            return self._learn(*views)
        if self._recorder is None:
            self._recorder = self._make_recorder(self._generator)
        if calls.setdefault(form, 0) < WARM_UP:
            calls[form] += 1
            return self._recorder.warm_up(lambda: self._learn(*views))
        recorded = self._recordings.get((phase, form)) or self._try_to_record(phase, form, views)
        if recorded is None:
            return self._learn(*views)
        recorded.fill(views)
        recorded.recording.replay()
        # Copied out: the recording's own are overwritten by the next replay, even of another phase.
        return dict(zip(recorded.names, recorded.results.clone().unbind(), strict=True))

    def _try_to_record(self, phase: int, form: Form, views: Views) -> Recorded | None:
        """Record a call; if that fails, say so once, free all recordings and stay eager."""
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
            log.warning("%s run eagerly, they cannot be captured: %s", self._what, reason)
            self.forget()
            self._eager = True
            return None
        recorded = Recorded(recording, places, *outputs[-1])
        self._recordings[phase, form] = recorded
        return recorded

    def _place(self, position: int, view: Tensor | None) -> Tensor | None:
        """Memory that recordings read an input from; phases take turns and share it."""
        if view is None:
            return None
        form = (position, view.shape, view.dtype)
        if form not in self._places:
            self._places[form] = torch.empty_like(view)
        return self._places[form]


class CapturedPolicy(Captured):
    """What an agent computes from the views that it acts on, which come in a few batch sizes.

    Args:
        policy: maps views [B, C, size, size] to named tensors of one shape.
        generator, eager: see `Captured`.
    """

    def __init__(
        self,
        policy: Callable[[Tensor], dict[str, Tensor]],
        *,
        generator: torch.Generator,
        eager: bool = False,
    ) -> None:
        super().__init__(
            policy, period=1, generator=generator, eager=eager, forms=4, what="actions"
        )


@dataclass(frozen=True)
class Recorded:
    """A recording of one call, where it reads its inputs, and what it writes, [M, ...]."""

    recording: Recording
    places: list[Tensor | None]
    names: tuple[str, ...]
    results: Tensor

    def fill(self, views: Views) -> None:
        """Copy the inputs of the next replay to where it reads them."""
        for place, view in zip(self.places, views, strict=True):
            if place is not None and view is not None:
                place.copy_(view)


def form_of(views: Views) -> Form:
    """Shapes and dtypes: a copy to memory of another form would broadcast or convert."""
    return tuple(None if view is None else (view.shape, view.dtype) for view in views)
