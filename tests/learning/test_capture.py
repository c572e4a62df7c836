"""How updates are recorded, and what a capture that fails leaves behind, on a CUDA that is played.

The played CUDA keeps the state that PyTorch's keeps: the current stream, random generators in
capture mode, pools that allocations go to. It does so as PyTorch's sources say (CUDAGraph.cpp,
CUDAGeneratorImpl.cpp); `torch.cuda.graph` itself is the real one.
"""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from curl.learning import capture
from curl.learning.capture import WARM_UP, Captured, CapturedPolicy

DEVICE = torch.device("cuda", 1)


class Generator:
    """As CUDA's, it refuses to draw where its own state and the stream's disagree."""

    def __init__(self, cuda: Cuda) -> None:
        self.cuda, self.device, self.state = cuda, DEVICE, {"offset": 0, "capturing": False}

    def draw(self) -> None:
        if self.state["capturing"] != self.cuda.capturing:
            raise RuntimeError("Offset increment outside graph capture encountered unexpectedly.")
        self.state["offset"] += not self.cuda.capturing

    def clone_state(self) -> Generator:
        clone = Generator(self.cuda)
        clone.state = {**self.state, "capturing": False}
        return clone

    def graphsafe_set_state(self, other: Generator) -> None:
        self.state = other.state


class Stream:
    def __init__(self, cuda: Cuda, name: str) -> None:
        self.cuda, self.name = cuda, name

    def wait_stream(self, other: Stream) -> None:
        self.cuda.events.append(f"{self.name} waits for {other.name}")


class StreamContext:
    """As PyTorch's, it restores the stream that was current when it is left, and only then."""

    def __init__(self, cuda: Cuda, stream: Stream) -> None:
        self.cuda, self.stream = cuda, stream

    def __enter__(self) -> None:
        self.before, self.cuda.current = self.cuda.current, self.stream

    def __exit__(self, *_: object) -> None:
        self.cuda.current = self.before


