"""The parts of an agent that an inspection looks at, found by the names that all agents share.

    encoder      [trunk, projection], the query encoder
    actor        Actor or DeterministicActor of curl/learning/networks.py
    critic       Critic, and `discount`
    value        a network of features, where the agent has one of its own (IQL)
    contrast     Contrast, with `objective`, which may be None
    log_alpha    the logarithm of SAC's temperature

An agent that lacks one of them is inspected without it. Everything is computed in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from curl.agents.base import Agent
from curl.data.batch import Batch
from curl.learning.contrast import Contrast
from curl.learning.networks import MLP, ConvTrunk, Critic, squashed_gaussian
from curl.objectives.base import Latents, Objective


@dataclass(frozen=True)
class Parts:
    """An agent taken apart."""

    agent: Agent
    encoder: nn.ModuleList | None
    key_encoder: nn.ModuleList | None
    actor: Any
    critic: Critic | None
    value_network: nn.Module | None
    contrast: Contrast | None
    objective: Objective | None
    discount: float | None

    @classmethod
    def of(cls, agent: Agent) -> Parts:
        def find(name: str, kind: type) -> Any:
            found = getattr(agent, name, None)
            return found if isinstance(found, kind) else None

        encoder = find("encoder", nn.ModuleList)
        auxiliary = getattr(agent, "auxiliary", agent)
        return cls(
            agent=agent,
            encoder=encoder,
            key_encoder=getattr(auxiliary, "key_encoder", None) or encoder,
            actor=getattr(agent, "actor", None),
            critic=find("critic", Critic),
            value_network=find("value", nn.Module),
            contrast=find("contrast", Contrast),
            objective=find("objective", Objective),
            discount=find("discount", float),
        )

    @property
    def trunk(self) -> ConvTrunk:
        return self.agent.trunk

    # -- what its networks compute, of features [B, F] ---------------------------------------------

    def latent(self, features: Tensor) -> Tensor:
        """[B, D], of the query encoder."""
        assert self.encoder is not None
        return self.encoder[1](features)

    def q(self, features: Tensor, action: Tensor) -> Tensor:
        """min_i Q_i(s, a), [B, 1]."""
        assert self.critic is not None
        return torch.minimum(*self.critic(self.critic.projection(features), action))

    def raw_action(self, features: Tensor) -> Tensor:
        """The mean action before tanh, [B, A], where its gradient does not vanish."""
        output = self.actor.policy(self.actor.projection(features))
        found = self.actor(features)
        return output if isinstance(found, Tensor) else found[0]

    def mean_action(self, features: Tensor) -> Tensor:
        """The mean action in [-1, 1], [B, A]."""
        return torch.tanh(self.raw_action(features))

    def value(self, features: Tensor) -> Tensor:
        """V(s), [B, 1]: that of the agent's own network, else Q of the mean action."""
        if self.value_network is not None:
            return self.value_network(features)
        return self.q(features, self.mean_action(features))

    def entropy_bonus(self, features: Tensor, noise: Tensor) -> Tensor:
        """alpha * H(pi(.|s)), [B], which SAC's soft values hold; 0 for other agents.

        Args:
            noise: float32 [N, B, A], standard normal; the mean of -log pi over N actions is H.
        """
        log_alpha = getattr(self.agent, "log_alpha", None)
        if log_alpha is None:
            return torch.zeros(len(features), device=features.device)
        mean, log_std = self.actor(features)
        log_pi = torch.stack([squashed_gaussian(mean, log_std, each)[1] for each in noise])
        return -log_alpha.exp() * log_pi.mean(0).squeeze(1)

    # -- the auxiliary task ------------------------------------------------------------------------

    def latents(
        self, batch: Batch, generator: torch.Generator
    ) -> tuple[Latents, Tensor, Tensor | None]:
        """What the objective would learn from a batch, the first query views and the key views.

        Returns:
            Latents; views of the query encoder, [R, C, size, size]; views of the key encoder at the
            first key offset, the same shape, or None where the objective wants no keys.
        """
        contrast = self.contrast
        assert contrast is not None and self.objective is not None
        assert self.encoder is not None and self.key_encoder is not None
        seen = contrast.view(batch.obs, generator)
        views = contrast.views(batch, generator, 0)
        assert views is not None
        latents = contrast.latents(self.encoder, self.key_encoder, self.trunk(seen), views)
        rows = latents.query.shape[1]
        queries = seen if contrast.shares_view or views.queries is None else views.queries
        return latents, queries[:rows], None if views.keys is None else views.keys[:rows]

    # -- the layers that end in a ReLU -------------------------------------------------------------

    def rectified(self) -> dict[str, nn.Module]:
        """Name -> layer in front of each ReLU, from the trunk to the heads."""
        found: dict[str, nn.Module] = {
            f"trunk.{number}": layer for number, layer in enumerate(self.trunk.convolutions)
        }
        for name in ("actor", "critic", "value"):
            module = getattr(self.agent, name, None)
            for path, part in module.named_modules() if isinstance(module, nn.Module) else ():
                if isinstance(part, MLP):
                    layers = enumerate(part.hidden)
                    found |= {f"{name}.{path}.{number}": layer for number, layer in layers}
        return found

    def run(self, features: Tensor, action: Tensor) -> None:
        """Run every head once, for hooks on their layers."""
        if self.critic is not None:
            self.q(features, action)
        if self.actor is not None:
            self.actor(features)
        if self.value_network is not None:
            self.value_network(features)
