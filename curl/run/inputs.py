"""What a run takes in when it begins: a recorded dataset, and what another run has learned.

Both are looked at before anything is opened, so that a misspelt name is one line at once. A run
that is resumed has taken over what it needed, so it does not read `init_from` again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from curl.agents.base import Agent
from curl.data import dataset
from curl.data.layout import DatasetError
from curl.learning.networks import ConvTrunk
from curl.run.build import build_agent, takes_over
from curl.run.checkpoint import CheckpointError, refuse_foreign_content
from curl.run.folder import RunFolder
from curl.run.policy import load, read
from curl.schema import SettingsError


@dataclass(frozen=True)
class Inputs:
    """What a run takes in, read once.

    Attributes:
        dataset: its episodes are not read yet; None: the run has none.
        trunk: weights of the trunk to begin with; None: those of its own initialisation, or the run
            has begun already.
        state: state of the agent to begin with; None as for the trunk.
        source: where trunk or state come from, for messages.
    """

    dataset: dataset.Dataset | None
    trunk: dict[str, Tensor] | None
    state: dict[str, Any] | None
    source: str | None


def taken_in(config: Mapping[str, Any]) -> Inputs:
    """The dataset and the run that a configuration names, if they can be used.

    Raises:
        SettingsError: they cannot; one line.
    """
    found, source = recorded(config), config["init_from"]
    if RunFolder(Path(config["run_dir"])).states():
        return Inputs(found, None, None, source)
    trunk = trunk_of(config)
    if trunk is not None:
        try:
            with torch.random.fork_rng(devices=()):
                build_agent(config, action_dim=1, generator=torch.Generator(), pretrained=trunk)
        except ValueError as error:
            raise SettingsError(f"init_from={source}: {error}") from None
    return Inputs(found, trunk, state_of(config), source)


def recorded(config: Mapping[str, Any]) -> dataset.Dataset | None:
    """The dataset of a run, whose episodes are not read yet; None if it has none.

    Raises:
        SettingsError: it is missing or damaged, its frames or its environment are not those of the
            run, or it has fewer episodes than the run wants.
    """
    name = config["dataset"]
    if name is None:
        return None
    task = config["task"]
    try:
        found = dataset.read(name)
        found.require(
            environment=task["env_id"],
            action_repeat=task["action_repeat"],
            render_size=config["render_size"],
        )
    except DatasetError as error:
        raise SettingsError(f"dataset={name}: {error}") from None
    wanted = config["dataset_episodes"]
    if wanted is not None and wanted > len(found):
        raise SettingsError(
            f"dataset_episodes={wanted}: the dataset {name} has {len(found)} episodes"
        )
    return found


def trunk_of(config: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """The weights of the trunk that a new run begins with; None: those of its own initialisation.

    Raises:
        SettingsError: `init_from` is no run, or its trunk cannot be found.
    """
    if takes_over(config) != "trunk":
        return None
    run = config["init_from"]
    try:
        trunk = getattr(load(run, device="cpu").agent, "trunk", None)
    except CheckpointError as error:
        raise SettingsError(f"init_from={run}: {error}") from None
    if not isinstance(trunk, ConvTrunk):
        raise SettingsError(f"init_from={run}: its agent has no trunk to take over")
    return trunk.weights()  # which say more than a state does: how they are used


def state_of(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The state of the agent that a new run begins with; None if it begins with its own.

    Raises:
        SettingsError: `init_from` is no run.
    """
    return learned(config) if takes_over(config) == "agent" else None


def learned(config: Mapping[str, Any]) -> dict[str, Any]:
    """The state of the agent of `init_from`; `SettingsError` if there is none."""
    run = config["init_from"]
    try:
        with refuse_foreign_content(Path(run)):
            return dict(read(Path(run))["agent"])
    except CheckpointError as error:
        raise SettingsError(f"init_from={run}: {error}") from None


def take_over(agent: Agent, inputs: Inputs) -> None:
    """Let a new agent begin as the whole agent of `init_from`, if the run wants that.

    Raises:
        SettingsError: that agent is another one.
    """
    if inputs.state is None:
        return
    try:
        agent.load(inputs.state)
    except ValueError as error:
        raise SettingsError(f"init_from={inputs.source}: {error}") from None
