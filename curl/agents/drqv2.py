"""DrQ-v2 on pixels (Yarats, Fergus, Lazaric and Pinto 2021), with an optional auxiliary objective.

Section 3 of the paper: DDPG with clipped double Q-learning on n-step returns, from views that are
shifted at random, and exploration noise whose standard deviation decays linearly. The trunk is
trained by the critic alone and has no moving average: the target's latents come from the trunk
itself. `configs/agent/drqv2.yaml` has the paper's hyper-parameters.

With `objective=None` this is DrQ-v2. With an objective it is a variant that is nobody's paper:
CURL's contrast on DrQ-v2. Each update then ends with a step of the query encoder (trunk and
critic.projection) and the objective on the objective's loss, with an Adam of their own, as in
`curl/agents/sac.py`. The key encoder is a moving average of the query encoder that nothing else
uses (at every update, where CURL averages at every second one); the critic's target does not read
it.

What differs from the paper and its code:
- Windows of n transitions also begin near the end of an episode, where they are shorter; the code
  draws no window that the end cuts off.
- The noise's clock starts with the first update instead of with the first random action. It counts
  agent steps, as the code does: updates / `updates_per_step`. The agent counts updates, because
  these are what every loop makes, with or without an environment; the ratio makes them agent steps.
- Views are the augmentation's: shifts by whole pixels, as the code draws them. The paper
  interpolates bilinearly.
- Trunk and critic have one Adam instead of two of the same learning rate.
"""

from __future__ import annotations

import copy
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
    ConvTrunk,
    Critic,
    DeterministicActor,
    begin_trunk,
    initialise,
    move_average,
)
from curl.learning.optimisation import adam, step
from curl.learning.precision import autocast, gaussian_noise
from curl.learning.returns import n_step
from curl.objectives.base import Objective


def linear_schedule(start: float, end: float, steps: int, at: float) -> float:
    """From `start` to `end` in `steps`, then `end`: the exploration schedule of section 3.1."""
    return start + (end - start) * min(at / steps, 1.0)


def noisy_action(mean: Tensor, noise: Tensor, clip: float | None = None) -> Tensor:
    """a = clamp(mean + clamp(noise, -c, c), -1, 1): pi(h) + epsilon of section 3.1.

    The gradient passes the outer clamp as if it were not there, as in the code.

    Args:
        mean, noise: float32 [B, A]; the noise has its standard deviation already.
        clip: c; None: the noise is not clamped.
    """
    action = mean + (noise if clip is None else noise.clamp(-clip, clip))
    return action - action.detach() + action.detach().clamp(-1, 1)


