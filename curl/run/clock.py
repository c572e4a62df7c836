"""The clock of a run: how far it is, in every unit that something may be counted in.

A run declares its axis, the count in which its budget, its intervals, its checkpoints and its
metrics are given. It is env steps where the agent acts in an environment. A run without an
environment, which only updates on recorded data, counts updates instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from curl.checks import choice

AXES = ("env_steps", "agent_steps", "updates")
ENV_STEPS, AGENT_STEPS, UPDATES = AXES


@dataclass
class Clock:
    """The counts of a run.

    Attributes:
        axis: which of them is the run's axis.
        env_steps: control steps of the simulator.
        agent_steps: decisions of the agent; each lasts `action_repeat` env steps, or fewer at the
            end of an episode.
        updates: gradient updates.

    Raises:
        ValueError: an unknown axis.
    """

    axis: str = ENV_STEPS
    env_steps: int = 0
    agent_steps: int = 0
    updates: int = 0

    def __post_init__(self) -> None:
        choice("axis", self.axis, AXES)

    @property
    def now(self) -> int:
        """The position of the run on its axis."""
        return getattr(self, self.axis)

    def counts(self) -> dict[str, int]:
        """All counts by their names."""
        return {name: getattr(self, name) for name in AXES}

    def __str__(self) -> str:
        """The position in words: `env step 400`."""
        return at(self.now, self.axis)


def words(axis: str) -> str:
    """An axis in words: `env steps`, `updates`."""
    return axis.replace("_", " ")


def heading(axes: Iterable[str]) -> str:
    """What a column of positions on these axes is called; env steps, if there are none."""
    found = set(axes) or {ENV_STEPS}
    return words(*found) if len(found) == 1 else "position"


def at(position: int, axis: str) -> str:
    """A position in words: `env step 400`."""
    return f"{words(axis).removesuffix('s')} {position}"


def axis_of(used: Any) -> str:
    """The axis that a run declared in what config.yaml records under `used`.

    Runs of older versions declared none: they count env steps.

    Raises:
        ValueError: an unknown axis.
    """
    axis = used.get("axis", ENV_STEPS) if isinstance(used, Mapping) else ENV_STEPS
    choice("axis", axis, AXES)
    return axis
