"""Recorded episodes become a new local dataset, which is complete or absent."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from curl.data.dataset import Dataset, read
from curl.data.episode import Episode, Origin
from curl.data.layout import (
    DATA,
    OURS,
    SKIPPED,
    action_space,
    digests,
    frame_space,
    place,
    require_free,
    require_sizes,
    root,
)


def write(name: str, episodes: Iterable[Episode], origin: Origin) -> Dataset:
    """Write episodes, one at a time, as a new dataset. It is complete, or it is absent.

    Args:
        name: of the dataset, as `cartpole_swingup/expert-v0`.
        episodes: at least one.
        origin: where they come from; all of them have its `render_size` and `action_dim`.

    Raises:
        DatasetError: the name is taken, or it is none.
        ValueError: no episodes, or one of other sizes.
    """
    require_free(name)
    import minari
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_dataset import parse_dataset_id
    from minari.dataset.minari_storage import MinariStorage
    from minari.namespace import create_namespace, list_local_namespaces

    skipped: list[int] = []

    def buffers() -> Iterator[EpisodeBuffer]:
        for episode in episodes:
            require_sizes(episode, origin)
            skipped.append(episode.skipped)
            yield EpisodeBuffer(**columns(episode))

    root().mkdir(parents=True, exist_ok=True)
    aside = root() / f"{unfinished()}{uuid.uuid4().hex}"
    aside.mkdir()
    try:
        storage = MinariStorage.new(
            aside / DATA,
            observation_space=frame_space(origin.render_size),
            action_space=action_space(origin.action_dim),
            jpeg_encoding=False,
        )
        storage.update_episodes(buffers())
        if not skipped:
            raise ValueError(f"there is no episode to write to the dataset {name}")
        for number in np.flatnonzero(skipped):
            storage.update_episode_metadata([{SKIPPED: skipped[number]}], [number])
        storage.update_metadata(
            {
                "dataset_id": name,
                "minari_version": minari.__version__,
                OURS: {**origin.model_dump(), "files": digests(aside / DATA)},
            }
        )
        namespace = parse_dataset_id(name)[0]
        if namespace is not None and namespace not in list_local_namespaces():
            create_namespace(namespace)
        require_free(name)  # another process may have been faster
        aside.rename(place(name))
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return read(name)


def unfinished() -> str:
    """What the folders begin with in which this process writes datasets that are not complete."""
    return f".recording-{os.getpid()}-"


def discard_unfinished() -> None:
    """Remove what this process has begun to write, for one that ends without unwinding."""
    for path in root().glob(f"{unfinished()}*"):
        shutil.rmtree(path, ignore_errors=True)


def columns(episode: Episode) -> dict[str, Any]:
    """An episode as Minari stores it: ends are arrays that are true at the last step at most."""
    ends = {}
    for column in ("terminated", "truncated"):
        ends[column] = np.zeros(len(episode), dtype=bool)
        ends[column][-1] = getattr(episode, column)
    return {
        "seed": episode.seed,
        "observations": episode.frames,
        "actions": episode.actions,
        "rewards": episode.rewards,
        "terminations": ends["terminated"],
        "truncations": ends["truncated"],
        "infos": {},
    }
