"""DeepMDP (Gelada et al. 2019, section 2.4): a latent model of the next latent and the reward.

f(z_t, a_t) predicts the key encoder's latent of the next observation, and a second head predicts
the reward r_t; Yang and Nachum 2021 (section 4) pretrain with it. What differs: the next latent
comes from the key encoder and carries no gradient, while the paper's carries one; the distance is
the mean squared error over the latent's dimensions instead of a Wasserstein distance; there is
neither a gradient penalty nor a Lipschitz constraint. Rewards that are always 0 leave nothing that
keeps latents from collapsing but the slow key encoder and the layer norm of the projection.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from curl.checks import integer, positive, real
from curl.data.batch import Metrics
from curl.objectives.base import (
    Latents,
    Objective,
    alignment,
    masked_mean,
    nearest,
    retrieval_accuracy,
)


class DeepMDP(Objective):
    """transition_weight * E[(f - k)^2] + reward_weight * E[(r' - r)^2].

    Accuracy: the own next latent is the nearest to its prediction. f adds its output to z_t.

    Args:
        hidden_dim: units of the layer that both heads share.
        transition_weight, reward_weight: of the two losses; the reward's may be 0.
    """

    key_offsets = (1,)

    def __init__(
        self,
        *,
        latent_dim: int,
        action_dim: int,
        hidden_dim: int,
        transition_weight: float,
        reward_weight: float,
    ) -> None:
        super().__init__()
        hidden_dim = integer("hidden_dim", hidden_dim)
        self.transition_weight = positive("transition_weight", transition_weight)
        self.reward_weight = real("reward_weight", reward_weight, low=0)
        self.hidden = nn.Sequential(nn.Linear(latent_dim + action_dim, hidden_dim), nn.ReLU())
        self.transition = nn.Linear(hidden_dim, latent_dim)
        self.reward = nn.Linear(hidden_dim, 1)

    def forward(self, latents: Latents) -> tuple[Tensor, Metrics]:
        query, inside = latents.query[0], latents.valid[0]  # [B, D], [B]
        past = ~inside[:, None]
        key = latents.key[0].masked_fill(past, 0)  # [B, D]
        action, reward = latents.action[0].masked_fill(past, 0), latents.reward[0]
        hidden = self.hidden(torch.cat([query, action], dim=1))
        prediction = query + self.transition(hidden)  # [B, D]
        error = self.reward(hidden) - reward.masked_fill(past, 0)  # [B, 1]
        transition_loss = masked_mean((prediction - key).square().mean(dim=1), inside)
        reward_loss = masked_mean(error.square().squeeze(1), inside)
        loss = self.transition_weight * transition_loss + self.reward_weight * reward_loss
        metrics = {
            "accuracy": retrieval_accuracy(nearest(prediction, key), inside),
            "transition_loss": transition_loss.detach(),
            "reward_loss": reward_loss.detach(),
        }
        return loss, metrics | alignment(query, key, inside)