class Cuda:
    """What PyTorch keeps of CUDA, on the CPU.

    Args:
        fails: where the capture number `fails_at` fails: "begin", "work", "end" or "instantiate".
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails: str = "", fails_at: int = 0) -> None:
        self.fails, self.fails_at = fails, fails_at
        self.capturing = False
        self.captures = 0
        self.handles = 0
        self.events: list[str] = []
        self.graphs: list[weakref.ref[Any]] = []
        self.underway: list[Any] = []  # pools that allocations of a capture go to
        self.uses: Counter[Any] = Counter()  # graphs that hold a pool
        self.current = Stream(self, "default")
        self.generator, self.default_generator = Generator(self), Generator(self)
        cuda = self

        class Graph:
            def __init__(self) -> None:
                self.generators: list[Generator] = [cuda.default_generator]
                self.pool: Any = None
                self.ended = False
                cuda.graphs.append(weakref.ref(self))

            def register_generator_state(self, generator: Generator) -> None:
                self.generators.append(generator)

            def capture_begin(self, pool: Any = ("own", 0), **_: Any) -> None:
                cuda.captures += 1
                cuda.events.append(f"capture on {cuda.current.name} in {pool}")
                self.pool = pool
                cuda.underway.append(pool)
                cuda.uses[pool] += 1
                cuda.fail_if("begin")
                cuda.capturing = True
                for generator in self.generators:
                    generator.state["capturing"] = True

            def capture_end(self) -> None:
                cuda.capturing = False
                if cuda.fails == "work":
                    cuda.fail_if("work")  # what was not allowed has invalidated the capture
                cuda.fail_if("end")
                cuda.end_allocations(1, self.pool)
                for generator in self.generators:
                    generator.state["capturing"] = False
                self.ended = True
                cuda.fail_if("instantiate")

            def replay(self) -> None:
                cuda.events.append(f"replay on {cuda.current.name}")

            def __del__(self) -> None:
                if self.ended:
                    cuda.release_pool(1, self.pool)

        monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
        monkeypatch.setattr(torch.cuda, "Stream", lambda *_: Stream(self, "side"))
        monkeypatch.setattr(torch.cuda, "stream", self.stream)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: self.current)
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", self.graph_pool_handle)
        monkeypatch.setattr(torch.cuda, "default_generators", (None, self.default_generator))
        for name in ("synchronize", "empty_cache"):
            monkeypatch.setattr(torch.cuda, name, lambda: None)
        monkeypatch.setattr(torch._C, "_host_emptyCache", lambda: None, raising=False)
        monkeypatch.setattr(torch.cuda.graph, "default_capture_stream", None)
        monkeypatch.setattr(capture, "end_allocations", self.end_allocations, raising=False)
        monkeypatch.setattr(capture, "release_pool", self.release_pool, raising=False)

    def fail_if(self, where: str) -> None:
        if self.fails == where and self.captures - 1 == self.fails_at:
            raise RuntimeError(f"CUDA error: the {where} of the capture failed\nfor debugging ...")

    def stream(self, stream: Stream) -> StreamContext:
        return StreamContext(self, stream)

    def graph_pool_handle(self) -> tuple[int, int]:
        self.handles += 1
        return (0, self.handles)

    def end_allocations(self, device: int, pool: Any) -> None:
        assert device == 1
        if pool not in self.underway:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.underway.remove(pool)

    def release_pool(self, device: int, pool: Any) -> None:
        assert device == 1 and self.uses[pool] > 0
        self.uses[pool] -= 1


class Learner:
    """Notes the updates that were executed; while a capture is under way nothing is executed."""

    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda
        self.executed: list[float] = []
        self.streams: list[str] = []

    def learn(self, view: Tensor, absent: Tensor | None = None) -> dict[str, Tensor]:
        self.cuda.generator.draw()
        self.cuda.default_generator.draw()
        if self.cuda.capturing:
            self.cuda.fail_if("work")
        else:
            self.executed.append(float(view))
            self.streams.append(self.cuda.current.name)
        return {"loss": view.sum()}


def captured(cuda: Cuda, learner: Learner) -> Captured:
    return Captured(learner.learn, period=2, generator=cuda.generator)  # pyright: ignore


def test_updates_warm_up_on_the_stream_that_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's notes on CUDA graphs: some eager updates on a side stream come first."""
    cuda = Cuda(monkeypatch)
    learner = Learner(cuda)
    update = captured(cuda, learner)
    for call in range(2 * WARM_UP):
        update(call, torch.tensor(float(call)), None)
    assert learner.streams == ["side"] * 2 * WARM_UP
    assert cuda.events == ["side waits for default", "default waits for side"] * 2 * WARM_UP
    cuda.events.clear()
    for call in range(2 * WARM_UP, 2 * WARM_UP + 4):
        update(call, torch.tensor(float(call)), None)
    captures = [event for event in cuda.events if event.startswith("capture")]
    assert captures == ["capture on side in (0, 1)"] * 2  # two phases, one pool
    assert cuda.events.count("replay on default") == 4
    assert cuda.uses == {(0, 1): 2} and not cuda.underway
    assert len(learner.executed) == 2 * WARM_UP  # recording executes nothing


def test_a_pool_ends_with_its_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch may refuse a pool whose last graph is gone, so recordings made later have another."""
    cuda = Cuda(monkeypatch)
    update = captured(cuda, Learner(cuda))
    for _ in range(2):
        for call in range(2 * WARM_UP + 2):
            update(call, torch.tensor(1.0), None)
        update.forget()
    assert [graph() for graph in cuda.graphs] == [None] * 4
    assert cuda.uses == {(0, 1): 0, (0, 2): 0}


@pytest.mark.parametrize("fails", ["", "work"])
def test_no_garbage_is_collected_while_a_capture_is_under_way(
    fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of another agent's graphs, if it fell into a capture, would end that."""
    cuda = Cuda(monkeypatch, fails)
    enabled: list[bool] = []

    class Watching(Learner):
        def learn(self, view: Tensor, absent: Tensor | None = None) -> dict[str, Tensor]:
            enabled.append(gc.isenabled())
            return super().learn(view, absent)

    update = captured(cuda, Watching(cuda))
    for call in range(2 * WARM_UP + 1):
        update(call, torch.tensor(1.0), None)
    assert enabled[2 * WARM_UP] is False
    assert all(enabled[: 2 * WARM_UP]) and all(enabled[2 * WARM_UP + 1 :]) and gc.isenabled()


