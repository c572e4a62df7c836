"""Augmented Temporal Contrast (Stooke 2021, section 3, eq. 1): the positive is a later observation.

Transitions whose episode ends before it are neither anchors nor negatives. What differs: the latent
is the paper's code itself, and moving average, learning rate and augmentation are the agent's.
"""

from __future__ import annotations

from torch import Tensor, nn

from curl.checks import integer
from curl.data.batch import Metrics
from curl.objectives.base import Latents, Objective, alignment, retrieval_accuracy
from curl.objectives.infonce import infonce


class Temporal(Objective):
    """logits = p(q) W k^T: p(q) = q + MLP(q) predicts the latent `offset` agent steps later."""

    def __init__(self, *, latent_dim: int, offset: int, hidden_dim: int) -> None:
        super().__init__()
        self.key_offsets = (integer("offset", offset),)
        hidden_dim = integer("hidden_dim", hidden_dim)
        self.residual = nn.Sequential(
            nn.Linear(latent_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, latent_dim)
        )
        self.bilinear = nn.Linear(latent_dim, latent_dim, bias=False)  # W

    def forward(self, latents: Latents) -> tuple[Tensor, Metrics]:
        query, key, valid = latents.query[0], latents.key[0], latents.valid[0]  # [B, D], [B]
        logits = self.scores(latents)
        metrics = {"accuracy": retrieval_accuracy(logits, valid)}
        return infonce(logits, valid), metrics | alignment(query, key, valid)

    def scores(self, latents: Latents) -> Tensor:
        query, key = latents.query[0], latents.key[0]  # [B, D]
        prediction = query + self.residual(query)  # [B, D]
        return self.bilinear(prediction) @ key.T  # [B, B]
