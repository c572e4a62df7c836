"""Where recorded datasets lie on this machine, what they are called, and how one is laid out.

Minari (https://minari.farama.org) names the datasets, and stores each one in an HDF5 file. By
default it encodes frames of 32 pixels and more as JPEG, which changes them. That is switched off
here. Only datasets on this machine are read: nothing is ever downloaded. Minari is imported where
it is needed, because training starts without it.
"""

from __future__ import annotations

import os
from pathlib import Path

import gymnasium as gym
import numpy as np

from curl.data.episode import Episode, Origin
from curl.files import sha256

DATA, METADATA = "data", "metadata.json"  # of a dataset's folder, as Minari names them
OURS = "curl"  # the key of our own entries in Minari's metadata
SKIPPED = "skipped_steps"  # attribute of an episode that lacks its beginning


class DatasetError(ValueError):
    """A dataset that is missing, damaged or of other sizes, or a name that is none."""


def root() -> Path:
    """The folder of Minari's local datasets, which need not exist: MINARI_DATASETS_PATH, if set.

    It is absolute, because Minari cannot write to a relative path.
    """
    chosen = os.environ.get("MINARI_DATASETS_PATH")
    return Path.home() / ".minari" / "datasets" if chosen is None else Path(chosen).absolute()


def place(name: str) -> Path:
    """The folder of the dataset with this name, whether or not it exists.

    Raises:
        DatasetError: Minari does not take such a name.
    """
    from minari.dataset.minari_dataset import parse_dataset_id

    try:
        parse_dataset_id(name)
        sound = "//" not in name
    except (ValueError, TypeError):  # TypeError: it has no version
        sound = False
    if not sound:
        raise DatasetError(
            f"{name!r} is no name of a dataset: names are like cartpole_swingup/expert-v0, "
            "which is an optional namespace, a name and a version, of letters, digits, _ and -"
        )
    return root() / name


def require_free(name: str) -> None:
    """`DatasetError` if there is a dataset of this name already, or the name is none."""
    if place(name).exists():
        raise DatasetError(
            f"the dataset {name} exists already in {root()}; take another name or version"
        )


def local_names() -> list[str]:
    """The names of all datasets on this machine."""
    found = root().glob(f"**/{DATA}/{METADATA}")
    names = [path.parent.parent.relative_to(root()).as_posix() for path in found]
    return sorted(name for name in names if not name.startswith("."))


def require_sizes(episode: Episode, origin: Origin) -> None:
    """`ValueError` unless an episode has the frames and actions that its dataset declares."""
    found = episode.frames.shape[1], episode.actions.shape[1]
    wanted = origin.render_size, origin.action_dim
    if found != wanted:
        raise ValueError(
            f"an episode has frames of {found[0]} pixels and {found[1]} action components, and "
            f"not {wanted[0]} and {wanted[1]}"
        )


def frame_space(edge: int) -> gym.spaces.Box:
    return gym.spaces.Box(0, 255, (edge, edge, 3), np.uint8)


def action_space(action_dim: int) -> gym.spaces.Box:
    return gym.spaces.Box(-1, 1, (action_dim,), np.float32)


def digests(folder: Path) -> dict[str, str]:
    """File name -> SHA-256, of the files with the episodes."""
    return {path.name: sha256(path) for path in sorted(folder.iterdir()) if path.name != METADATA}
