"""Replay: every frame carries its own number, so a mis-indexed one is a wrong integer.

`Recording` is the oracle: it keeps what went into a buffer in plain lists.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor

from curl.data import replay
from curl.data.batch import FrameStacks, join
from curl.data.replay import ReplayBuffer
from curl.hardware.device import free_bytes
from curl.hardware.limits import group_memory

EDGE = 8
LENGTHS = st.lists(st.integers(0, 12), min_size=1, max_size=40)  # agent steps an episode
CAPACITIES, STACKS = st.integers(1, 40), st.integers(1, 4)

fuzz = settings(max_examples=100, deadline=None, derandomize=True, database=None)


def frame(number: int) -> np.ndarray:
    """A frame whose RGB are the base-256 digits of `number`."""
    digits = np.array([number % 256, number // 256 % 256, number // 65536], np.uint8)
    return np.tile(digits, (EDGE, EDGE, 1))


def numbers(stacks: FrameStacks) -> list[list[int]]:
    """The frame numbers that the pixels of B stacks of S frames carry, [B][S]."""
    pixels = stacks.whole().long()
    assert (pixels == pixels[:, :, :1, :1]).all(), "a frame is mixed from several"
    digits = pixels[:, :, 0, 0].view(len(stacks), -1, 3)
    return (digits @ torch.tensor([1, 256, 65536])).tolist()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_buffer(capacity: int, frame_stack: int = 3, **sizes: Any) -> ReplayBuffer:
    sizes = {"frame_size": EDGE, "action_dim": 2} | sizes
    return ReplayBuffer(capacity=capacity, frame_stack=frame_stack, **sizes)


class Recording:
    """A buffer's history: for each frame its episode's first frame, and what led to it."""

    def __init__(self, *buffers: ReplayBuffer) -> None:
        self.buffers, self.buffer = buffers, buffers[0]
        self.starts: list[int] = []
        self.terminated: dict[int, bool] = {}  # by the number of a transition's second frame

    def play(self, lengths: list[int]) -> Iterator[None]:
        """Episodes of these lengths, every second one terminated; yields after each frame."""
        for episode, length in enumerate(lengths):
            start = len(self.starts)
            self.starts.append(start)
            for buffer in self.buffers:
                buffer.begin(frame(start))
            yield
            for number in range(start + 1, start + length + 1):
                self.starts.append(start)
                self.terminated[number] = number == start + length and episode % 2 == 0
                for buffer in self.buffers:
                    buffer.add(*self.made(number), frame(number))
                yield

    def made(self, number: int) -> tuple[np.ndarray, float, bool]:
        """Action, reward and termination of the transition that ends at frame `number`."""
        return np.array([number, -number / 2]), number / 4, self.terminated[number]

    def stack(self, newest: int) -> list[int]:
        depth = self.buffer.frame_stack
        return [max(newest - back, self.starts[newest]) for back in reversed(range(depth))]

    def last_of_episode(self, number: int) -> int:
        """The newest frame of the episode that frame `number` belongs to."""
        start = self.starts[number]
        return max(n for n, other in enumerate(self.starts) if other == start)

    def drawable(self) -> list[int]:
        """The last `capacity` transitions, however short their episodes are."""
        return list(self.terminated)[-self.buffer.capacity :]


def record(lengths: list[int], *buffers: ReplayBuffer) -> Recording:
    recording = Recording(*buffers)
    for _ in recording.play(lengths):
        pass
    return recording


@fuzz
@given(LENGTHS, CAPACITIES, STACKS)
def test_exactly_the_intact_recent_transitions_are_drawn(
    lengths: list[int], capacity: int, frame_stack: int
) -> None:
    buffer = make_buffer(capacity, frame_stack)
    recording = record(lengths, buffer)
    drawable = recording.drawable()
    assert len(buffer) == len(drawable)
    if drawable:
        batch = buffer.sample(50 * len(drawable), generator())
        next_obs = numbers(batch.next_obs)
        ends = [stack[-1] for stack in next_obs]
        assert set(ends) == set(drawable)
        assert next_obs == [recording.stack(end) for end in ends]
        assert numbers(batch.obs) == [recording.stack(end - 1) for end in ends]
        made = [recording.made(end) for end in ends]
        assert batch.action.tolist() == [action.tolist() for action, _, _ in made]
        assert batch.reward.tolist() == [[reward] for _, reward, _ in made]
        assert batch.terminated.tolist() == [[terminated] for _, _, terminated in made]


@fuzz
@given(LENGTHS, CAPACITIES, STACKS, st.lists(st.integers(0, 9), min_size=1, unique=True))
def test_future_stacks_lie_in_the_same_episode_or_are_masked(
    lengths: list[int], capacity: int, frame_stack: int, offsets: list[int]
) -> None:
    buffer = make_buffer(capacity, frame_stack)
    recording = record(lengths, buffer)
    if not len(buffer):
        return
    batch = buffer.sample(100, generator(), offsets)
    ends = [stack[-1] for stack in numbers(batch.next_obs)]
    assert list(batch.future) == offsets
    for offset, future in batch.future.items():
        columns = (future.action, future.reward, future.terminated, future.valid.tolist())
        for end, stack, action, reward, terminated, inside in zip(
            ends, numbers(future.obs), *columns, strict=True
        ):
            later = end - 1 + offset
            written = later < len(recording.starts)
            assert inside == (written and recording.starts[later] == recording.starts[end])
            if inside:
                assert stack == recording.stack(later)
            else:  # the last stack of the episode, or the newest one
                assert stack == recording.stack(recording.last_of_episode(end))
            if inside and offset > 0:  # the first frame of an episode follows no action
                assert torch.equal(action, torch.as_tensor(recording.made(later)[0]))
                assert (reward.item(), terminated.item()) == recording.made(later)[1:]


@fuzz
@given(LENGTHS, CAPACITIES, STACKS)
def test_latest_is_the_stack_at_the_newest_frame(
    lengths: list[int], capacity: int, frame_stack: int
) -> None:
    recording = Recording(make_buffer(capacity, frame_stack))
    for _ in recording.play(lengths):
        newest = len(recording.starts) - 1
        assert numbers(recording.buffer.latest()) == [recording.stack(newest)]


def test_episodes_of_64_steps_fill_the_whole_capacity() -> None:
    buffer = make_buffer(capacity=256)
    recording = Recording(buffer)
    for _ in recording.play([64] * 12):
        assert len(buffer) == min(256, len(recording.terminated))


@pytest.mark.parametrize("length", [1, 2, 5, 20])
def test_short_episodes_fill_the_whole_capacity_too(length: int) -> None:
    """The first frames of episodes need rows of their own: with one-step episodes, as many."""
    buffer = make_buffer(capacity=64)
    recording = Recording(buffer)
    for _ in recording.play([length] * (400 // length)):
        assert len(buffer) == min(64, len(recording.terminated))
    assert buffer.rows <= 2 * 64 + 4


def test_a_ring_for_long_episodes_never_grows() -> None:
    buffer = make_buffer(capacity=256)
    rows = buffer.rows
    record([64] * 30, buffer)
    assert buffer.rows == rows == 256 + 4 + 4 == len(buffer.frames)


@pytest.mark.parametrize("refusal", ["announced", "raised"])
def test_a_ring_that_cannot_grow_goes_on_with_fewer_transitions(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, refusal: str
) -> None:
    monkeypatch.setattr(logging.getLogger("curl"), "propagate", True)
    buffer = make_buffer(capacity=100)

    def full(*_: object) -> Any:
        raise torch.OutOfMemoryError

    if refusal == "announced":
        monkeypatch.setattr(replay, "free_bytes", lambda device: 1000)
    else:
        monkeypatch.setattr(buffer, "_columns", full)
    record([1] * 300, buffer)
    assert len(buffer) == buffer.rows // 2
    (warning,) = [r.message for r in caplog.records if r.levelname == "WARNING"]
    assert "episodes of about 1 agent steps need 0.00 GB for 100 transitions" in warning
    assert "goes on with about 52 transitions; lower replay.capacity" in warning
    batch = buffer.sample(2000, generator())
    assert len({stack[-1] for stack in numbers(batch.next_obs)}) == len(buffer)


def test_a_grown_ring_is_restored_into_a_new_one() -> None:
    """Also with segments that were exported before it grew."""
    buffer, restored, segments = make_buffer(capacity=60), make_buffer(capacity=60), []
    recording = Recording(buffer)
    for _ in recording.play([2] * 60):
        if buffer.written % 25 == 0:
            segments = extended(segments, buffer)
    assert buffer.rows > restored.rows
    restored.restore(extended(segments, buffer), buffer.counters())
    assert restored.rows == buffer.rows == len(restored.frames)
    assert_same_draws(buffer, restored)


def test_a_buffer_saved_before_rings_could_grow_is_restored() -> None:
    buffer, restored = make_buffer(capacity=200), make_buffer(capacity=200)
    record([70] * 6, buffer)
    counters = buffer.counters()
    del counters["rows"], counters["oldest"]
    restored.restore(extended([], buffer), counters)
    assert_same_draws(buffer, restored)


def test_draws_are_uniform() -> None:
    buffer = make_buffer(capacity=50)
    record([7] * 40, buffer)
    ends = [stack[-1] for stack in numbers(buffer.sample(20_000, generator()).next_obs)]
    counts = np.unique(ends, return_counts=True)[1]
    assert len(counts) == len(buffer)
    assert chisquare(counts).pvalue > 1e-4


def test_empty_buffer_is_refused() -> None:
    """The first frame of an episode is no transition yet."""
    buffer = make_buffer(capacity=10)
    buffer.begin(frame(0))
    with pytest.raises(ValueError, match="empty"):
        buffer.sample(1, generator())


@pytest.mark.parametrize(
    "sizes",
    [
        {"capacity": 0},
        {"capacity": 10.0},
        {"capacity": True},
        {"capacity": 10, "frame_stack": 0},
        {"capacity": 10, "frame_size": 0},
        {"capacity": 10, "frame_size": -1},
        {"capacity": 10, "action_dim": 0},
    ],
    ids=str,
)
def test_impossible_sizes_are_refused(sizes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        make_buffer(**sizes)


def test_a_buffer_beyond_memory_is_refused_with_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The paper's buffer needs at most 3.1 GB; the message says what it needs and what is free."""
    monkeypatch.setattr(replay, "free_bytes", lambda device: 2_000_000_000)
    with pytest.raises(MemoryError, match=r"replay\.capacity") as refusal:
        make_buffer(capacity=100_000, frame_size=100, action_dim=6)
    needed, free = map(float, re.findall(r"([\d.]+) GB", str(refusal.value)))
    assert 3.0 <= needed <= 3.1
    assert free == 2.0


