"""Augmentations: frame stacks -> a view that the encoder sees. One file and one YAML each."""

from __future__ import annotations

from typing import Any

from curl.augmentations.base import Augmentation
from curl.registry import build


def make(name: str, *, where: str = "", **settings: Any) -> Augmentation:
    """The augmentation of `curl/augmentations/<name>.py`, built with `settings`.

    `where` is the dotted key of the settings, for messages.
    """
    return build(Augmentation, __name__, name, settings, where=where)