@pytest.mark.parametrize("fails_at", [0, 1], ids=["first phase", "second phase"])
@pytest.mark.parametrize("fails", ["begin", "work", "end", "instantiate"])
def test_after_a_failed_capture_updates_go_on_eagerly(
    fails: str, fails_at: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The stream, the generators and the allocator are as before; each update is made once."""
    cuda = Cuda(monkeypatch, fails, fails_at)
    learner = Learner(cuda)
    update = captured(cuda, learner)
    replayed = fails_at  # updates that a graph made before the failure
    count = 2 * WARM_UP + 5
    with caplog.at_level("WARNING", logger="curl"):
        metrics = [update(call, torch.tensor(float(call)), None) for call in range(count)]
    assert cuda.current.name == "default"
    assert not cuda.generator.state["capturing"] and not cuda.default_generator.state["capturing"]
    assert not cuda.underway
    eager = [*range(2 * WARM_UP), *range(2 * WARM_UP + replayed, count)]
    assert learner.executed == eager
    assert learner.streams[2 * WARM_UP :] == ["default"] * (len(eager) - 2 * WARM_UP)
    assert cuda.generator.state["offset"] == len(eager)
    assert cuda.events.count("replay on default") == replayed
    assert [float(m["loss"]) for m in metrics[2 * WARM_UP + replayed :]] == eager[2 * WARM_UP :]
    assert len(caplog.messages) == 1 and f"the {fails} of the capture failed" in caplog.messages[0]
    assert "\n" not in caplog.messages[0]
    assert cuda.captures == fails_at + 1
    assert [graph() for graph in cuda.graphs] == [None] * (fails_at + 1)  # and their memory
    assert cuda.uses == {(0, 1): 0}


def test_what_is_no_failure_of_capturing_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Cuda(monkeypatch)

    def learn(view: Tensor) -> dict[str, Tensor]:
        if cuda.capturing:
            raise KeyError("a mistake in the learner")
        return {"loss": view.sum()}

    update = Captured(learn, period=1, generator=cuda.generator)  # pyright: ignore
    for call in range(WARM_UP):
        update(call, torch.ones(1))
    with pytest.raises(KeyError, match="a mistake in the learner"):
        update(WARM_UP, torch.ones(1))
    assert cuda.current.name == "default" and not cuda.underway


@pytest.mark.parametrize(
    "other",
    [
        (torch.ones(3),),  # would be broadcast
        (torch.ones(1, dtype=torch.float64),),  # would be converted
        (torch.ones(1), torch.ones(1)),
        (None,),
    ],
    ids=["shape", "dtype", "more", "absent"],
)
def test_views_of_another_form_are_learnt_from_eagerly(
    other: tuple[Tensor | None, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda, learnt = Cuda(monkeypatch), []

    def learn(*views: Tensor | None) -> dict[str, Tensor]:
        if not cuda.capturing:
            learnt.append(views)
        return {"loss": torch.zeros(())}

    update = Captured(learn, period=1, generator=cuda.generator)  # pyright: ignore
    for call in range(WARM_UP + 1):
        update(call, torch.ones(1))
    update(WARM_UP + 1, *other)
    assert learnt[WARM_UP:] == [other]
    assert cuda.events.count("replay on default") == 1


def test_a_policy_is_recorded_for_a_few_batch_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """One stack, and one for each environment side by side; results keep their shape."""
    cuda, sizes = Cuda(monkeypatch), [1, 10, 3, 4, 7]
    called: list[int] = []

    def policy(view: Tensor) -> dict[str, Tensor]:
        called.append(0 if cuda.capturing else len(view))
        return {"mean": view * 2, "log_std": view * 3}

    acting = CapturedPolicy(policy, generator=cuda.generator)  # pyright: ignore
    for _ in range(WARM_UP + 2):
        for size in sizes:
            found = acting(0, torch.ones(size, 2))
            assert {name: value.shape for name, value in found.items()} == {
                "mean": (size, 2),
                "log_std": (size, 2),
            }
    assert cuda.captures == 4 and called.count(0) == 4
    assert [called.count(size) for size in sizes] == [WARM_UP] * 4 + [WARM_UP + 2]
    assert cuda.events.count("replay on default") == 4 * 2


def test_actions_that_cannot_be_recorded_are_computed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cuda = Cuda(monkeypatch, "begin")
    acting = CapturedPolicy(lambda view: {"mean": view}, generator=cuda.generator)  # pyright: ignore
    for _ in range(WARM_UP + 3):
        assert float(acting(0, torch.ones(1))["mean"]) == 1
    (message,) = caplog.messages
    assert message.startswith("actions run eagerly, they cannot be captured")
