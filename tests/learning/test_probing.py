"""Ridge regression on held-out episodes: what it finds, what it must not, its closed form."""

from __future__ import annotations

import numpy as np

from curl.learning.probing import FOLDS, PENALTIES, held_out_r2


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def episodes(count: int) -> np.ndarray:
    return np.arange(count) // 10


def test_linear_targets_are_found_and_noise_is_not() -> None:
    x, held_out = draw(0, 200, 20), draw(1, 100, 20)
    weights = draw(2, 20, 2)
    y = np.concatenate([x @ weights + 3, draw(3, 200, 1)], axis=1)
    y_held_out = np.concatenate([held_out @ weights + 3, draw(4, 100, 1)], axis=1)
    exact, also_exact, noise = held_out_r2(x, y, episodes(200), held_out, y_held_out)
    assert min(exact, also_exact) > 0.999 and -0.1 < noise < 0.1


def test_more_features_than_examples() -> None:
    """As with the features of convolutions; the target lies in few of many directions."""
    hidden, held_out_hidden, mix = draw(0, 150, 5), draw(1, 80, 5), draw(2, 5, 600)
    x, held_out = hidden @ mix, held_out_hidden @ mix
    (r2,) = held_out_r2(x, hidden[:, :1], episodes(150), held_out, held_out_hidden[:, :1])
    assert r2 > 0.999


def test_what_holds_within_episodes_alone_is_not_found() -> None:
    """Each episode has features and a target of its own, which nothing connects."""
    x, y = draw(0, 15, 50).repeat(10, 0), draw(1, 15, 1).repeat(10, 0)
    held_out, y_held_out = draw(2, 15, 50).repeat(10, 0), draw(3, 15, 1).repeat(10, 0)
    (r2,) = held_out_r2(x, y, episodes(150), held_out, y_held_out)
    assert -0.4 < r2 < 0.2


def test_a_feature_that_hardly_ever_fires_does_no_harm() -> None:
    x, held_out = draw(0, 200, 5), draw(1, 100, 5)
    x[:, 4], held_out[:, 4] = 0, np.abs(held_out[:, 4])
    x[7, 4] = 1e-4
    y, y_held_out = x[:, :1] + 0.1 * draw(2, 200, 1), held_out[:, :1]
    (r2,) = held_out_r2(x, y, episodes(200), held_out, y_held_out)
    assert r2 > 0.9


def test_it_is_the_closed_form_of_the_best_penalty() -> None:
    x, y = draw(0, 60, 8), draw(1, 60, 1) + draw(0, 60, 8)[:, :1]
    held_out, y_held_out = draw(2, 40, 8), draw(3, 40, 1) + draw(2, 40, 8)[:, :1]
    scaled, scaled_held_out = (x - x.mean(0)) / x.std(0), (held_out - x.mean(0)) / x.std(0)
    target = (y - y.mean(0)) / y.std(0)
    fold = episodes(60) % FOLDS

    def predicted(fits: np.ndarray, asked: np.ndarray, penalty: float) -> np.ndarray:
        gram = scaled[fits].T @ scaled[fits] + 8 * penalty * np.eye(8)
        return asked @ np.linalg.solve(gram, scaled[fits].T @ target[fits])

    scores = [
        sum(
            np.square(predicted(fold != f, scaled[fold == f], p) - target[fold == f]).sum()
            for f in range(FOLDS)
        )
        for p in PENALTIES
    ]
    best = PENALTIES[int(np.argmin(scores))]
    assert PENALTIES[0] < best < PENALTIES[-1]
    left = (y_held_out - y.mean(0)) / y.std(0) - predicted(fold >= 0, scaled_held_out, best)
    spread = np.square((y_held_out - y_held_out.mean(0)) / y.std(0)).sum()
    (r2,) = held_out_r2(x, y, episodes(60), held_out, y_held_out)
    assert np.isclose(r2, 1 - np.square(left).sum() / spread)


def test_constants_neither_break_nor_count() -> None:
    x, held_out = draw(0, 30, 3), draw(1, 20, 3)
    x[:, 1], held_out[:, 1] = 7, 8
    y = np.concatenate([x[:, :1], np.full((30, 1), 2.0)], axis=1)
    y_held_out = np.concatenate([held_out[:, :1], np.full((20, 1), 2.0)], axis=1)
    found, constant = held_out_r2(x, y, episodes(30), held_out, y_held_out)
    assert found > 0.999 and np.isnan(constant)
