"""Agents: learners that act and update. One file and one YAML each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from curl.agents.base import Agent
from curl.registry import build


def make(name: str, *, offered: Mapping[str, Any], where: str = "", **settings: Any) -> Agent:
    """The agent of `curl/agents/<name>.py`, built with `settings`.

    Args:
        offered: parts and sizes, for a constructor that names them.
        where: dotted key of the settings, for messages.
    """
    return build(Agent, __name__, name, settings, offered, where)