def test_the_memory_check_counts_what_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    held = vars(make_buffer(capacity=100, frame_size=100)).values()
    allocated = sum(x.nbytes for x in held if isinstance(x, (Tensor, np.ndarray)))
    monkeypatch.setattr(replay, "free_bytes", lambda device: int(1.01 * allocated))
    make_buffer(capacity=100, frame_size=100)
    monkeypatch.setattr(replay, "free_bytes", lambda device: int(0.99 * allocated))
    with pytest.raises(MemoryError):
        make_buffer(capacity=100, frame_size=100)


@pytest.mark.parametrize("action_dim", [1, 21])
def test_the_memory_check_counts_each_row_to_the_byte(
    monkeypatch: pytest.MonkeyPatch, action_dim: int
) -> None:
    """Frames of one pixel, so that what lies beside them weighs."""
    sizes = {"capacity": 1000, "frame_size": 1, "action_dim": action_dim}
    held = vars(make_buffer(**sizes)).values()
    allocated = sum(x.nbytes for x in held if isinstance(x, (Tensor, np.ndarray)))
    monkeypatch.setattr(replay, "free_bytes", lambda device: allocated)
    make_buffer(**sizes)
    monkeypatch.setattr(replay, "free_bytes", lambda device: allocated - 100)
    with pytest.raises(MemoryError):
        make_buffer(**sizes)


