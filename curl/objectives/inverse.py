"""Inverse model: predict the action from the observations before and after it.

Pathak et al. 2017 (section 2.2, eq. 2); one of the objectives of Yang and Nachum 2021 (section 4).
Both latents come from the query encoder and carry gradient: there is no key encoder.

The loss is the mean squared error. It is the log-likelihood of a Gaussian of fixed variance, is
bounded from below, and has one scale on all data. With a learnt variance the model can give up on
an action that is hard to tell, and where an action can be told exactly, the likelihood has no
bound.

What differs from Yang and Nachum: one step instead of a window, and the squared error instead
of the likelihood of a squashed Gaussian.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from curl.checks import integer
from curl.data.batch import Metrics
from curl.objectives.base import (
    Latents,
    Objective,
    alignment,
    masked_mean,
    nearest,
    retrieval_accuracy,
)


class Inverse(Objective):
    """The model: linear, ReLU, linear. Accuracy: the own action is the nearest to its prediction.

    The measurements of `alignment` take the next latent as the key of each latent.
    """

    query_offsets = (0, 1)
    key_offsets = ()

    def __init__(self, *, latent_dim: int, action_dim: int, hidden_dim: int) -> None:
        super().__init__()
        hidden_dim = integer("hidden_dim", hidden_dim)
        self.model = nn.Sequential(
            nn.Linear(2 * latent_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, action_dim)
        )

    def forward(self, latents: Latents) -> tuple[Tensor, Metrics]:
        inside = latents.query_valid[1]  # [B]
        before = latents.query[0]  # [B, D]
        after = latents.query[1].masked_fill(~inside[:, None], 0)  # [B, D]
        action = latents.action[0].masked_fill(~inside[:, None], 0)  # [B, A]
        prediction = self.model(torch.cat([before, after], dim=1))  # [B, A]
        loss = masked_mean((prediction - action).square().mean(dim=1), inside)
        metrics = {"accuracy": retrieval_accuracy(nearest(prediction, action), inside)}
        return loss, metrics | alignment(before, after, inside)
