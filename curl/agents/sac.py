"""SAC on pixels with an optional auxiliary objective on the query encoder: with InfoNCE, CURL.

Soft Actor-Critic (Haarnoja et al. 2018) as CURL (Laskin, Srinivas and Abbeel 2020, section 4) puts
it on pixels. Trunk and critic.projection make f_q; their moving averages, the target critic's, f_k.

What differs from the paper: nothing known; its Table 3 is `configs/agent/curl.yaml`.
What differs from the reference code: the crop draws all offsets; the contrastive step has one
Adam for encoder and W instead of two on one gradient (`second_encoder_step`: two); the target and
actor passes that computed the same features twice compute them once.
`objective=None` is the matched control: SAC on crops alone. `joint=True` is a variant that is
faster and not the paper's: critic and contrastive loss in one backward pass and one Adam step.
Other objectives (`curl/objectives`) and views (`curl/augmentations`) make CURL's relatives.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curl.agents.base import Agent, fitting, restore, saved
from curl.augmentations.base import Augmentation
from curl.checks import integer, positive, real
from curl.data.batch import Batch, FrameStacks, Metrics
from curl.learning.capture import Captured, CapturedPolicy
from curl.learning.contrast import Contrast, ContrastOptions, ContrastViews
from curl.learning.networks import (
    Actor,
    ConvTrunk,
    Critic,
    begin_trunk,
    initialise,
    move_average,
    squashed_gaussian,
)
from curl.learning.optimisation import adam, step
from curl.learning.precision import autocast, gaussian_noise
from curl.objectives.base import Objective


class SAC(Agent):
    """Hyper-parameters as in `configs/agent/curl.yaml`, and the parts it works with.

    Args:
        channels: channels of a frame stack. action_dim: A.
        query, key: what draws the query view (that the critic sees too) and the key view.
        objective: scores query latents against key latents; None for SAC alone.
        generator: source of policy noise and views; its device is the agent's.
        precision: dtype of convolutions and hidden layers, float32 or bfloat16.
        pretrained: weights that the trunk, and with it the target trunk, begins with.
        frozen: nothing trains the trunk.
        detach_encoder: the critic does not train the trunk; the objective alone does.
        contrast: see `curl/learning/contrast.py`.
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
        convolution_init: str = "delta_orthogonal",
        hidden_dim: int = 1024,
        latent_dim: int = 50,
        # SAC
        discount: float = 0.99,
        learning_rate: float = 1e-3,
        alpha_learning_rate: float = 1e-4,
        alpha_beta1: float = 0.5,
        initial_temperature: float = 0.1,
        critic_tau: float = 0.01,
        encoder_tau: float = 0.05,
        actor_update_every: int = 2,
        target_update_every: int = 2,
        # how SAC and the objective train one encoder
        second_encoder_step: bool = False,
        joint: bool = False,
        detach_encoder: bool = False,
        capture: bool = True,
        **contrast: Unpack[ContrastOptions],
    ) -> None:
        self.query, self.key, self.generator = query, key, generator
        self.device, self.precision = generator.device, precision
        self.discount = real("discount", discount, low=0, high=1)
        self.critic_tau = real("critic_tau", critic_tau, low=0, high=1)
        self.encoder_tau = real("encoder_tau", encoder_tau, low=0, high=1)
        self.actor_update_every = integer("actor_update_every", actor_update_every)
        self.target_update_every = integer("target_update_every", target_update_every)
        self.target_entropy, self.updates = -float(action_dim), 0
        self.objective = objective and objective.to(self.device)
        parts = {"objective": self.objective, "query": query, "key": key, "frozen": frozen}
        self.contrast = Contrast(**parts, **contrast)
        self.offsets = self.contrast.offsets
        if joint and (second_encoder_step or self.contrast.every != 1):
            raise ValueError("joint=true needs second_encoder_step=false and contrastive_every=1")
        self.joint = joint and objective is not None
        self.detach_encoder = detach_encoder or frozen

        sizes = {"latent_dim": latent_dim, "hidden_dim": hidden_dim, "action_dim": action_dim}
        sizes = {name: integer(name, size) for name, size in sizes.items()}
        self.trunk = ConvTrunk(channels=channels, size=query.size, strides=strides, filters=filters)
        self.actor = Actor(features=self.trunk.features, **sizes)
        self.critic = Critic(features=self.trunk.features, **sizes, bounded=False)
        for module in (self.trunk, self.actor, self.critic):
            initialise(module, convolutions=convolution_init)
            module.to(self.device)
        begin_trunk(self.trunk, pretrained, frozen=frozen)
        self.target_trunk = copy.deepcopy(self.trunk).requires_grad_(False)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.encoder = nn.ModuleList([self.trunk, self.critic.projection])  # f_q
        self.target_encoder = nn.ModuleList([self.target_trunk, self.target_critic.projection])
        shared = self.contrast.shared_key_encoder
        self.key_encoder = self.encoder if shared else self.target_encoder  # f_k
        temperature = positive("initial_temperature", initial_temperature)
        self.log_alpha = torch.tensor(temperature, device=self.device).log().requires_grad_()

        lr = positive("learning_rate", learning_rate)
        alpha_lr = positive("alpha_learning_rate", alpha_learning_rate)
        encoder, critic = [*self.encoder.parameters()], [*self.critic.parameters()]
        critic += [] if self.detach_encoder and not self.joint else self.trunk.parameters()
        scorer = [] if self.objective is None else [*self.objective.parameters()]
        self.optimizers = {
            "critic": adam([*critic, *scorer] if self.joint else critic, lr),
            "actor": adam(self.actor.parameters(), lr),
            "alpha": adam([self.log_alpha], alpha_lr, beta1=alpha_beta1),
        }
        if self.objective is not None and not self.joint:
            self.optimizers["contrast"] = adam([*encoder, *scorer], lr)
            if second_encoder_step:
                self.optimizers["encoder"] = adam(encoder, lr)
        period = math.lcm(actor_update_every, target_update_every, self.contrast.every)
        eager = not capture or self.device.type != "cuda"
        self._captured = Captured(self.learn, period=period, generator=generator, eager=eager)
        self._acting = CapturedPolicy(self.policy, generator=generator, eager=eager)

    # -- acting ----------------------------------------------------------------------------------

    @torch.no_grad()
    def act(self, obs: FrameStacks, *, deterministic: bool) -> Tensor:
        mean, log_std = self._acting(0, self.query.evaluate(obs)).values()
        if deterministic:
            return torch.tanh(mean)
        return squashed_gaussian(mean, log_std, self._noise(mean))[0]

    def policy(self, view: Tensor) -> dict[str, Tensor]:
        """Mean before the squashing and log standard deviation, each [B, A]."""
        with self._autocast():
            features = self.trunk(view)
        # The heads stay in float32: converting their weights takes longer than a few rows do.
        mean, log_std = self.actor(features.float())
        return {"mean": mean, "log_std": log_std}

    # -- learning --------------------------------------------------------------------------------

    def update(self, batch: Batch) -> Metrics:
        """Draw the views of a batch and learn from them."""
        obs, next_obs = self.contrast.critic_views(batch.obs, batch.next_obs, self.generator)
        views = self.contrast.views(batch, self.generator, self.updates)
        transition = (obs, batch.action, batch.reward, batch.terminated, next_obs)
        metrics = self._captured(self.updates, *transition, *(views or ()))
        self.updates += 1
        return metrics

    def learn(
        self,
        obs: Tensor,
        action: Tensor,
        reward: Tensor,
        terminated: Tensor,
        next_obs: Tensor,
        *contrast: Any,
    ) -> Metrics:
        """Update number `self.updates`, in the reference's order.

        Args:
            obs, next_obs: the critic's views, [B, C, size, size].
            contrast: the fields of `ContrastViews`, which a CUDA graph takes one by one; none
                where no contrastive step is due.
        """
        views = ContrastViews(*contrast) if contrast else None
        actor_is_due = self.updates % self.actor_update_every == 0
        # The contrastive loss differentiates the features of this many rows of the critic's view.
        anchors = self.contrast.anchors(len(obs)) if views else 0
        with self._autocast():  # what several networks see is converted once
            obs, next_obs = self.trunk.scaled(obs), self.trunk.scaled(next_obs)
        y = self.bootstrapped_target(reward, terminated, next_obs)
        features = self._features(obs, graph=anchors if self.detach_encoder else len(obs))
        if self.joint and views:
            metrics = self.update_critic_and_contrast(features, action, y, views)
        else:
            metrics = self.update_critic(features, action, y)
            needed = len(obs) if actor_is_due else anchors
            # The critic's step moves the trunk, unless the encoder is detached. Neither the actor's
            # step nor the averages do, so one more pass serves the actor and the contrastive loss.
            if needed and not self.detach_encoder:
                features = self._features(obs[:needed], graph=anchors)
        if actor_is_due:
            metrics |= self.update_actor_and_alpha(features.detach())
        if self.updates % self.target_update_every == 0:
            self.update_targets()
        if views and not self.joint:
            metrics |= self.update_contrast(features, views)
        return metrics | {"batch_reward": reward.mean()}

    @torch.no_grad()
    def bootstrapped_target(self, reward: Tensor, terminated: Tensor, next_obs: Tensor) -> Tensor:
        """y = r + gamma (1 - d) (min_i Q'_i(s', a') - alpha log pi(a'|s')), a' ~ pi(.|s')."""
        with self._autocast():
            next_action, next_log_pi = self._policy(self.trunk(next_obs))
            next_latent = self.target_critic.projection(self.target_trunk(next_obs))
            next_q = torch.minimum(*self.target_critic(next_latent, next_action))
        next_v = next_q - self.log_alpha.exp() * next_log_pi
        return reward + self.discount * (~terminated).float() * next_v

    def critic_loss(self, features: Tensor, action: Tensor, y: Tensor) -> tuple[Tensor, Metrics]:
        """sum_i E[(Q_i(s, a) - y)^2]"""
        if self.detach_encoder:
            features = features.detach()
        with self._autocast():
            q1, q2 = self.critic(self.critic.projection(features), action)
        loss = F.mse_loss(q1, y) + F.mse_loss(q2, y)
        q_mean = torch.cat([q1, q2]).detach().mean()
        return loss, {"critic_loss": loss.detach(), "q_mean": q_mean}

    def contrastive_loss(self, features: Tensor, views: ContrastViews) -> tuple[Tensor, Metrics]:
        """q = f_q(query view), by default the critic's own crop; k = f_k(key view), no gradient."""
        with self._autocast():
            latents = self.contrast.latents(self.encoder, self.key_encoder, features, views)
        return self.contrast.loss(latents)

    def update_critic(self, features: Tensor, action: Tensor, y: Tensor) -> Metrics:
        """One Adam step of the query encoder, Q1 and Q2 on the critic's loss."""
        loss, metrics = self.critic_loss(features, action, y)
        return metrics | {"critic_grad_norm": step(loss, self.optimizers["critic"])}

    def update_contrast(self, features: Tensor, views: ContrastViews) -> Metrics:
        """One Adam step of the query encoder and the objective (two, if asked, of the encoder)."""
        loss, metrics = self.contrastive_loss(features, views)
        optimizers = [o for name, o in self.optimizers.items() if name in ("contrast", "encoder")]
        return metrics | {"contrastive_grad_norm": step(loss, *optimizers)}

    def update_critic_and_contrast(
        self, features: Tensor, action: Tensor, y: Tensor, views: ContrastViews
    ) -> Metrics:
        """The `joint` variant: both losses in one backward pass and step."""
        critic_loss, metrics = self.critic_loss(features, action, y)
        contrastive_loss, contrastive = self.contrastive_loss(features, views)
        norm = step(critic_loss + contrastive_loss, self.optimizers["critic"])
        return metrics | contrastive | {"critic_grad_norm": norm}

    def update_actor_and_alpha(self, features: Tensor) -> Metrics:
        """Actor: E[alpha log pi - min_i Q_i]; temperature: E[alpha (-log pi - H)], H = -|A|.

        `features` carry no gradient: the actor does not train the convolutions.
        """
        alpha = self.log_alpha.exp()
        with self._autocast():
            action, log_pi = self._policy(features)
            with torch.no_grad():
                latent = self.critic.projection(features)
            q = torch.minimum(*self.critic(latent, action))
        loss = (alpha.detach() * log_pi - q).mean()
        norm = step(loss, self.optimizers["actor"])
        entropy = -log_pi.detach().mean()
        alpha_loss = alpha * (entropy - self.target_entropy)
        step(alpha_loss, self.optimizers["alpha"])
        return {
            "actor_loss": loss.detach(),
            "actor_grad_norm": norm,
            "entropy": entropy,
            "alpha": alpha.detach(),
            "alpha_loss": alpha_loss.detach(),
        }

    @torch.no_grad()
    def update_targets(self) -> None:
        """Moving averages: Q1 and Q2 by critic_tau, the encoder by encoder_tau."""
        pairs = [
            (self.target_critic.q1, self.critic.q1, self.critic_tau),
            (self.target_critic.q2, self.critic.q2, self.critic_tau),
            (self.target_encoder, self.encoder, self.encoder_tau),
        ]
        for target, source, tau in pairs:
            move_average(target.parameters(), source.parameters(), tau)

    # -- saving ----------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        others = {"log_alpha": self.log_alpha.detach().clone(), "updates": self.updates}
        return saved(self._modules(), self.optimizers) | others

    def load(self, state: Mapping[str, Any]) -> None:
        with fitting(), torch.no_grad():
            restore(state, self._modules(), self.optimizers)
            self.log_alpha.copy_(state["log_alpha"])
            self.updates = int(state["updates"])
        self._captured.forget()
        self._acting.forget()

    def _modules(self) -> dict[str, nn.Module]:
        names = ("trunk", "actor", "critic", "target_trunk", "target_critic", "objective")
        return {n: getattr(self, n) for n in names if getattr(self, n) is not None}

    # -- parts of an update ----------------------------------------------------------------------

    def _features(self, obs: Tensor, *, graph: int) -> Tensor:
        """The trunk's features [B, F], where only the first `graph` rows record a gradient."""
        parts = []
        for some, recorded in ((obs[:graph], True), (obs[graph:], False)):
            if len(some):
                with torch.set_grad_enabled(recorded), self._autocast():
                    parts.append(self.trunk(some))
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _policy(self, features: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.actor(features)
        return squashed_gaussian(mean, log_std, self._noise(mean))

    def _noise(self, like: Tensor) -> Tensor:
        return gaussian_noise(like, self.generator)

    def _autocast(self) -> torch.autocast:
        return autocast(self.device, self.precision)
