"""The numbers of an inspection as functions of arrays.

What they measure and where they come from is in docs/inspect.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

SPECTRUM_LEFT_OUT = 0.01
"""Share of the sum of singular values that `effective_rank` leaves out: delta of Kumar et al. 2021,
section 3."""

DORMANT = 0.025
"""Score up to which a unit is dormant: tau of Sokar et al. 2023, definition 3.1."""


# -- retrieval -------------------------------------------------------------------------------------


def nearest_keys(scores: np.ndarray, count: int) -> np.ndarray:
    """The keys with the largest scores of each query, best first: int [B, min(count, B)].

    Args:
        scores: float [B, B], queries in rows, keys in columns.
    """
    return np.argsort(-scores, axis=1, kind="stable")[:, :count]


class Confusion(NamedTuple):
    """A query, a key that is not its own, and by how much that key scores higher than its own."""

    query: int
    key: int
    excess: float


def most_confused(scores: np.ndarray, count: int) -> list[Confusion]:
    """The pairs whose wrong key beats the query's own by most, worst first; each query once.

    Pairs in which the own key wins are confused least, and have a negative excess.

    Args:
        scores: float [B, B], own keys on the diagonal.
    """
    excess = scores - np.diag(scores)[:, None]
    np.fill_diagonal(excess, -np.inf)
    worst = excess.argmax(1)
    found = [Confusion(i, int(j), float(excess[i, j])) for i, j in enumerate(worst)]
    return sorted(found, key=lambda pair: -pair.excess)[:count]


def retrieval_accuracy(scores: np.ndarray) -> float:
    """Share of the queries whose own key, on the diagonal, has the largest score of its row.

    Of equal scores the first counts, so that a collapsed encoder finds 1 of B.
    """
    return float((scores.argmax(1) == np.arange(len(scores))).mean())


# -- representations -------------------------------------------------------------------------------


def principal_components(latents: np.ndarray, count: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """PCA: latents [N, D] -> their coordinates [N, count], and the share of the variance of each.

    The shares are 0 where nothing varies. The largest weight of each direction is positive, so that
    the same latents give the same picture.
    """
    centred = latents.astype(np.float64) - latents.mean(0, dtype=np.float64)
    left, values, right = np.linalg.svd(centred, full_matrices=False)
    count = min(count, len(values))
    largest = np.abs(right[:count]).argmax(1)
    signs = np.where(right[np.arange(count), largest] < 0, -1.0, 1.0)
    power = np.square(values)
    shares = power[:count] / power.sum() if power.sum() > 0 else np.zeros(count)
    return left[:, :count] * values[:count] * signs, shares


def effective_rank(features: np.ndarray) -> int:
    """srank of features [N, D] (Kumar et al. 2021): the fewest singular values that make up
    1 - `SPECTRUM_LEFT_OUT` of their sum; 0 if all features are 0."""
    values = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    if values.sum() == 0:
        return 0
    share = np.cumsum(values) / values.sum()
    return int(np.searchsorted(share, 1 - SPECTRUM_LEFT_OUT) + 1)


def mean_cosine(latents: np.ndarray) -> float:
    """The mean cosine between different rows of latents [N, D]: 1 if all point the same way."""
    norms = np.linalg.norm(latents, axis=1, keepdims=True)
    unit = latents / np.maximum(norms, 1e-12)
    count = len(unit)
    total = np.square(unit.sum(0)).sum() - np.square(unit).sum()
    return float(total / (count * (count - 1)))


def dormant_share(activations: np.ndarray, threshold: float = DORMANT) -> float:
    """Share of the units that are dormant (Sokar et al. 2023): whose mean absolute activation is at
    most `threshold` of the mean over the units of the layer. With threshold 0: dead units.

    Args:
        activations: float [N, U], after the activation function.
    """
    score = np.abs(activations).mean(0, dtype=np.float64)
    return float((score <= threshold * score.mean()).mean())


# -- values ----------------------------------------------------------------------------------------


def returns_to_go(
    reward: np.ndarray, discount: float, *, bonus: np.ndarray | None = None, tail: float = 0.0
) -> np.ndarray:
    """G_t = r_t + discount * (b_{t+1} + G_{t+1}), float64 [T]; G_T is `tail`.

    Args:
        reward: float [T], of one episode.
        bonus: float [T + 1], what is earned besides by acting in each state (the entropy bonus of
            SAC's soft value); None: nothing.
        tail: the value of what came after, where an episode was cut off.
    """
    extra = np.zeros(len(reward) + 1) if bonus is None else bonus
    found, later = np.zeros(len(reward)), tail
    for at in range(len(reward) - 1, -1, -1):
        later = reward[at] + discount * (extra[at + 1] + later)
        found[at] = later
    return found


class Calibration(NamedTuple):
    """How a critic's values compare with returns.

    Attributes:
        predicted, earned: means of what the critic promises and of what came of it.
        bias: (predicted - earned) / |earned|; 0 is right, 1 twice too much.
        correlation: Spearman's, of values and returns; NaN if one of them does not vary.
    """

    predicted: float
    earned: float
    bias: float
    correlation: float


def calibration(
    predicted: np.ndarray, earned: np.ndarray, values: np.ndarray, returns: np.ndarray
) -> Calibration:
    """Compare values with returns.

    Args:
        predicted, earned: float [N], what was promised and earned in the part of each episode that
            was played: see `promised`.
        values, returns: float [N], whole values and returns, whose order is compared.
    """
    mean, true = float(predicted.mean()), float(earned.mean())
    return Calibration(
        mean, true, (mean - true) / max(abs(true), 1e-8), rank_correlation(values, returns)
    )


def promised(values: np.ndarray, discount: float, tail: float) -> np.ndarray:
    """What values [T] of an episode promise of its own T steps: Q_t - discount^(T - t) * tail.

    Where Q is c times the truth everywhere, this is c times what the steps earn, whatever comes
    after a cut.
    """
    left = np.arange(len(values), 0, -1)
    return values - discount**left * tail


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's; NaN if one of the two does not vary or has fewer than three values."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.asarray(stats.spearmanr(x, y)[0]))


# -- actions ---------------------------------------------------------------------------------------


def saturated_share(actions: np.ndarray, bound: float) -> np.ndarray:
    """Share of the actions [N, A] beyond `bound` in absolute value, float64 [A]."""
    return (np.abs(actions) > bound).mean(0)


def spread(actions: Sequence[np.ndarray]) -> float:
    """The standard deviation of actions within an episode, the mean over episodes and components.

    Args:
        actions: of each episode, float [T, A].
    """
    return float(np.mean([each.std(0).mean() for each in actions]))


# -- saliency --------------------------------------------------------------------------------------


def pooled(pixels: np.ndarray, corners: np.ndarray, patch: int) -> np.ndarray:
    """Sums over square patches: [..., H, W] -> [..., P * P].

    Args:
        corners: int [P], the first row (and the first column) of the patches.
        patch: edge of a patch.
    """
    table = np.zeros((*pixels.shape[:-2], pixels.shape[-2] + 1, pixels.shape[-1] + 1))
    table[..., 1:, 1:] = pixels.cumsum(-1, dtype=np.float64).cumsum(-2)
    low, high = np.asarray(corners), np.asarray(corners) + patch
    sums = (
        table[..., high[:, None], high]
        - table[..., low[:, None], high]
        - table[..., high[:, None], low]
        + table[..., low[:, None], low]
    )
    return sums.reshape(*pixels.shape[:-2], -1)
