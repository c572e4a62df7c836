"""What can be read from features with a linear model: ridge regression on held-out episodes."""

from __future__ import annotations

import numpy as np

PENALTIES = np.logspace(-5, 4, 19)
"""Ridge penalties that are tried, in units of the number of features."""

FOLDS = 3

LARGEST = 10.0
"""Standard deviations at which features are clipped: rectified ones that hardly ever fire in the
examples to fit would have any size in the others."""


def held_out_r2(
    features: np.ndarray,
    targets: np.ndarray,
    episode: np.ndarray,
    held_out_features: np.ndarray,
    held_out_targets: np.ndarray,
) -> np.ndarray:
    """R^2 of each target on held-out examples; 1 is perfect, 0 no better than the mean.

    Features and targets are standardised with the examples to fit. Each target has the penalty with
    the smallest error in a cross-validation that leaves whole episodes out: neighbouring steps of
    an episode look alike, so that steps left out alone would hardly be held out.

    Args:
        features: float [N, F]. targets: float [N, K]. episode: int [N], of several episodes.
        held_out_features: float [M, F]. held_out_targets: float [M, K].

    Returns:
        float64 [K]; NaN for a target that does not vary in both sets.
    """
    x, x_held_out = _standardised(features, held_out_features)
    x, x_held_out = x.clip(-LARGEST, LARGEST), x_held_out.clip(-LARGEST, LARGEST)
    y, y_held_out = _standardised(targets.astype(np.float64), held_out_targets.astype(np.float64))
    kernel = (x @ x.T).astype(np.float64) / x.shape[1]  # [N, N]
    fold = np.unique(episode, return_inverse=True)[1] % FOLDS
    errors = np.zeros((len(PENALTIES), y.shape[1]))
    for each in np.unique(fold):
        out = fold == each
        predicted = _predict(kernel[np.ix_(~out, ~out)], y[~out], kernel[np.ix_(out, ~out)])
        errors += np.square(predicted - y[out]).sum(1)
    best = errors.argmin(0)  # [K]
    across = (x_held_out @ x.T).astype(np.float64) / x.shape[1]  # [M, N]
    predicted = _predict(kernel, y, across)  # [P, M, K]
    chosen = np.stack([predicted[p, :, k] for k, p in enumerate(best)], axis=1)
    error = np.square(y_held_out - chosen).sum(0)
    spread = np.square(y_held_out - y_held_out.mean(0)).sum(0)
    varies = (spread > 1e-12) & (np.square(y).sum(0) > 1e-12)
    return np.where(varies, 1 - error / np.where(varies, spread, 1), np.nan)


def _predict(kernel: np.ndarray, y: np.ndarray, across: np.ndarray) -> np.ndarray:
    """The predictions with each penalty, [P, M, K], in the dual form of ridge regression.

    Args:
        kernel: [N, N], of the examples to fit. y: [N, K]. across: [M, N], of others with them.
    """
    values, vectors = np.linalg.eigh(kernel)
    left, right = across @ vectors, vectors.T @ y  # [M, N], [N, K]
    inverse = 1 / (np.maximum(values, 0) + PENALTIES[:, None])  # [P, N]
    return np.stack([left @ (each[:, None] * right) for each in inverse])


def _standardised(train: np.ndarray, held_out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean, std = train.mean(0), train.std(0)
    scale = np.where(std > 1e-8, std, np.inf)  # a constant is 0 afterwards
    return (train - mean) / scale, (held_out - mean) / scale
