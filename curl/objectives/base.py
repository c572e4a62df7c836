"""What every objective promises, and the measurements that all of them report.

An objective scores latents and knows neither images nor encoders. It declares at which time offsets
it wants latents of the query encoder and of the key encoder; the agent provides them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curl.data.batch import Metrics


@dataclass(frozen=True)
class Latents:
    """Latents of B transitions; the first dimension follows the objective's offsets.

    Args:
        query: float32 [Q, B, D], query encoder, with gradient, at each of `query_offsets`.
        key: float32 [K, B, D], key encoder, without gradient, at each of `key_offsets`.
        valid: bool [K, B], False where the episode had ended before that key offset.
        query_valid: bool [Q, B], the same for each query offset.
        action: float32 [N, B, A], row n the action taken n agent steps after the observation; N
            goes as far as the objective's offsets are consecutive (1 .. N), and what lies past
            the end of an episode is arbitrary. Empty for an objective without later offsets.
        reward: float32 [N, B, 1], the rewards of these actions, summed over the action repeat.
        terminated: bool [N, B, 1], whether these actions terminated the episode.
    """

    query: Tensor
    key: Tensor
    valid: Tensor
    query_valid: Tensor
    action: Tensor
    reward: Tensor
    terminated: Tensor


class Objective(nn.Module, ABC):
    """Scores query latents against key latents; its parameters are trained with the encoder.

    Offsets are agent steps after the observation of the transition; those of the queries begin
    with 0. There may be no key offset: then no key view is drawn, and no key encoder runs. The
    constructor takes its settings as keywords, and `latent_dim` (D) and `action_dim` (A) if it
    names them.
    """

    query_offsets: tuple[int, ...] = (0,)
    key_offsets: tuple[int, ...] = (0,)
    rows: int | None = None
    """How many of a batch's transitions it wants, the first ones; None for all."""

    @abstractmethod
    def forward(self, latents: Latents) -> tuple[Tensor, Metrics]:
        """A scalar loss, and `accuracy` with the measurements of `alignment` as metrics.

        A loss of several parts reports each of them, too, as `<part>_loss`.
        """

    def scores(self, latents: Latents) -> Tensor | None:
        """How well each query fits each key: [B, B], larger is better, own keys on the diagonal.

        The queries are those of the first query offset and the keys those of the first key offset.
        `accuracy` counts how often the diagonal is the largest of its row. None for an objective
        that does not choose one observation among others.
        """
        return None


def alignment(query: Tensor, key: Tensor, valid: Tensor | None = None) -> Metrics:
    """How well queries [B, D] match their keys [B, D], and whether the queries collapse.

    Args:
        valid: bool [B], the pairs that count; None for all.

    Returns:
        `positive_similarity`, `negative_similarity`: mean cosine of a query with its own key and
        with the other keys. `effective_rank`: see there.
    """
    query, key = query.detach(), key.detach()
    weight = torch.ones_like(query[:, 0]) if valid is None else valid.float()
    cosine = F.normalize(query, dim=1) @ F.normalize(key, dim=1).T  # [B, B]
    own = torch.diag(weight)
    others = weight[:, None] * weight[None, :] - own
    return {
        "positive_similarity": (cosine * own).sum() / own.sum().clamp(min=1),
        "negative_similarity": (cosine * others).sum() / others.sum().clamp(min=1),
        "effective_rank": effective_rank(query, valid),
    }


def effective_rank(latents: Tensor, valid: Tensor | None = None) -> Tensor:
    """(sum l)^2 / sum l^2 over the eigenvalues l of the covariance of latents [B, D].

    Between 1 (or 0: all latents equal, collapsed) and D (isotropic). This participation ratio needs
    traces only, so that, unlike a singular value decomposition, it can be part of a CUDA graph.
    `valid`, bool [B], says which latents count (None: all).
    """
    latents = latents.detach().float()
    weight = torch.ones_like(latents[:, :1]) if valid is None else valid.float()[:, None]
    count = weight.sum().clamp(min=1)
    centred = (latents - (latents * weight).sum(0) / count) * weight
    covariance = centred.T @ centred / count  # [D, D]
    return covariance.trace().square() / covariance.square().sum().clamp(min=1e-12)


def retrieval_accuracy(scores: Tensor, valid: Tensor | None = None) -> Tensor:
    """Share of the rows of scores [B, B] whose diagonal is the largest: own key found first.

    Among B keys 1/B is chance. `valid`, bool [B], says which pairs count (None: all).
    """
    if valid is None:
        valid = torch.ones(len(scores), dtype=torch.bool, device=scores.device)
    scores = scores.detach().masked_fill(~valid[None, :], -torch.inf)
    right = scores.argmax(dim=1) == torch.arange(len(scores), device=scores.device)
    return (right & valid).float().sum() / valid.sum().clamp(min=1)


def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of those values that count; 0 if there are none. Both have one shape, valid is bool."""
    return torch.where(valid, values, 0).sum() / valid.sum().clamp(min=1)


def nearest(prediction: Tensor, target: Tensor) -> Tensor:
    """Scores [B, B] for `retrieval_accuracy`: -|p_i - t_j|^2 of rows [B, D], without gradient."""
    return -(prediction.detach()[:, None] - target.detach()[None]).square().sum(dim=2)


def squared_distances(query: Tensor, key: Tensor) -> Tensor:
    """|q_i - k_j|^2 = 2 - 2 cos(q_i, k_j), in [0, 4], of latents [B, D] put on the unit sphere.

    There a margin means an angle, whatever the number of dimensions, and cannot be met by longer
    latents alone.
    """
    cosine = F.normalize(query, dim=1) @ F.normalize(key, dim=1).T  # [B, B]
    return (2 - 2 * cosine).clamp(min=0)
