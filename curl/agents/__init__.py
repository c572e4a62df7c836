"""Agents: learners that act and update. One file and one YAML each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from curl import registry
from curl.agents.base import Agent


def make(name: str, *, offered: Mapping[str, Any], where: str = "", **settings: Any) -> Agent:
    """The agent of `curl/agents/<name>.py`, built with `settings`.

    Args:
        offered: parts and sizes, for a constructor that names them.
        where: dotted key of the settings, for messages.
    """
    return registry.build(Agent, __name__, name, settings, offered, where)


def require_use(name: str, chosen: Mapping[str, str], *, where: str = "") -> None:
    """`SettingsError` if the agent of `curl/agents/<name>.py` would ignore a part that was chosen.

    Args:
        chosen: the name of an offered part -> how to choose nothing for it, for the message.
        where: dotted key of the settings, for messages.
    """
    registry.require_use(Agent, __name__, name, chosen, where)
