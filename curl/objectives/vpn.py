"""Value prediction network (Oh et al. 2017, section 3), as Yang and Nachum 2021 (section 4) use it.

A latent is rolled out from z_t with the actions a_t, a_{t+1}, ...; each latent of the rollout
predicts the reward of the next action and the value. The value's target is the n-step return up to
the last observation of the window, at most `steps` agent steps ahead, plus the value there unless
the episode terminated. That last value is the value head's own, on the key encoder's latent, and
carries no gradient. As in the authors' code of 2021, the head predicts (1 - gamma) V.

What differs: the authors' code bootstraps from the last latent of the rollout instead of the key
latent of what was observed, and with a copy of the value head that is renewed every 1000 updates.
The policy whose value is learnt is the one that recorded the data: there is no planning and no
maximum over options. Losses are means over the steps instead of sums.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from curl.checks import integer, real
from curl.data.batch import Metrics
from curl.objectives.base import (
    Latents,
    Objective,
    alignment,
    masked_mean,
    nearest,
    retrieval_accuracy,
)


def returns(
    reward: Tensor, terminated: Tensor, valid: Tensor, value: Tensor, discount: float
) -> Tensor:
    """y_t = r_t + gamma (1 - d_t) y_{t+1}, and y_{t+1} = V(s_{t+1}) after the last step, [T, B].

    The last step of a window is its T-th, or the last one within the episode.

    Args:
        reward: float32 [T, B]. terminated: bool [T, B]; d_t.
        valid: bool [T, B], whether step t lies within the episode; once False, it stays so. Of
            other steps neither inputs nor results mean anything, but they must be finite.
        value: float32 [T, B], V of what was observed after each step.
    """
    found, later = [], value[-1]
    for t in reversed(range(len(reward))):
        found.append(reward[t] + discount * (~terminated[t]).float() * later)
        # where step t lies past the end, the step before it is the last one
        later = torch.where(valid[t], found[-1], value[t - 1])
    return torch.stack(found[::-1])


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


class VPN(Objective):
    """reward_weight * E[(r' - r)^2] + value_weight * E[(V' - (1 - gamma) y)^2], over all steps.

    Accuracy: among the batch, the own rewards and returns of the window are the nearest to the
    predicted ones.

    Args:
        steps: of the rollout, agent steps; at least 2, because the latent after one step predicts
            nothing unless another follows.
        discount: gamma. rows: windows of a batch.
    """

    def __init__(
        self,
        *,
        latent_dim: int,
        action_dim: int,
        steps: int,
        discount: float,
        hidden_dim: int,
        reward_weight: float,
        value_weight: float,
        rows: int,
    ) -> None:
        super().__init__()
        self.steps = integer("steps", steps, at_least=2)
        self.discount = real("discount", discount, low=0, high=1)
        if self.discount == 1:
            raise ValueError("discount must be below 1: values are learnt in units of 1 - discount")
        self.reward_weight = real("reward_weight", reward_weight, low=0)
        self.value_weight = real("value_weight", value_weight, low=0)
        if not self.reward_weight + self.value_weight:
            raise ValueError("reward_weight and value_weight must not both be 0")
        self.key_offsets = tuple(range(1, steps + 1))
        self.rows = integer("rows", rows)
        hidden_dim = integer("hidden_dim", hidden_dim)
        self.transition = mlp(latent_dim + action_dim, hidden_dim, latent_dim)
        self.reward = mlp(latent_dim + action_dim, hidden_dim, 1)
        self.value = mlp(latent_dim, hidden_dim, 1)

    def rollout(self, latent: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Predicted rewards and (1 - gamma) V, each [T, B], of latents [B, D], actions [T, B, A].

        The value of step t is that of before action t, as t = 0 is the observation itself.
        """
        rewards, values = [], []
        for t in range(self.steps):
            both = torch.cat([latent, action[t]], dim=1)
            rewards.append(self.reward(both).squeeze(1))
            values.append(self.value(latent).squeeze(1))
            if t + 1 < self.steps:
                latent = latent + self.transition(both)
        return torch.stack(rewards), torch.stack(values)

    @torch.no_grad()
    def targets(self, latents: Latents) -> tuple[Tensor, Tensor]:
        """Rewards and (1 - gamma) y, each [T, B]; 0 past the end of an episode."""
        valid = latents.valid
        reward = latents.reward.squeeze(2).masked_fill(~valid, 0)
        key = latents.key.masked_fill(~valid[..., None], 0)
        value = self.value(key).squeeze(2) / (1 - self.discount)
        over = latents.terminated.squeeze(2)
        y = returns(reward, over, valid, value, self.discount)
        return reward, (1 - self.discount) * y.masked_fill(~valid, 0)

    def forward(self, latents: Latents) -> tuple[Tensor, Metrics]:
        query, valid = latents.query[0], latents.valid  # [B, D], [T, B]
        taken = latents.action.masked_fill(~valid[..., None], 0)
        found, wanted = self.rollout(query, taken), self.targets(latents)
        reward_loss, value_loss = (
            masked_mean((one - other).square(), valid)
            for one, other in zip(found, wanted, strict=True)
        )
        loss = self.reward_weight * reward_loss + self.value_weight * value_loss
        predicted, true = (
            torch.cat(part).masked_fill(~valid.repeat(2, 1), 0).T for part in (found, wanted)
        )  # [B, 2 * T]
        metrics = {
            "accuracy": retrieval_accuracy(nearest(predicted, true), valid[0]),
            "reward_loss": reward_loss.detach(),
            "value_loss": value_loss.detach(),
        }
        key = latents.key[0].masked_fill(~valid[0, :, None], 0)
        return loss, metrics | alignment(query, key, valid[0])