def test_the_file_cache_of_a_container_counts_as_free(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("8000\n")
    (tmp_path / "memory.current").write_text("7000\n")
    (tmp_path / "memory.stat").write_text("anon 900\nactive_file 100\ninactive_file 6000\n")
    assert group_memory(tmp_path) == 7000
    (tmp_path / "memory.max").write_text("max\n")
    with pytest.raises(ValueError):
        group_memory(tmp_path)
    assert free_bytes(torch.device("cpu")) > 0


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((EDGE, EDGE, 1), np.uint8),  # would be broadcast
        np.zeros((EDGE, EDGE + 1, 3), np.uint8),
        np.zeros((EDGE, EDGE), np.uint8),
        np.zeros((EDGE, EDGE, 3), np.float32),  # would be cast
        np.zeros((EDGE, EDGE, 3), np.int64),
    ],
    ids=lambda frame: f"{frame.dtype}{frame.shape}",
)
def test_a_frame_that_does_not_fit_is_refused(wrong: np.ndarray) -> None:
    buffer = make_buffer(capacity=10)
    with pytest.raises(ValueError, match=rf"frame must be uint8 .* got {wrong.dtype}"):
        buffer.begin(wrong)
    record([2], buffer)
    before = buffer.counters()
    with pytest.raises(ValueError, match=rf"frame must be uint8 .* got {wrong.dtype}"):
        buffer.add(np.zeros(2), 0.0, False, wrong)
    assert buffer.counters() == before


