"""BYOL (Grill 2020, eq. 2): predict the key from the query; no negatives.

Predictor, moving-average key encoder and stopped gradient keep it from collapsing. What differs:
one direction instead of both, as the key view has no query; the latent itself is what is predicted,
without a projection head; the predictor has a layer norm instead of a batch norm, with which some
seeds kept their latents near one line (rendered angles, batch 64, encoder_tau 0.05).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from curl.checks import integer
from curl.data.batch import Metrics
from curl.objectives.base import Latents, Objective, alignment, retrieval_accuracy


def regression(prediction: Tensor, key: Tensor) -> Tensor:
    """Mean of |p/|p| - k/|k||^2 = 2 - 2 cos(p, k), over rows [B, D]; between 0 and 4."""
    return (2 - 2 * F.cosine_similarity(prediction, key, dim=1)).mean()


class BYOL(Objective):
    """The predictor: linear, layer norm, ReLU, linear."""

    def __init__(self, *, latent_dim: int, hidden_dim: int) -> None:
        super().__init__()
        hidden_dim = integer("hidden_dim", hidden_dim)
        self.predictor = nn.Sequential(
            nn.Linear(latent_dim, hidden_dim),
            nn.LayerNorm(hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, latent_dim),
        )

    def forward(self, latents: Latents) -> tuple[Tensor, Metrics]:
        query, key = latents.query[0], latents.key[0]  # [B, D]
        prediction = self.predictor(query)  # [B, D]
        metrics = {"accuracy": retrieval_accuracy(cosines(prediction, key))}
        return regression(prediction, key), metrics | alignment(query, key)

    def scores(self, latents: Latents) -> Tensor:
        return cosines(self.predictor(latents.query[0]), latents.key[0])


def cosines(prediction: Tensor, key: Tensor) -> Tensor:
    """cos(p_i, k_j), [B, B], of rows [B, D]."""
    return F.normalize(prediction, dim=1) @ F.normalize(key, dim=1).T
