"""Bilinear InfoNCE: CURL's objective (section 4.5; van den Oord 2018, eq. 4).

Row i's positive is key i, its negatives are the other keys of the batch. Subtracting the row's
maximum from the logits, as the paper does, changes no cross-entropy and is left to PyTorch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curl.batch import Metrics
from curl.objectives.base import Objective


def infonce(logits: Tensor) -> Tensor:
    """Cross-entropy of the diagonal of logits [B, B]: the mean of -log softmax_i(i)."""
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


class InfoNCE(Objective):
    """logits = q W k^T with a learnt W, initialised uniformly in [0, 1) as in the reference."""

    def __init__(self, *, latent_dim: int) -> None:
        super().__init__()
        self.bilinear = nn.Parameter(torch.rand(latent_dim, latent_dim))  # W

    def forward(self, query: Tensor, key: Tensor) -> tuple[Tensor, Metrics]:
        logits = query @ self.bilinear @ key.T  # [B, B]
        right = logits.argmax(dim=1) == torch.arange(len(logits), device=logits.device)
        # loss log(B) and accuracy 1/B: collapsed; loss near 0 and accuracy 1: solved
        return infonce(logits), {"accuracy": right.float().mean()}
