"""What a trainer, an evaluation and a checkpoint need of an agent.

A new agent is one file here and one YAML in `configs/agent`. Its constructor takes its settings as
keywords, and those of these parts that it names (`curl/run/build.py` offers them):

    channels            int, channels of a frame stack
    action_dim          int, A
    query, key          Augmentation, what draws views
    objective           Objective or None
    generator           torch.Generator; its device is where the agent lives
    precision           torch.dtype of convolutions and hidden layers
    pretrained          Mapping[str, Tensor] or None, `ConvTrunk.weights()` to begin with
    frozen              bool, whether nothing ever trains the trunk
    updates_per_step    float, updates that the loop makes per agent step

What agents are made of is in `curl/learning`: networks, optimisers, noise and autocast, n-step
returns, the contrast, and updates that are recorded in CUDA graphs. `saved`, `restore` and
`fitting` below write and read a state. `tests/contracts/test_agents.py` tests every agent.

The encoder that one run takes over from another is the trunk, the convolutions, as in Stooke et al.
(2021), section 4. Projections and heads begin anew. An agent that names `pretrained` and `frozen`
has the attribute `trunk`, a `ConvTrunk`, and the key `modules.trunk` in its state, and calls
`begin_trunk` before it copies the trunk.

A run whose agent does not name a part that the configuration has chosen (an objective, say) is
refused. The YAML may prescribe sizes of the loop, as `configs/agent/drqv2.yaml` does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from curl.augmentations.base import Augmentation
from curl.data.batch import Batch, FrameStacks, Metrics
from curl.learning.networks import ConvTrunk
from curl.learning.optimisation import load_optimizer


class Agent(ABC):
    """Acts on frame stacks and learns from batches."""

    offsets: tuple[int, ...] = ()
    """Later time offsets that its batches must carry in `Batch.future`."""

    trunk: ConvTrunk
    """Views [B, C, size, size] -> features [B, F]. Another run may begin with it."""

    query: Augmentation
    """What draws the view that the policy acts on."""

    offline_only: bool = False
    """Whether it learns from the actions of others alone: its own would teach it nothing."""

    @abstractmethod
    def act(self, obs: FrameStacks, *, deterministic: bool) -> Tensor:
        """Actions float32 [B, A] in [-1, 1] for B stacks: the policy's own, or exploring ones.

        Deterministic actions draw no random number and change nothing.
        """

    @torch.no_grad()
    def features(self, obs: FrameStacks) -> Tensor:
        """What the trunk makes of B stacks, seen as in evaluations: float32 [B, F]."""
        return self.trunk(self.query.evaluate(obs)).float()

    @abstractmethod
    def update(self, batch: Batch) -> Metrics:
        """One gradient update; scalar metrics that stay on the device, or none."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Everything that learning needs to continue, as tensors, numbers and dicts."""

    @abstractmethod
    def load(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`. `ValueError` if it does not fit."""


Modules = Mapping[str, nn.Module]
Optimizers = Mapping[str, torch.optim.Optimizer]


def saved(modules: Modules, optimizers: Optimizers) -> dict[str, Any]:
    """The states of modules and optimisers, by name."""
    return {
        "modules": {name: module.state_dict() for name, module in modules.items()},
        "optimizers": {name: optimizer.state_dict() for name, optimizer in optimizers.items()},
    }


def restore(state: Mapping[str, Any], modules: Modules, optimizers: Optimizers) -> None:
    """The inverse of `saved`, under `fitting`."""
    if not isinstance(state, Mapping):
        raise TypeError(f"a {type(state).__name__} instead of a mapping")
    for kind, ours in (("modules", modules), ("optimizers", optimizers)):
        if differing := set(state[kind]) ^ set(ours):
            raise ValueError(f"{kind} differ: {', '.join(sorted(differing))}")
    for name, module in modules.items():
        module.load_state_dict(state["modules"][name])
    for name, optimizer in optimizers.items():
        load_optimizer(optimizer, state["optimizers"][name])


@contextmanager
def fitting() -> Iterator[None]:
    """Whatever a state of another agent raises becomes one `ValueError`."""
    try:
        yield
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"the saved agent does not fit this one: {str(error)[:200]}") from None
