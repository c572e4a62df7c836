"""Contrastive loss on pairs (Chopra 2005; Hadsell 2006, eq. 4): near if alike, else a margin apart.

Positives are the B pairs of a query and its key, negatives all B(B-1) others of the batch. What
differs: each kind is averaged by itself, so that negatives do not outweigh positives; there is no
factor 1/2; latents are on the unit sphere, where distances lie in [0, 2]. `squared=False` takes
distance and margin without the squares. (Chopra's own term for negatives is an exponential.)
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from curl.checks import flag, real
from curl.data.batch import Metrics
from curl.objectives.base import (
    Latents,
    Objective,
    alignment,
    retrieval_accuracy,
    squared_distances,
)

SMALLEST = 1e-6  # squared distance; below is only rounding, and the slope of the root is infinite


def pairwise(distances: Tensor, *, margin: float, squared: bool) -> Tensor:
    """mean_i near_ii + mean_{i != j} far_ij, of squared distances d^2 [B, B].

    near and far are d^2 and max(0, margin - d)^2 if `squared`, else d and max(0, margin - d).
    """
    d = distances.clamp(min=SMALLEST).sqrt()
    near, far = d, F.relu(margin - d)
    if squared:
        near, far = distances, far.square()
    own = torch.eye(len(d), dtype=torch.bool, device=d.device)
    negatives = max(len(d) * (len(d) - 1), 1)
    return near.diagonal().mean() + far.masked_fill(own, 0).sum() / negatives


class Pairwise(Objective):
    """Nothing is learnt but the encoder."""

    def __init__(self, *, margin: float, squared: bool) -> None:
        super().__init__()
        self.margin = real("margin", margin, low=0, high=2, open_low=True)
        self.squared = flag("squared", squared)

    def forward(self, latents: Latents) -> tuple[Tensor, Metrics]:
        query, key = latents.query[0], latents.key[0]  # [B, D]
        distances = squared_distances(query, key)  # [B, B]
        loss = pairwise(distances, margin=self.margin, squared=self.squared)
        metrics = {"accuracy": retrieval_accuracy(-distances)}
        return loss, metrics | alignment(query, key)

    def scores(self, latents: Latents) -> Tensor:
        return -squared_distances(latents.query[0], latents.key[0])
