"""Behaviour cloning from pixels, with an optional auxiliary objective on its encoder.

Regression of the data's actions, as the BC of V-D4RL (Lu et al. 2023, section 4) does it with the
networks of DrQ-v2: trunk -> projection -> MLP -> tanh. The policy is deterministic, and its loss is
the mean squared error between its action and the data's. Rewards are never read.

With an objective, each update ends with a step of the query encoder (trunk and projection) and the
objective on the objective's loss, with an Adam of their own, as in `curl/agents/sac.py`.
`detach_encoder=True` leaves the encoder to the objective alone. This is how an encoder is
pretrained on data: the cloned policy is then a probe of what its latents know, and teaches them
nothing.

What differs from V-D4RL's code:
- It adds exploration noise to the policy's action before it takes the error; here the error is that
  of the action itself, which has the same minimum and less variance.
- Acting never adds noise, because that would be another policy than the one that was cloned.
- Trunk and policy have one Adam instead of two of the same learning rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curl.agents.base import Agent, fitting, restore, saved
from curl.augmentations.base import Augmentation
from curl.checks import integer, positive
from curl.data.batch import Batch, FrameStacks, Metrics
from curl.learning.auxiliary import Auxiliary
from curl.learning.capture import Captured, CapturedPolicy
from curl.learning.contrast import Contrast, ContrastOptions, ContrastViews
from curl.learning.networks import (
    ConvTrunk,
    DeterministicActor,
    begin_trunk,
    initialise,
)
from curl.learning.optimisation import adam, step
from curl.learning.precision import autocast
from curl.objectives.base import Objective


class BC(Agent):
    """Hyper-parameters as in `configs/agent/bc.yaml`, and the parts it works with.

    Args:
        channels: channels of a frame stack. action_dim: A.
        query, key: what draws the query view (that the policy sees too) and the key view.
        objective: scores query latents against key latents; None for cloning alone.
        generator: source of views; its device is the agent's.
        precision: dtype of convolutions and hidden layers, float32 or bfloat16.
        pretrained: weights that the trunk begins with.
        frozen: nothing trains the trunk.
        detach_encoder: cloning does not train trunk and projection; the objective alone does.
            Where the trunk is frozen, cloning trains the projection in any case.
        encoder_tau: of the key encoder, where there is an objective.
        contrast: see `curl/learning/contrast.py`; the policy sees what is the critic's there.

    Raises:
        ValueError: nothing would train the encoder, besides what its parts refuse.
    """

    def __init__(
        self,
        *,
        channels: int,
        action_dim: int,
        query: Augmentation,
        key: Augmentation,
        objective: Objective | None,
        generator: torch.Generator,
        precision: torch.dtype = torch.float32,
        pretrained: Mapping[str, Tensor] | None = None,
        frozen: bool = False,
        # the networks
        strides: Sequence[int] = (2, 1, 1, 1),
        filters: int = 32,
        hidden_dim: int = 1024,
        latent_dim: int = 50,
        # cloning, and how it shares the encoder with the objective
        learning_rate: float = 1e-4,
        encoder_tau: float = 0.05,
        detach_encoder: bool = False,
        capture: bool = True,
        **contrast: Unpack[ContrastOptions],
    ) -> None:
        if detach_encoder and objective is None and not frozen:
            raise ValueError("detach_encoder=true leaves the encoder to an objective, and none is")
        self.query, self.generator = query, generator
        self.device, self.precision = generator.device, precision
        self.frozen, self.detach_encoder = frozen, detach_encoder and not frozen
        self.updates = 0
        self.objective = objective and objective.to(self.device)
        parts = {"objective": self.objective, "query": query, "key": key, "frozen": frozen}
        self.contrast = Contrast(**parts, **contrast)
        self.offsets = self.contrast.offsets

        sizes = {"latent_dim": latent_dim, "hidden_dim": hidden_dim, "action_dim": action_dim}
        sizes = {name: integer(name, size) for name, size in sizes.items()}
        self.trunk = ConvTrunk(
            channels=channels, size=query.size, strides=strides, filters=filters, centred=True
        )
        self.actor = DeterministicActor(features=self.trunk.features, **sizes)
        for module in (self.trunk, self.actor):
            initialise(module, convolutions="orthogonal")
            module.to(self.device)
        begin_trunk(self.trunk, pretrained, frozen=frozen)
        self.encoder = nn.ModuleList([self.trunk, self.actor.projection])  # f_q

        lr = positive("learning_rate", learning_rate)
        cloned = [*self.actor.policy.parameters()]
        if not self.detach_encoder:
            cloned += self.actor.projection.parameters()
            cloned += [] if frozen else self.trunk.parameters()
        self.auxiliary = Auxiliary(
            self.contrast,
            objective=self.objective,
            encoder=self.encoder,
            learning_rate=lr,
            encoder_tau=encoder_tau,
            precision=precision,
        )
        self.optimizers = {"actor": adam(cloned, lr), **self.auxiliary.optimizers}
        period, eager = self.contrast.every, not capture or self.device.type != "cuda"
        self._captured = Captured(self.learn, period=period, generator=generator, eager=eager)
        self._acting = CapturedPolicy(self.policy, generator=generator, eager=eager)

    # -- acting ----------------------------------------------------------------------------------

    @torch.no_grad()
    def act(self, obs: FrameStacks, *, deterministic: bool) -> Tensor:
        """The cloned action in either case."""
        return self._acting(0, self.query.evaluate(obs))["mean"]

    def policy(self, view: Tensor) -> dict[str, Tensor]:
        """The action [B, A]."""
        with self._autocast():
            features = self.trunk(view)
        # The heads stay in float32: converting their weights takes longer than a few rows do.
        return {"mean": self.actor(features.float())}

    # -- learning --------------------------------------------------------------------------------

    def update(self, batch: Batch) -> Metrics:
        """Draw the views of a batch and learn from them."""
        obs = self.contrast.view(batch.obs, self.generator)
        views = self.contrast.views(batch, self.generator, self.updates)
        metrics = self._captured(self.updates, obs, batch.action, *(views or ()))
        self.updates += 1
        return metrics

    def learn(self, obs: Tensor, action: Tensor, *contrast: Any) -> Metrics:
        """Update number `self.updates`: policy, objective, average.

        Args:
            obs: the policy's view, [B, C, size, size].
            action: the data's, [B, A].
            contrast: the fields of `ContrastViews`, which a CUDA graph takes one by one; none
                where no contrastive step is due.
        """
        views = ContrastViews(*contrast) if contrast else None
        with self._autocast():
            obs = self.trunk.scaled(obs)  # for two passes
        features = self._features(obs)
        metrics = self.update_policy(features, action)
        if views:
            anchors = self.contrast.anchors(len(obs))
            if anchors and not self.detach_encoder:  # the policy's step has moved the trunk
                features = self._features(obs[:anchors])
            metrics |= self.auxiliary.update(features, views)
        self.auxiliary.update_average()
        return metrics

    def update_policy(self, features: Tensor, action: Tensor) -> Metrics:
        """One Adam step on E[(pi(s) - a)^2], the mean over actions' dimensions too."""
        with self._autocast():
            latent = self.actor.projection(features)
            if self.detach_encoder:
                latent = latent.detach()
            mean = torch.tanh(self.actor.policy(latent))
        loss = F.mse_loss(mean, action)
        norm = step(loss, self.optimizers["actor"])
        return {"actor_loss": loss.detach(), "actor_grad_norm": norm}

    # -- saving ----------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        return saved(self._modules(), self.optimizers) | {"updates": self.updates}

    def load(self, state: Mapping[str, Any]) -> None:
        with fitting():
            restore(state, self._modules(), self.optimizers)
            self.updates = int(state["updates"])
        self._captured.forget()
        self._acting.forget()

    def _modules(self) -> dict[str, nn.Module]:
        names = ("trunk", "actor")
        return {name: getattr(self, name) for name in names} | self.auxiliary.modules

    # -- parts of an update ----------------------------------------------------------------------

    def _features(self, obs: Tensor) -> Tensor:
        with torch.set_grad_enabled(not self.frozen), self._autocast():
            return self.trunk(obs)

    def _autocast(self) -> torch.autocast:
        return autocast(self.device, self.precision)
