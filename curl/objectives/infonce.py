"""Bilinear InfoNCE: CURL's objective (section 4.5; van den Oord 2018, eq. 4).

Row i's positive is key i, its negatives are the other keys of the batch. Subtracting the row's
maximum from the logits, as the paper does, changes no cross-entropy and is left to PyTorch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curl.data.batch import Metrics
from curl.objectives.base import Latents, Objective, alignment, retrieval_accuracy


def infonce(logits: Tensor, valid: Tensor | None = None) -> Tensor:
    """Cross-entropy of the diagonal of logits [N, N]: the mean of -log softmax_i(i).

    Args:
        valid: bool [N], the pairs that count, as rows and as negatives of the others; None for
            all. Without any the loss is 0. Shapes do not depend on it, as CUDA graphs need.
    """
    own = torch.arange(len(logits), device=logits.device)
    if valid is None:
        return F.cross_entropy(logits, own)
    # The row of a pair that does not count is certain of itself: its loss and gradient are 0.
    certain = torch.full_like(logits, -torch.inf).fill_diagonal_(0)
    logits = torch.where(valid[:, None] & valid[None, :], logits, certain)
    return F.cross_entropy(logits, own, reduction="sum") / valid.sum().clamp(min=1)


class InfoNCE(Objective):
    """logits = q W k^T with a learnt W, initialised uniformly in [0, 1) as in the reference."""

    def __init__(self, *, latent_dim: int) -> None:
        super().__init__()
        self.bilinear = nn.Parameter(torch.rand(latent_dim, latent_dim))  # W

    def forward(self, latents: Latents) -> tuple[Tensor, Metrics]:
        logits = self.scores(latents)
        # loss log(B) and accuracy 1/B: collapsed; loss near 0 and accuracy 1: solved
        metrics = {"accuracy": retrieval_accuracy(logits)}
        return infonce(logits), metrics | alignment(latents.query[0], latents.key[0])

    def scores(self, latents: Latents) -> Tensor:
        query, key = latents.query[0], latents.key[0]  # [B, D]
        return query @ self.bilinear @ key.T  # [B, B]
