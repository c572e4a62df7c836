"""Agents: learners that act and update. One file and one YAML each."""

from __future__ import annotations

from typing import Any

from curl.agents.base import Agent
from curl.registry import build


def make(name: str, **settings: Any) -> Agent:
    """The agent of `curl/agents/<name>.py`, built with `settings`."""
    return build(Agent, __name__, name, settings)
