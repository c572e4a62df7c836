"""An agent that would ignore what the configuration chose is refused, in one line, before a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import curl.agents
from curl.run import build
from support.configuration import composed
from support.typed import Typed, assert_refused

BLIND = '''
"""An agent that looks at nothing."""
import torch
from curl.agents.base import Agent


class Blind(Agent):
    def __init__(self, *, action_dim, generator, latent_dim, {parts}):
        self.action_dim, self.generator = action_dim, generator

    def act(self, obs, *, deterministic):
        return torch.zeros(len(obs), self.action_dim, device=self.generator.device)

    def update(self, batch):
        return {{}}

    def state(self):
        return {{"modules": {{}}}}

    def load(self, state):
        pass
'''
PLAIN = ("augmentation=none", "objective=none", "precision=float32")
PARTS = ("query", "key", "objective", "precision")


@pytest.fixture(autouse=True)
def strangers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package `curl.agents` with an agent for each part, which takes the other three."""
    folder = tmp_path.with_name(f"{tmp_path.name}-agents")  # the working directory stays empty
    folder.mkdir()
    for part in PARTS:
        others = ", ".join(other for other in PARTS if other != part)
        (folder / f"without_{part}.py").write_text(BLIND.format(parts=others))
    (folder / "with_all.py").write_text(BLIND.format(parts=", ".join(PARTS)))
    monkeypatch.setattr(curl.agents, "__path__", [*curl.agents.__path__, str(folder)])
    monkeypatch.syspath_prepend(str(folder))  # also forgets what was looked up before


CASES = [
    ("objective", ["objective=cpc"], "objective=none"),
    ("query", ["augmentation=crop", "objective=none"], "augmentation=none"),
    ("key", ["augmentation=gaussian"], "an augmentation whose key view is like its query view"),
    ("precision", ["precision=bfloat16", "objective=none"], "precision=float32"),
]


@pytest.mark.parametrize(("part", "overrides", "remedy"), CASES)
def test_a_run_whose_agent_ignores_a_part_is_refused(
    typed: Typed,
    tmp_path: Path,
    part: str,
    overrides: list[str],
    remedy: str,
) -> None:
    reason = f"agent.name=without_{part} does not use {part}: choose {remedy}"
    line = [f"agent.name=without_{part}", *overrides]
    assert_refused(typed, tmp_path, *line, reason=reason)
    assert_refused(typed, tmp_path, "-m", "seed=1,2", *line, reason=reason)


@pytest.mark.parametrize(("part", "overrides", "remedy"), CASES)
def test_what_an_agent_uses_is_not_refused(part: str, overrides: list[str], remedy: str) -> None:
    """An agent with all parts runs with each choice, one without a part with no choice of it."""
    chosen, plain = composed(*overrides), composed(*PLAIN)
    for config, name in ((chosen, "with_all"), (plain, f"without_{part}")):
        agent = {"name": name, "label": name, "latent_dim": 8}
        build.build_agent(config | {"agent": agent}, action_dim=2, generator=torch.Generator())
