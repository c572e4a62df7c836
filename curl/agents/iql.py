"""Implicit Q-learning from pixels, with an optional auxiliary objective.

Kostrikov, Nair and Levine (2021), section 4, for recorded data. V is an upper expectile of Q over
the data's actions, Q bootstraps from V, and the policy is cloned with weights that grow with the
advantage. No action is ever evaluated that is not in the data.

The paper learns from states. On pixels, this agent does what DrQ-v2 does (`curl/agents/drqv2.py`):
it sees random shifts, the critic's loss alone trains the one trunk, and critic, value and policy
have a projection each. The first author's later code for pixels (jaxrl2, `PixelIQLLearner` with
`share_encoder`) shares the trunk in the same way. With an objective, each update ends with a step
of the query encoder (trunk and critic.projection) and the objective, as in DrQ-v2.

What differs from the paper and its code, besides pixels:
- The target critic has its own projection, but no trunk of its own.
- Hidden layers and batches have DrQ-v2's sizes, and the actor's learning rate does not decay.
- Rewards are not rescaled. The paper divides those of locomotion by the range of returns; `beta`
  is in units of 1 / return.
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
from curl.learning.auxiliary import Auxiliary
from curl.learning.capture import Captured, CapturedPolicy
from curl.learning.contrast import Contrast, ContrastOptions, ContrastViews
from curl.learning.networks import (
    MLP,
    ConvTrunk,
    Critic,
    DeterministicActor,
    Projection,
    begin_trunk,
    initialise,
    move_average,
)
from curl.learning.optimisation import adam, step
from curl.learning.precision import autocast, gaussian_noise
from curl.objectives.base import Objective

MAX_WEIGHT = 100.0  # of an action in the policy's loss, as in the authors' code
LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0  # as in the authors' code


class Value(nn.Module):
    """V: features [B, F] -> own projection -> [B, 1]."""

    def __init__(self, *, features: int, latent_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.projection = Projection(features=features, latent_dim=latent_dim, bounded=True)
        self.v = MLP(latent_dim, hidden_dim, 1)

    def forward(self, features: Tensor) -> Tensor:
        return self.v(self.projection(features))


class GaussianActor(DeterministicActor):
    """pi(a|s): a Gaussian around a mean in [-1, 1], whose spread is the same in all states."""

    def __init__(self, *, action_dim: int, **sizes: int) -> None:
        super().__init__(action_dim=action_dim, **sizes)
        self.log_std = nn.Parameter(torch.zeros(action_dim))

    def std(self) -> Tensor:
        """[A]"""
        return self.log_std.clamp(LOG_STD_MIN, LOG_STD_MAX).exp()


def expectile_loss(difference: Tensor, expectile: float) -> Tensor:
    """E[|expectile - 1(u < 0)| u^2] (eq. 5) of differences u, target minus prediction."""
    weight = torch.where(difference < 0, 1 - expectile, expectile)
    return (weight * difference.square()).mean()


def advantage_weight(advantage: Tensor, beta: float) -> Tensor:
    """exp(beta * advantage), at most `MAX_WEIGHT` (eq. 7)."""
    return (beta * advantage).exp().clamp(max=MAX_WEIGHT)


def gaussian_log_likelihood(action: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """log N(a; mean, std^2), summed over the dimensions of actions: [B, A] -> [B, 1]."""
    error = (action - mean) / std
    each = -0.5 * error.square() - std.log() - 0.5 * math.log(2 * math.pi)
    return each.sum(dim=-1, keepdim=True)


class IQL(Agent):
    """Hyper-parameters as in `configs/agent/iql.yaml`, and the parts it works with.

    Args:
        channels: channels of a frame stack. action_dim: A.
        query, key: what draws the query view (that all networks see) and the key view.
        objective: scores query latents against key latents; None for IQL alone.
        generator: source of noise and views; its device is the agent's.
        precision: dtype of convolutions and hidden layers, float32 or bfloat16.
        pretrained: weights that the trunk begins with.
        frozen: nothing trains the trunk.
        expectile: of Q, which V estimates; 0.5 is the mean, and towards 1 it is the maximum.
        beta: inverse temperature of the policy's weights; 0: behaviour cloning.
        encoder_tau: of the key encoder, where there is an objective.
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
        hidden_dim: int = 1024,
        latent_dim: int = 50,
        # IQL
        discount: float = 0.99,
        expectile: float = 0.7,
        beta: float = 3.0,
        learning_rate: float = 3e-4,
        actor_learning_rate: float = 3e-4,
        critic_tau: float = 0.005,
        # the objective
        encoder_tau: float = 0.05,
        capture: bool = True,
        **contrast: Unpack[ContrastOptions],
    ) -> None:
        self.query, self.generator = query, generator
        self.device, self.precision = generator.device, precision
        self.discount = real("discount", discount, low=0, high=1)
        self.expectile = real("expectile", expectile, low=0, high=1)
        self.beta = real("beta", beta, low=0)
        self.critic_tau = real("critic_tau", critic_tau, low=0, high=1)
        self.frozen, self.updates = frozen, 0
        self.objective = objective and objective.to(self.device)
        parts = {"objective": self.objective, "query": query, "key": key, "frozen": frozen}
        self.contrast = Contrast(**parts, **contrast)
        self.offsets = self.contrast.offsets

        sizes = {"latent_dim": latent_dim, "hidden_dim": hidden_dim}
        sizes = {name: integer(name, size) for name, size in sizes.items()}
        self.trunk = ConvTrunk(
            channels=channels, size=query.size, strides=strides, filters=filters, centred=True
        )
        sizes["features"], actions = self.trunk.features, integer("action_dim", action_dim)
        self.actor = GaussianActor(action_dim=actions, **sizes)
        self.value = Value(**sizes)
        self.critic = Critic(action_dim=actions, **sizes, bounded=True)
        for module in (self.trunk, self.actor, self.value, self.critic):
            initialise(module, convolutions="orthogonal")
            module.to(self.device)
        begin_trunk(self.trunk, pretrained, frozen=frozen)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.encoder = nn.ModuleList([self.trunk, self.critic.projection])  # f_q

        lr = positive("learning_rate", learning_rate)
        actor_lr = positive("actor_learning_rate", actor_learning_rate)
        trunk = [] if frozen else self.trunk.parameters()
        self.auxiliary = Auxiliary(
            self.contrast,
            objective=self.objective,
            encoder=self.encoder,
            learning_rate=lr,
            encoder_tau=encoder_tau,
            precision=precision,
        )
        self.optimizers = {
            "value": adam(self.value.parameters(), lr),
            "critic": adam([*trunk, *self.critic.parameters()], lr),
            "actor": adam(self.actor.parameters(), actor_lr),
            **self.auxiliary.optimizers,
        }
        period, eager = self.contrast.every, not capture or self.device.type != "cuda"
        self._captured = Captured(self.learn, period=period, generator=generator, eager=eager)
        self._acting = CapturedPolicy(self.policy, generator=generator, eager=eager)

    # -- acting ----------------------------------------------------------------------------------

    @torch.no_grad()
    def act(self, obs: FrameStacks, *, deterministic: bool) -> Tensor:
        mean = self._acting(0, self.query.evaluate(obs))["mean"]
        if deterministic:
            return mean
        return (mean + self.actor.std() * gaussian_noise(mean, self.generator)).clamp(-1, 1)

    def policy(self, view: Tensor) -> dict[str, Tensor]:
        """The mean action [B, A]."""
        with self._autocast():
            features = self.trunk(view)
        # The heads stay in float32: converting their weights takes longer than a few rows do.
        return {"mean": self.actor(features.float())}

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
        """Update number `self.updates`: value, policy, critic, averages, objective.

        Args:
            obs, next_obs: views of what was observed before and after, [B, C, size, size].
            contrast: the fields of `ContrastViews`, which a CUDA graph takes one by one; none
                where no contrastive step is due.
        """
        views = ContrastViews(*contrast) if contrast else None
        with self._autocast():
            obs = self.trunk.scaled(obs)  # for two passes
        features = self._features(obs)
        seen = features.detach()  # value and policy do not train the trunk
        q = self.q_of_data(seen, action)
        metrics = self.update_value(seen, q)
        metrics |= self.update_policy(seen, action, q)
        y = self.bootstrapped_target(reward, terminated, next_obs)
        metrics |= self.update_critic(features, action, y)
        self.update_averages()
        if views:
            # The critic's step has moved the trunk.
            anchors = self.contrast.anchors(len(obs))
            features = self._features(obs[:anchors]) if anchors else features
            metrics |= self.auxiliary.update(features, views)
        return metrics | {"batch_reward": reward.mean()}

    @torch.no_grad()
    def q_of_data(self, features: Tensor, action: Tensor) -> Tensor:
        """min_i Q'_i(s, a) of the data's actions, [B, 1]."""
        with self._autocast():
            latent = self.target_critic.projection(features)
            return torch.minimum(*self.target_critic(latent, action))

    def update_value(self, features: Tensor, q: Tensor) -> Metrics:
        """One Adam step of V on the expectile loss of Q - V."""
        with self._autocast():
            v = self.value(features)
        loss = expectile_loss(q - v, self.expectile)
        norm = step(loss, self.optimizers["value"])
        return {
            "value_loss": loss.detach(),
            "v_mean": v.detach().mean(),
            "value_grad_norm": norm,
        }

    def update_policy(self, features: Tensor, action: Tensor, q: Tensor) -> Metrics:
        """One Adam step of the policy on -E[exp(beta (Q - V)) log pi(a|s)]."""
        with self._autocast():
            with torch.no_grad():
                advantage = q - self.value(features)
            mean = self.actor(features)
        weight, std = advantage_weight(advantage, self.beta), self.actor.std()
        loss = -(weight * gaussian_log_likelihood(action, mean, std)).mean()
        norm = step(loss, self.optimizers["actor"])
        return {
            "actor_loss": loss.detach(),
            "actor_grad_norm": norm,
            "advantage_weight": weight.mean(),
            "policy_std": std.detach().mean(),
        }

    @torch.no_grad()
    def bootstrapped_target(self, reward: Tensor, terminated: Tensor, next_obs: Tensor) -> Tensor:
        """y = r + gamma (1 - d) V(s')."""
        with self._autocast():
            next_v = self.value(self.trunk(next_obs))
        return reward + self.discount * (~terminated).float() * next_v

    def update_critic(self, features: Tensor, action: Tensor, y: Tensor) -> Metrics:
        """One Adam step of trunk, Q1 and Q2 on sum_i E[(Q_i(s, a) - y)^2]."""
        with self._autocast():
            q1, q2 = self.critic(self.critic.projection(features), action)
        loss = F.mse_loss(q1, y) + F.mse_loss(q2, y)
        norm = step(loss, self.optimizers["critic"])
        q_mean = torch.cat([q1, q2]).detach().mean()
        return {"critic_loss": loss.detach(), "q_mean": q_mean, "critic_grad_norm": norm}

    @torch.no_grad()
    def update_averages(self) -> None:
        """The target critic, with its projection, by critic_tau; the key encoder by encoder_tau."""
        targets, critic = self.target_critic.parameters(), self.critic.parameters()
        move_average(targets, critic, self.critic_tau)
        self.auxiliary.update_average()

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
        names = ("trunk", "actor", "value", "critic", "target_critic")
        return {name: getattr(self, name) for name in names} | self.auxiliary.modules

    # -- parts of an update ----------------------------------------------------------------------

    def _features(self, obs: Tensor) -> Tensor:
        with torch.set_grad_enabled(not self.frozen), self._autocast():
            return self.trunk(obs)

    def _autocast(self) -> torch.autocast:
        return autocast(self.device, self.precision)
