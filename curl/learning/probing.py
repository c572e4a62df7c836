"""What can be read from features with a linear model: ridge regression on held-out examples."""

from __future__ import annotations

import numpy as np

PENALTIES = np.logspace(-3, 6, 19)
"""Ridge penalties that are tried, for features of variance 1."""


def held_out_r2(
    features: np.ndarray,
    targets: np.ndarray,
    held_out_features: np.ndarray,
    held_out_targets: np.ndarray,
) -> np.ndarray:
    """R^2 of each target on held-out examples; 1 is perfect, 0 no better than the mean.

    Features and targets are standardised with the training examples. Each target has the penalty
    that generalised cross-validation prefers (Golub, Heath and Wahba 1979), which asks the training
    examples alone.

    Args:
        features: float [N, F]. targets: float [N, K].
        held_out_features: float [M, F]. held_out_targets: float [M, K].

    Returns:
        float64 [K]; NaN for a target that does not vary in both sets.
    """
    x, x_held_out = _standardised(features, held_out_features)
    y, y_held_out = _standardised(targets, held_out_targets)
    left, singular, right = np.linalg.svd(x, full_matrices=False)
    projected = left.T @ y  # [R, K]
    outside = np.square(y).sum(0) - np.square(projected).sum(0)  # what no penalty explains
    kept = np.square(singular) / (np.square(singular) + PENALTIES[:, None])  # [P, R]
    residual = (np.square(1 - kept)[..., None] * np.square(projected)).sum(1) + outside  # [P, K]
    score = residual / np.square(1 - kept.sum(1) / len(x))[:, None]
    best = kept[score.argmin(0)]  # [K, R]
    weights = right.T @ (best.T * projected / np.maximum(singular, 1e-12)[:, None])  # [F, K]
    error = np.square(y_held_out - x_held_out @ weights).sum(0)
    spread = np.square(y_held_out - y_held_out.mean(0)).sum(0)
    varies = (spread > 1e-12) & (np.square(y).sum(0) > 1e-12)
    return np.where(varies, 1 - error / np.where(varies, spread, 1), np.nan)


def _standardised(train: np.ndarray, held_out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    train, held_out = train.astype(np.float64), held_out.astype(np.float64)
    mean, std = train.mean(0), train.std(0)
    scale = np.where(std > 1e-8, std, 1)  # a constant is 0 afterwards
    return (train - mean) / scale, (held_out - mean) / scale
