"""What a dataset holds: episodes, and where they come from; and the episodes of a replay buffer."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, PositiveInt

from curl.data.replay import ReplayBuffer
from curl.version import VERSION


@dataclass(frozen=True)
class Episode:
    """One episode, or the part of it that is known.

    Args:
        frames: uint8 [T + 1, H, W, 3].
        actions: float32 [T, A] in [-1, 1].
        rewards: float32 [T], summed over the action repeat.
        terminated: whether the last transition ended the episode, so that nothing follows it.
        truncated: whether the episode was cut off there. Neither is true of an episode that was
            still going on.
        seed: of the environment's reset; None where it is not known.
        skipped: agent steps of the episode before its first frame here.

    Raises:
        ValueError: a shape, dtype or value is another one.
    """

    frames: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminated: bool
    truncated: bool
    seed: int | None = None
    skipped: int = 0

    def __post_init__(self) -> None:
        steps = len(self.rewards)
        if not steps:
            raise ValueError("an episode must have at least one transition")
        edge, action_dim = ([*array.shape, 0][1] for array in (self.frames, self.actions))
        wanted = {
            "frames": (np.uint8, (steps + 1, edge, edge, 3)),
            "actions": (np.float32, (steps, action_dim)),
            "rewards": (np.float32, (steps,)),
        }
        for name, (dtype, shape) in wanted.items():
            found = getattr(self, name)
            if found.dtype != dtype or found.shape != shape:
                raise ValueError(
                    f"the {name} of an episode of {steps} transitions must be {np.dtype(dtype)} "
                    f"{list(shape)}, got {found.dtype} {list(found.shape)}"
                )
        if not np.isfinite(self.rewards).all():
            raise ValueError("the rewards of an episode must be finite")
        if not (np.abs(self.actions) <= 1).all():
            raise ValueError("the actions of an episode must lie in [-1, 1]")

    def __len__(self) -> int:
        """Transitions."""
        return len(self.rewards)

    @property
    def whole(self) -> bool:
        """Whether both its beginning and its end are known."""
        return not self.skipped and (self.terminated or self.truncated)


class Origin(BaseModel):
    """Where the episodes of a dataset come from, as the dataset itself says.

    Attributes:
        environment: Gymnasium id.
        action_repeat: simulator control steps per agent step.
        render_size: edge of a frame in pixels.
        frame_stack: frames per observation of the agent that acted.
        action_dim: A.
        task: all settings of the task.
        policy: mean, sample or random; replay for what a run stored while it learned; imported for
            what another program has recorded; joined for several datasets in one.
        seed: of the recording; None for what was not played here.
        checkpoint: path of the state file whose agent acted, and its SHA-256; None where there is
            none, that is for what was imported or joined.
        env_steps, updates: how far its run was; None where there is none. Older versions noted no
            updates.
        imported: the folder that was imported; None where it was none.
        parts: the origins of the datasets that were joined, in their order.
        version: of the program that recorded.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    environment: str
    action_repeat: PositiveInt
    render_size: PositiveInt
    frame_stack: PositiveInt
    action_dim: PositiveInt
    task: dict[str, Any]
    policy: str
    seed: int | None
    checkpoint: str | None = None
    checkpoint_sha256: str | None = None
    env_steps: int | None = None
    updates: int | None = None
    imported: str | None = None
    parts: list[Origin] = []
    version: str = VERSION


def episodes_of(replay: ReplayBuffer, *, over: bool) -> Iterator[Episode]:
    """The episodes in a replay buffer, oldest first; the oldest may lack its beginning.

    They hold every transition that can be drawn. A frame that no transition has is left out.

    Args:
        over: whether the newest episode has ended. Any other episode has: one that was not
            terminated was truncated.
    """
    numbers = np.arange(replay.oldest_needed(), replay.written)
    starts = replay.start.cpu().numpy()[numbers % replay.rows]
    edges = [0, *(np.flatnonzero(np.diff(starts)) + 1), len(numbers)]
    for begin, end in itertools.pairwise(edges):
        if end - begin < 2:
            continue
        first, last = int(numbers[begin]), int(numbers[end - 1]) + 1
        part = replay.export(first, last)
        terminated = bool(part["terminated"][-1])
        yield Episode(
            part["frames"].numpy(),
            part["action"][1:].numpy(),
            part["reward"][1:, 0].numpy(),
            terminated=terminated,
            truncated=not terminated and (over or last < replay.written),
            skipped=first - int(starts[begin]),
        )