class DrQV2(Agent):
    """Hyper-parameters as in `configs/agent/drqv2.yaml`, and the parts it works with.

    Args:
        channels: channels of a frame stack. action_dim: A.
        query, key: what draws the query view (that critic and actor see too) and the key view.
        objective: scores query latents against key latents; None for DrQ-v2 alone.
        generator: source of noise and views; its device is the agent's.
        precision: dtype of convolutions and hidden layers, float32 or bfloat16.
        pretrained: weights that the trunk begins with.
        frozen: nothing trains the trunk.
        updates_per_step: updates that the loop makes per agent step.
        steps: n of the n-step returns, agent steps.
        noise_start, noise_end: standard deviation of the exploration noise, first and last.
        noise_steps: agent steps in which it goes from one to the other.
        noise_clip: where the noise of the critic's and the actor's actions is clamped.
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
        updates_per_step: float = 0.5,
        # the networks
        strides: Sequence[int] = (2, 1, 1, 1),
        filters: int = 32,
        hidden_dim: int = 1024,
        latent_dim: int = 50,
        # DDPG
        discount: float = 0.99,
        steps: int = 3,
        learning_rate: float = 1e-4,
        actor_learning_rate: float = 1e-4,
        critic_tau: float = 0.01,
        noise_start: float = 1.0,
        noise_end: float = 0.1,
        noise_steps: int = 100_000,
        noise_clip: float = 0.3,
        # the objective
        encoder_tau: float = 0.05,
        capture: bool = True,
        **contrast: Unpack[ContrastOptions],
    ) -> None:
        self.query, self.generator = query, generator
        self.device, self.precision = generator.device, precision
        self.updates_per_step = positive("updates_per_step", updates_per_step)
        self.discount = real("discount", discount, low=0, high=1)
        self.steps = integer("steps", steps)
        self.critic_tau = real("critic_tau", critic_tau, low=0, high=1)
        self.noise_start = real("noise_start", noise_start, low=0)
        self.noise_end = real("noise_end", noise_end, low=0)
        self.noise_steps = integer("noise_steps", noise_steps)
        self.noise_clip = real("noise_clip", noise_clip, low=0)
        self.frozen, self.updates = frozen, 0
        self.objective = objective and objective.to(self.device)
        parts = {"objective": self.objective, "query": query, "key": key, "frozen": frozen}
        self.contrast = Contrast(**parts, **contrast)
        later = range(2, self.steps + 1)  # 1 step later is `Batch.next_obs`
        self.offsets = tuple(sorted({*self.contrast.offsets, *later}))

        sizes = {"latent_dim": latent_dim, "hidden_dim": hidden_dim, "action_dim": action_dim}
        sizes = {name: integer(name, size) for name, size in sizes.items()}
        self.trunk = ConvTrunk(
            channels=channels, size=query.size, strides=strides, filters=filters, centred=True
        )
        self.actor = DeterministicActor(features=self.trunk.features, **sizes)
        self.critic = Critic(features=self.trunk.features, **sizes, bounded=True)
        for module in (self.trunk, self.actor, self.critic):
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
            "critic": adam([*trunk, *self.critic.parameters()], lr),
            "actor": adam(self.actor.parameters(), actor_lr),
            **self.auxiliary.optimizers,
        }
        period, eager = self.contrast.every, not capture or self.device.type != "cuda"
        self._captured = Captured(self.learn, period=period, generator=generator, eager=eager)
        self._acting = CapturedPolicy(self.policy, generator=generator, eager=eager)

    @property
    def noise_scale(self) -> float:
        """Standard deviation of the exploration noise at this agent step."""
        agent_steps = self.updates / self.updates_per_step
        return linear_schedule(self.noise_start, self.noise_end, self.noise_steps, agent_steps)

    # -- acting ----------------------------------------------------------------------------------

    @torch.no_grad()
    def act(self, obs: FrameStacks, *, deterministic: bool) -> Tensor:
        mean = self._acting(0, self.query.evaluate(obs))["mean"]
        if deterministic:
            return mean
        return noisy_action(mean, self.noise_scale * self._noise(mean))

    def policy(self, view: Tensor) -> dict[str, Tensor]:
        """The mean action [B, A]."""
        with self._autocast():
            features = self.trunk(view)
        # The heads stay in float32: converting their weights takes longer than a few rows do.
        return {"mean": self.actor(features.float())}

    # -- learning --------------------------------------------------------------------------------

    def update(self, batch: Batch) -> Metrics:
        """Draw the views of a batch and learn from them."""
        reward, discount, last = n_step(batch, self.steps, self.discount)
        obs, last_obs = self.contrast.critic_views(batch.obs, last, self.generator)
        views = self.contrast.views(batch, self.generator, self.updates)
        # A tensor, because a recorded update would repeat the same number forever.
        scale = torch.full((), self.noise_scale, device=self.device)
        transition = (obs, batch.action, reward, discount, last_obs, scale)
        metrics = self._captured(self.updates, *transition, *(views or ()))
        self.updates += 1
        return metrics | {"batch_reward": batch.reward.mean()}

    def learn(
        self,
        obs: Tensor,
        action: Tensor,
        reward: Tensor,
        discount: Tensor,
        last_obs: Tensor,
        scale: Tensor,
        *contrast: Any,
    ) -> Metrics:
        """Update number `self.updates`: critic, actor, averages, objective.

        Args:
            obs, last_obs: views of the first and the last observation of a window of n
                transitions, [B, C, size, size].
            action: the first one of the window, [B, A].
            reward, discount: R and Gamma of `curl/learning/returns.py`, [B, 1].
            scale: standard deviation of the noise, [].
            contrast: the fields of `ContrastViews`, which a CUDA graph takes one by one; none
                where no contrastive step is due.
        """
        views = ContrastViews(*contrast) if contrast else None
        with self._autocast():
            obs = self.trunk.scaled(obs)  # for two passes
        y = self.bootstrapped_target(reward, discount, last_obs, scale)
        features = self._features(obs)
        metrics = self.update_critic(features, action, y)
        # The features are those of before the critic's step.
        metrics |= self.update_actor(features.detach(), action, scale)
        self.update_averages()
        if views:
            # The critic's step has moved the trunk.
            anchors = self.contrast.anchors(len(obs))
            features = self._features(obs[:anchors]) if anchors else features
            metrics |= self.auxiliary.update(features, views)
        return metrics | {"noise_scale": scale}

    @torch.no_grad()
    def bootstrapped_target(
        self, reward: Tensor, discount: Tensor, last_obs: Tensor, scale: Tensor
    ) -> Tensor:
        """y = R + Gamma min_i Q'_i(s', a'), a' = pi(s') + clipped noise."""
        with self._autocast():
            features = self.trunk(last_obs)
            last_action = self._noisy(self.actor(features), scale)
            latent = self.target_critic.projection(features)
            q = torch.minimum(*self.target_critic(latent, last_action))
        return reward + discount * q

    def update_critic(self, features: Tensor, action: Tensor, y: Tensor) -> Metrics:
        """One Adam step of trunk, Q1 and Q2 on sum_i E[(Q_i(s, a) - y)^2]."""
        with self._autocast():
            q1, q2 = self.critic(self.critic.projection(features), action)
        loss = F.mse_loss(q1, y) + F.mse_loss(q2, y)
        norm = step(loss, self.optimizers["critic"])
        q_mean = torch.cat([q1, q2]).detach().mean()
        return {"critic_loss": loss.detach(), "q_mean": q_mean, "critic_grad_norm": norm}

    def update_actor(self, features: Tensor, action: Tensor, scale: Tensor) -> Metrics:
        """One Adam step of the actor on its loss at a = pi(s) + clipped noise.

        `features` carry no gradient: the actor does not train the trunk.
        """
        with self._autocast():
            mean = self.actor(features)
            with torch.no_grad():
                latent = self.critic.projection(features)
            q = torch.minimum(*self.critic(latent, self._noisy(mean, scale)))
        loss, metrics = self.actor_loss(q, mean, action)
        norm = step(loss, self.optimizers["actor"])
        return {"actor_loss": loss.detach(), **metrics, "actor_grad_norm": norm}

    def actor_loss(self, q: Tensor, mean: Tensor, action: Tensor) -> tuple[Tensor, Metrics]:
        """-E[min_i Q_i(s, a)], and metrics of its own.

        Args:
            q: min_i Q_i(s, a) at the actor's noisy action, [B, 1].
            mean, action: what the actor would do, and what was done, each [B, A]: for a method that
                compares the two (`curl/agents/td3_bc.py`).
        """
        return -q.mean(), {}

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
        names = ("trunk", "actor", "critic", "target_critic")
        return {name: getattr(self, name) for name in names} | self.auxiliary.modules

    # -- parts of an update ----------------------------------------------------------------------

    def _features(self, obs: Tensor) -> Tensor:
        with torch.set_grad_enabled(not self.frozen), self._autocast():
            return self.trunk(obs)

    def _noisy(self, mean: Tensor, scale: Tensor) -> Tensor:
        """Actions with the clipped noise of the critic's and the actor's losses, [B, A]."""
        return noisy_action(mean, scale * self._noise(mean), self.noise_clip)

    def _noise(self, like: Tensor) -> Tensor:
        return gaussian_noise(like, self.generator)

    def _autocast(self) -> torch.autocast:
        return autocast(self.device, self.precision)
