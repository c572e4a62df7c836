"""Runs and trees of tensors that are equal to the last bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from curl.run.checkpoint import Checkpoints
from support.programs import timeless


def assert_equal_runs(one: Path, other: Path) -> None:
    assert timeless(one) == timeless(other)
    (state, frames), (other_state, other_frames) = (
        (found[0], list(found[1]))
        for folder in (one, other)
        if (found := Checkpoints(folder).load())
    )
    for key in ("agent", "counters", "replay", "generator", "metrics"):
        assert_equal(state[key], other_state[key], key)
    oldest = max(state["replay"]["written"] - 64, 0)  # rows of the ring
    for column in ("frames", "action", "reward", "terminated", "start"):
        stored = [
            torch.cat([segment[column] for segment in segments])[oldest - segments[0]["first"] :]
            for segments in (frames, other_frames)
        ]
        assert_equal(*stored, column)


def assert_equal(one: Any, other: Any, path: str) -> None:
    """Equal trees of tensors and plain values, to the last bit."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_equal(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), path
    else:
        assert one == other, path
