"""Folders in the two layouts of V-D4RL, written from episodes as V-D4RL's own programs do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from curl.data.episode import Episode

LAYOUTS = (".npz", ".hdf5")


def rows(episode: Episode) -> dict[str, np.ndarray]:
    """What both layouts hold of an episode of T transitions, in T + 1 rows.

    A row has what led to its frame. The first one has values that mean nothing, and which would be
    noticed if they were taken for a transition.
    """
    count = len(episode.frames)
    discount = np.ones(count, np.float32)
    discount[-1] = 0.0 if episode.terminated else 1.0
    return {
        "action": np.concatenate([np.full_like(episode.actions[:1], 9.0), episode.actions]),
        "reward": np.concatenate([np.full(1, np.nan, np.float32), episode.rewards]),
        "discount": discount,
    }


def write_npz(path: Path, episode: Episode, **changes: Any) -> None:
    """One episode of 64 pixels, or of any others; a change of None takes an array away."""
    count = len(episode.frames)
    marks = {key: np.zeros(count, bool) for key in ("is_first", "is_last", "is_terminal")}
    marks["is_first"][0], marks["is_last"][-1] = True, episode.terminated or episode.truncated
    marks["is_terminal"][-1] = episode.terminated
    content = {"image": episode.frames, **rows(episode), **marks} | changes
    np.savez_compressed(path, **{k: v for k, v in content.items() if v is not None})


def write_hdf5(path: Path, episodes: Sequence[Episode], **changes: Any) -> None:
    """A shard of some episodes, with gzip; a change of None takes an array away."""
    parts: list[Mapping[str, np.ndarray]] = []
    for episode in episodes:
        kind = np.ones(len(episode.frames))  # V-D4RL has float64 here
        kind[0], kind[-1] = 0, 2 if episode.terminated or episode.truncated else 1
        frames = episode.frames.transpose(0, 3, 1, 2)
        parts.append({"observation": frames, **rows(episode), "step_type": kind})
    content = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]} | changes
    with h5py.File(path, "w") as file:
        for key, value in content.items():
            if value is not None:
                file.create_dataset(key, data=value, compression="gzip")


def write_folder(folder: Path, layout: str, episodes: Sequence[Episode]) -> None:
    """A folder of episodes; shards hold two of them each."""
    folder.mkdir(parents=True)
    if layout == ".npz":
        for number, episode in enumerate(episodes):
            name = f"20220609T1{number:05d}-abc{number}-{len(episode.frames)}.npz"
            write_npz(folder / name, episode)
    else:
        for shard, first in enumerate(range(0, len(episodes), 2)):
            write_hdf5(folder / f"{shard}.hdf5", episodes[first : first + 2])
