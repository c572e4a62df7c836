"""Ridge regression: what it must find, what it must not, and its closed form."""

from __future__ import annotations

import numpy as np

from curl.learning.probing import PENALTIES, held_out_r2


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_linear_targets_are_found_and_noise_is_not() -> None:
    x, held_out = draw(0, 200, 20), draw(1, 100, 20)
    weights = draw(2, 20, 2)
    y = np.concatenate([x @ weights + 3, draw(3, 200, 1)], axis=1)
    y_held_out = np.concatenate([held_out @ weights + 3, draw(4, 100, 1)], axis=1)
    exact, also_exact, noise = held_out_r2(x, y, held_out, y_held_out)
    assert min(exact, also_exact) > 0.999 and noise < 0.1


def test_more_features_than_examples() -> None:
    """As with the features of convolutions; the target lies in few of many directions."""
    hidden, held_out_hidden, mix = draw(0, 150, 5), draw(1, 80, 5), draw(2, 5, 600)
    x, held_out = hidden @ mix, held_out_hidden @ mix
    (r2,) = held_out_r2(x, hidden[:, :1], held_out, held_out_hidden[:, :1])
    assert r2 > 0.999


def test_it_is_the_closed_form_of_the_best_penalty() -> None:
    x, y = draw(0, 60, 8), draw(1, 60, 1) + draw(0, 60, 8)[:, :1]
    held_out, y_held_out = draw(2, 40, 8), draw(3, 40, 1) + draw(2, 40, 8)[:, :1]
    scaled = (x - x.mean(0)) / x.std(0)
    target = (y - y.mean(0)) / y.std(0)
    scores, errors = [], []
    for penalty in PENALTIES:
        gram = scaled.T @ scaled + penalty * np.eye(8)
        hat = scaled @ np.linalg.solve(gram, scaled.T)
        left = target - hat @ target
        scores.append(np.square(left).sum() / (1 - np.trace(hat) / 60) ** 2)
        weights = np.linalg.solve(gram, scaled.T @ target)
        prediction = ((held_out - x.mean(0)) / x.std(0)) @ weights
        error = np.square((y_held_out - y.mean(0)) / y.std(0) - prediction).sum()
        spread = np.square((y_held_out - y_held_out.mean(0)) / y.std(0)).sum()
        errors.append(1 - error / spread)
    (r2,) = held_out_r2(x, y, held_out, y_held_out)
    assert np.isclose(r2, errors[int(np.argmin(scores))])


def test_constants_neither_break_nor_count() -> None:
    x, held_out = draw(0, 30, 3), draw(1, 20, 3)
    x[:, 1], held_out[:, 1] = 7, 7
    y = np.concatenate([x[:, :1], np.full((30, 1), 2.0)], axis=1)
    y_held_out = np.concatenate([held_out[:, :1], np.full((20, 1), 2.0)], axis=1)
    found, constant = held_out_r2(x, y, held_out, y_held_out)
    assert found > 0.999 and np.isnan(constant)
