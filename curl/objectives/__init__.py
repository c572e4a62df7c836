"""Objectives: latents -> a loss that shapes the encoder. One file and one YAML each."""

from __future__ import annotations

from typing import Any

from curl.objectives.base import Objective
from curl.registry import build, require_name
from curl.schema import Settings, require


def make(
    name: str, *, latent_dim: int | None, action_dim: int, where: str = "", **settings: Any
) -> Objective | None:
    """The objective of `curl/objectives/<name>.py`; None for `none`, plain SAC.

    `where` is the dotted key of the settings, for messages.
    """
    require_name(__name__, name, where, others=("none",))
    if name == "none":
        require(Settings, settings, where or "objective")  # it has none
        return None
    sizes = {"latent_dim": latent_dim, "action_dim": action_dim}
    return build(Objective, __name__, name, settings, sizes, where)
