"""Several datasets of one environment become one, as `medium_expert` is `medium` and `expert`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from curl.data.dataset import Dataset
from curl.data.episode import Episode, Origin
from curl.data.layout import DatasetError

log = logging.getLogger("curl")

JOINED = "joined"  # the policy of a joined dataset
ALIKE = ("environment", "action_repeat", "render_size", "action_dim")
SCENE = ("camera", "kwargs", "max_episode_steps")  # settings of a task that change what is seen


def joined_origin(datasets: Sequence[Dataset]) -> Origin:
    """The origin of all their episodes together, which holds that of each of them.

    Raises:
        DatasetError: there are fewer than two, or they differ in the environment, the action
            repeat, the size of frames or of actions, or what the environment shows.
    """
    if len(datasets) < 2:
        raise DatasetError("at least two datasets are joined")
    first, *others = datasets
    for other in others:
        for key, one, another in _compared(first.origin, other.origin):
            if one != another:
                raise DatasetError(
                    f"datasets that differ in {key} cannot be joined: it is {one} in {first.name}, "
                    f"and {another} in {other.name}"
                )
    shared = {key: getattr(first.origin, key) for key in (*ALIKE, "task")}
    return Origin(
        **shared,
        frame_stack=max(each.origin.frame_stack for each in datasets),
        policy=JOINED,
        seed=None,
        parts=[each.origin for each in datasets],
    )


def _compared(one: Origin, other: Origin) -> Iterator[tuple[str, Any, Any]]:
    for key in ALIKE:
        yield key, getattr(one, key), getattr(other, key)
    for key in SCENE:
        yield f"task.{key}", one.task.get(key), other.task.get(key)


def joined_episodes(
    datasets: Iterable[Dataset], told: Callable[[str], None] = log.warning
) -> Iterator[Episode]:
    """Their episodes, one dataset after the other.

    Only the very first episode of a dataset may lack its beginning. One that lacks it in a later
    dataset, as a replay buffer has it, is left out.

    Args:
        told: is given the line that says so.
    """
    for number, dataset in enumerate(datasets):
        dataset.verify()
        for episode in dataset.episodes():
            if number and episode.skipped:
                told(
                    f"the first episode of {dataset.name} lacks its beginning and is left out: "
                    f"{len(episode)} transitions"
                )
            else:
                yield episode
