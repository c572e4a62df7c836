"""Triplet loss of FaceNet (Schroff 2015, eq. 1-2): a query is nearer to its key than to another.

What differs: a query has one positive, its key; negatives are the other keys of the batch. Where no
key is farther than the positive, which the paper leaves open, the farthest is the negative.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from curl.checks import choice, real
from curl.data.batch import Metrics
from curl.objectives.base import (
    Latents,
    Objective,
    alignment,
    retrieval_accuracy,
    squared_distances,
)


def triplet(distances: Tensor, negative: Tensor, margin: float) -> Tensor:
    """Mean over i of max(0, d_ii - negative_i + margin); squared distances [B, B] and [B]."""
    return F.relu(distances.diagonal() - negative + margin).mean()


def semi_hard(distances: Tensor) -> Tensor:
    """Each row's distance [B] to the nearest key that is farther than its own (section 3.2, eq. 4).

    Ties share the gradient, so that the order of a batch does not matter.
    """
    farther = distances > distances.diagonal()[:, None]  # never the diagonal itself
    nearest = distances.masked_fill(~farther, torch.inf).amin(dim=1)
    own = torch.eye(len(distances), dtype=torch.bool, device=distances.device)
    farthest = distances.masked_fill(own, 0).amax(dim=1)
    return torch.where(farther.any(dim=1), nearest, farthest)


def random(distances: Tensor) -> Tensor:
    """Each row's distance [B] to the key of the next row.

    Rows of a batch are independent uniform draws, so that the neighbour's key is a uniformly random
    negative already; drawing another would need a generator and change nothing.
    """
    return distances.roll(-1, dims=1).diagonal()


MINING = {"semi_hard": semi_hard, "random": random}


class Triplet(Objective):
    """Latents on the unit sphere; `mining` chooses the negative of each query."""

    def __init__(self, *, margin: float, mining: str) -> None:
        super().__init__()
        self.margin = real("margin", margin, low=0, high=4, open_low=True)
        choice("mining", mining, MINING)
        self.mining = mining

    def forward(self, latents: Latents) -> tuple[Tensor, Metrics]:
        query, key = latents.query[0], latents.key[0]  # [B, D]
        distances = squared_distances(query, key)  # [B, B]
        loss = triplet(distances, MINING[self.mining](distances), self.margin)
        metrics = {"accuracy": retrieval_accuracy(-distances)}
        return loss, metrics | alignment(query, key)

    def scores(self, latents: Latents) -> Tensor:
        return -squared_distances(latents.query[0], latents.key[0])
