"""Configurations as train.py composes them."""

from __future__ import annotations

import functools
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from support.paths import CONFIGS


@functools.cache
def composed(*overrides: str) -> dict[str, Any]:
    """The configuration that `python train.py <overrides>` runs with; unresolvable ones raise."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = OmegaConf.to_container(compose("train", overrides=list(overrides)), resolve=True)
    assert isinstance(config, dict)
    return config