@pytest.mark.parametrize("shape", [(), (1,), (3,), (1, 2)], ids=str)
def test_an_action_that_does_not_fit_is_refused(shape: tuple[int, ...]) -> None:
    buffer = make_buffer(capacity=10)
    record([2], buffer)
    with pytest.raises(ValueError, match="action must have shape"):
        buffer.add(np.zeros(shape), 0.0, False, frame(3))


def test_a_buffer_without_an_episode_is_refused() -> None:
    with pytest.raises(ValueError, match="no episode has begun"):
        make_buffer(capacity=10).add(np.zeros(2), 0.0, False, frame(1))
    with pytest.raises(ValueError, match="no latest frame"):
        make_buffer(capacity=10).latest()


def test_another_device_of_the_same_kind_is_another_device() -> None:
    """As cuda:0 and cuda:1 are."""
    buffer = make_buffer(capacity=10)
    record([5], buffer)
    assert buffer.latest().target is None
    buffer.device, buffer.target = torch.device("meta", 0), torch.device("meta", 1)
    assert buffer.stacks(torch.tensor([1])).target == torch.device("meta", 1)


def test_a_batch_for_another_device_copies_windows_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows are gathered where the frames are; whole frames stay there."""
    copied: list[Tensor] = []
    to = Tensor.to

    def watched(tensor: Tensor, *arguments: Any, **keywords: Any) -> Tensor:
        moved = to(tensor, *arguments, **keywords)
        if moved.device != tensor.device:
            copied.append(tensor)
        return moved

    elsewhere, here = make_buffer(20, target=torch.device("meta")), make_buffer(20)
    record([5] * 9, elsewhere, here)
    batch, expected = (b.sample(4, generator(), (2,)) for b in (elsewhere, here))
    later = batch.future[2]
    columns = [batch.action, batch.reward, batch.terminated]
    columns += [later.action, later.reward, later.terminated, later.valid]
    assert all(tensor.device.type == "meta" for tensor in columns)
    monkeypatch.setattr(Tensor, "to", watched)
    top, left = torch.tensor([0, 1, 2, 0]), torch.tensor([1, 0, 0, 2])
    pairs = [
        (batch.obs, expected.obs),
        (batch.next_obs, expected.next_obs),
        (later.obs, expected.future[2].obs),
        (elsewhere.latest(), here.latest()),
        (batch.obs[:2].first_frames(), expected.obs[:2].first_frames()),
        (join([batch.obs, later.obs])[2:6], join([expected.obs, expected.future[2].obs])[2:6]),
    ]
    for moved, local in pairs:
        copied.clear()
        count = len(moved)
        view = moved.window(top[:count], left[:count], EDGE - 2)
        wanted = local.window(top[:count], left[:count], EDGE - 2)
        assert view.device == moved.device == torch.device("meta")
        assert view.is_contiguous(memory_format=torch.channels_last)
        (window,) = copied
        assert torch.equal(window, wanted)


# -- persistence -----------------------------------------------------------------------------------


def extended(segments: list[dict[str, Any]], buffer: ReplayBuffer) -> list[dict[str, Any]]:
    """The segments still needed, and one more with what was written since."""
    ends = [s["first"] + len(s["start"]) for s in segments]
    kept = [s for s, end in zip(segments, ends, strict=True) if end > buffer.oldest()]
    first = max(buffer.oldest(), ends[-1] if ends else 0)
    return [*kept, buffer.export(first, buffer.written)]


def assert_same_draws(one: ReplayBuffer, two: ReplayBuffer) -> None:
    assert one.counters() == two.counters()
    if len(one):
        a, b = (buffer.sample(200, generator(5), (2,)) for buffer in (one, two))
        for name in ("action", "reward", "terminated"):
            assert torch.equal(getattr(a, name), getattr(b, name))
        assert numbers(a.obs) == numbers(b.obs)
        assert numbers(a.next_obs) == numbers(b.next_obs)
        for name in ("action", "reward", "terminated", "valid"):
            assert torch.equal(getattr(a.future[2], name), getattr(b.future[2], name))
        assert numbers(a.future[2].obs) == numbers(b.future[2].obs)


@fuzz
@given(LENGTHS, CAPACITIES, STACKS, st.integers(1, 60), st.integers(1, 150))
def test_a_restored_buffer_goes_on_as_the_original(
    lengths: list[int], capacity: int, frame_stack: int, every: int, stop: int
) -> None:
    """Exported in segments every so many frames, restored within an episode or not, played on."""
    buffer, restored = make_buffer(capacity, frame_stack), make_buffer(capacity, frame_stack)
    recording, segments = Recording(buffer), []
    for _ in recording.play([*lengths, 3, 3]):
        if buffer.written % every == 0 and len(recording.buffers) == 1:
            segments = extended(segments, buffer)
        if buffer.written == min(stop, sum(lengths) + len(lengths)):
            restored.restore(extended(segments, buffer), buffer.counters())
            recording.buffers = (buffer, restored)
            assert_same_draws(buffer, restored)
        assert len(buffer) == len(recording.drawable())
    assert_same_draws(buffer, restored)


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_gap_between_segments_is_refused(missing: int) -> None:
    buffer, segments = make_buffer(capacity=40), []
    for _ in Recording(buffer).play([10] * 3):
        if buffer.written % 11 == 0:
            segments = extended(segments, buffer)
    assert len(segments) == 3
    del segments[missing]
    with pytest.raises(ValueError, match="replay buffer"):
        make_buffer(capacity=40).restore(segments, buffer.counters())


def test_segments_of_another_frame_size_are_refused() -> None:
    buffer = make_buffer(capacity=40)
    record([10], buffer)
    with pytest.raises(ValueError, match="sizes"):
        make_buffer(capacity=40, frame_size=EDGE + 1).restore(
            extended([], buffer), buffer.counters()
        )


@pytest.mark.parametrize("column", ["frames", "action", "reward", "terminated", "start"])
@pytest.mark.parametrize("damage", ["dtype", "shape", "shorter", "missing", "number"])
def test_a_segment_whose_columns_do_not_fit_is_refused(
    column: str, damage: str, tally: Counter[str]
) -> None:
    """They would be broadcast, cast, or fail somewhere inside PyTorch."""
    buffer = make_buffer(capacity=40)
    record([10], buffer)
    (segment,) = extended([], buffer)
    tensor = segment[column]
    damaged = {
        "dtype": tensor.to(torch.float64),
        "shape": tensor[:, None],
        "shorter": tensor[:1],
        "number": 7,
    }
    segment[column] = damaged.get(damage)
    if damage == "missing":
        del segment[column]
    tally["bad inputs"] += 1
    with pytest.raises(ValueError, match="the saved replay buffer has other sizes"):
        make_buffer(capacity=40).restore([segment], buffer.counters())


@pytest.mark.parametrize(
    "change",
    [
        None,
        {"written": -1},
        {"written": 10.0},
        {"first": 7, "last": 3},
        {"last": 41},
        {"episode_start": 99},
        {"more": 1},
        {"capacity": 1},
        {"rows": 1},
        {"rows": 100.0},
        {"oldest": -1},
        {"oldest": 99},
    ],
    ids=str,
)
def test_counters_that_do_not_fit_are_refused(
    change: dict[str, Any] | None, tally: Counter[str]
) -> None:
    buffer = make_buffer(capacity=40)
    record([10], buffer)
    counters = None if change is None else buffer.counters() | change
    tally["bad inputs"] += 1
    with pytest.raises(ValueError, match="wrong counters"):
        make_buffer(capacity=40).restore(extended([], buffer), counters)


@pytest.mark.parametrize("segment", [None, 7, [], {}, {"first": "0"}], ids=str)
def test_what_is_no_segment_is_refused(segment: Any, tally: Counter[str]) -> None:
    buffer = make_buffer(capacity=40)
    record([10], buffer)
    tally["bad inputs"] += 1
    with pytest.raises(ValueError, match="one of its segments is invalid"):
        make_buffer(capacity=40).restore([segment], buffer.counters())
