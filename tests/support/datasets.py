"""Episodes and origins for tests of datasets; their frames show which episode and step it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from curl.data.episode import Episode, Origin
from support.faulty_runs import run as train

ACTIONS = 2


def origin(edge: int, **changes: Any) -> Origin:
    facts: dict[str, Any] = {
        "environment": "Sound-v0",
        "action_repeat": 1,
        "render_size": edge,
        "frame_stack": 3,
        "action_dim": ACTIONS,
        "task": {"name": "sound", "kwargs": None},
        "policy": "mean",
        "seed": 0,
        "checkpoint": "runs/sound/checkpoints/state-5.pt",
        "checkpoint_sha256": "0" * 64,
        "env_steps": 5,
    }
    return Origin(**facts | changes)


def train_into_an_episode(folder: Path) -> None:
    """Make a run whose ring has wrapped, and whose third episode of 20 steps is going on."""
    done = train(folder, env_steps=50, eval_every=1000, replay__capacity=35)
    assert done.returncode == 0, done.stderr


def episode(number: int, steps: int, edge: int, *, skipped: int = 0, ends: str = "") -> Episode:
    """Pixels are (episode, step, 0); the action and reward of a step are made from both.

    Args:
        number: of the episode, below 256.
        steps: transitions.
        edge: of a frame.
        skipped: the step that the first frame shows.
        ends: terminated or truncated.
    """
    step = np.arange(skipped, skipped + steps + 1)
    frames = np.zeros((steps + 1, edge, edge, 3), np.uint8)
    frames[..., 0], frames[..., 1] = number, step[:, None, None]
    value = (number + step[1:] / 256).astype(np.float32) / 256
    return Episode(
        frames,
        np.stack([value, -value], 1),
        1000 * value,
        terminated=ends == "terminated",
        truncated=ends == "truncated",
        seed=number,
        skipped=skipped,
    )


def assert_same_episodes(found: list[Episode], wanted: list[Episode]) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        for column in ("frames", "actions", "rewards"):
            ours, theirs = getattr(one, column), getattr(other, column)
            assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs), column
        for fact in ("terminated", "truncated", "seed", "skipped"):
            assert getattr(one, fact) == getattr(other, fact), fact
