"""What configs/train.yaml adds to the label of a run: `${suffix:${shift}}`.

Whoever composes configs/train.yaml imports this module first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf


def suffix(shift: Mapping[str, Any] | None) -> str:
    """A hyphen and the label of each shift; nothing where the environment looks as it does."""
    own = (settings for settings in (shift or {}).values() if isinstance(settings, Mapping))
    return "".join(f"-{settings.get('label', '')}" for settings in own)


OmegaConf.register_new_resolver("suffix", suffix, replace=True)
