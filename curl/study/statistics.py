"""Estimates with 95 % intervals from few runs, after Agarwal et al. 2021, "Deep reinforcement
learning at the edge of the statistical precipice" (arXiv 2108.13264): interquartile mean,
optimality gap, performance profiles, probability of improvement, stratified bootstrap.

It differs in one place: the probability of improvement has Newcombe's interval and a permutation
test. The bootstrap's interval collapses to [1, 1] as soon as all runs of one variant beat all of
the other, which three runs against three do one time in ten by luck alone; at P = 0.92 with five
seeds on one task it covers the truth 60 % of the time, Newcombe's 95 % (normal scores).

Scores are float64 [T, S]: tasks (the strata) × seeds. Randomness comes from the generator given.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtri
from scipy.stats import rankdata, trim_mean

RESAMPLES = 2_000  # of the bootstrap; moves an interval's ends by about 1 % of its width
PERMUTATIONS = 10_000
LEVEL = 0.95
Z = float(ndtri(0.5 + LEVEL / 2))

Statistic = Callable[[np.ndarray], np.ndarray]  # scores [..., T, S] -> [...]


class Estimate(NamedTuple):
    """A value and the ends of its 95 % interval (nan where one run gives no interval)."""

    value: float
    low: float
    high: float


def iqm(scores: np.ndarray) -> np.ndarray:
    """Mean of the middle half of all runs of all tasks: [..., T, S] -> [...]."""
    return trim_mean(scores.reshape(*scores.shape[:-2], -1), 0.25, axis=-1)


def mean(scores: np.ndarray) -> np.ndarray:
    """[..., T, S] -> [...]."""
    return scores.mean(axis=(-2, -1))


def median(scores: np.ndarray) -> np.ndarray:
    """Median over tasks of the mean over runs: [..., T, S] -> [...]."""
    return np.median(scores.mean(axis=-1), axis=-1)


def optimality_gap(scores: np.ndarray) -> np.ndarray:
    """How far normalised scores stay below 1 on average, lower is better: [..., T, S] -> [...]."""
    return 1 - np.minimum(scores, 1).mean(axis=(-2, -1))


AGGREGATES = {"IQM": iqm, "median": median, "mean": mean, "optimality gap": optimality_gap}


def bootstrap(
    scores: np.ndarray,
    statistic: Statistic,
    generator: np.random.Generator,
    resamples: int = RESAMPLES,
) -> np.ndarray:
    """Percentile intervals; runs are drawn with replacement within each task.

    Args:
        scores: float64 [T, S] or [T, S, K]; K numbers of a run (a curve) are drawn together.
        statistic: [..., T, S] -> [...].

    Returns:
        float64 [3] or [3, K]: value, low, high. With one run the interval is nan.
    """
    tasks, runs = scores.shape[:2]
    rows = generator.integers(runs, size=(resamples, tasks, runs))
    found = []
    for column in np.moveaxis(scores.reshape(tasks, runs, -1), -1, 0):
        drawn = statistic(np.take_along_axis(column[None], rows, axis=2))
        ends = np.quantile(drawn, (0.5 - LEVEL / 2, 0.5 + LEVEL / 2)) if runs > 1 else (np.nan,) * 2
        found.append((statistic(column), *ends))
    return np.array(found, dtype=np.float64).T.reshape(3, *scores.shape[2:])


def area_under_curve(steps: np.ndarray, returns: np.ndarray) -> np.ndarray:
    """Mean height of the learning curve, a return: steps [E], returns [..., E] -> [...]."""
    if len(steps) == 1:
        return returns[..., 0]
    return np.trapezoid(returns, steps, axis=-1) / (steps[-1] - steps[0])


def probability_of_improvement(first: np.ndarray, second: np.ndarray) -> Estimate:
    """P(a run of `first` scores higher than one of `second`), ties counting half, mean over tasks.

    The interval is Newcombe's pseudo-score interval of the Mann-Whitney statistic (2006, Statistics
    in Medicine 25:559, method 5). Over T tasks its variance at the mean is divided by T, which is
    exact where tasks are alike and on the safe side (by concavity) where they are not.

    Args:
        first: float64 [T, S1].
        second: float64 [T, S2].
    """
    a, b = first[:, :, None], second[:, None, :]
    wins = ((a > b) + 0.5 * (a == b)).mean()
    return Estimate(float(wins), *_newcombe(float(wins), *a.shape[:2], b.shape[2]))


@lru_cache(maxsize=4096)
def _newcombe(p: float, tasks: int, m: int, n: int) -> tuple[float, float]:
    spread = (m + n) / 2 - 1

    def distance(q: float) -> float:
        variance = q * (1 - q) * (1 + spread * ((1 - q) / (2 - q) + q / (1 + q)))
        return (p - q) ** 2 - Z**2 * variance / (tasks * m * n)

    nudge = 1e-9  # q = p = 1 solves it too, but is not the end that is looked for
    low: Any = brentq(distance, 0, p - nudge) if p > nudge else 0.0
    high: Any = brentq(distance, p + nudge, 1) if p < 1 - nudge else 1.0
    return low, high


def permutation_test(
    first: np.ndarray, second: np.ndarray, generator: np.random.Generator
) -> float:
    """Two-sided p-value of the rank sums, runs shuffled within each task; exact but for sampling.

    Args:
        first: float64 [T, S1].
        second: float64 [T, S2].
    """
    runs = first.shape[1]
    ranks = rankdata(np.concatenate([first, second], axis=1), axis=1)  # [T, S1 + S2]
    centre = runs * ranks.mean(axis=1).sum()
    observed = abs(ranks[:, :runs].sum() - centre)
    shuffled = generator.permuted(np.broadcast_to(ranks, (PERMUTATIONS, *ranks.shape)), axis=2)
    sums = shuffled[:, :, :runs].sum(axis=(1, 2))
    as_far = np.abs(sums - centre) >= observed - 1e-9
    return float((1 + as_far.sum()) / (1 + PERMUTATIONS))


def ratio(
    first: np.ndarray,
    second: np.ndarray,
    generator: np.random.Generator,
    statistic: Statistic = mean,
) -> Estimate:
    """A statistic of `first` over that of `second`, with a percentile interval; pairs are drawn.

    Args:
        first: float64 [S].
        second: float64 [S], of the same episodes or runs.
        statistic: [..., T, S] -> [...], of one task.

    Returns:
        nan where that of `second` is not above 0, because there is nothing of which a share could
        be kept. No interval for one pair, or where a drawn one of `second` is not above 0.
    """
    whole = float(statistic(second[None]))
    if whole <= 0:
        return Estimate(np.nan, np.nan, np.nan)
    rows = generator.integers(len(first), size=(RESAMPLES, 1, len(first)))
    over, under = statistic(first[rows]), statistic(second[rows])
    low, high = np.nan, np.nan
    if len(first) > 1 and (under > 0).all():
        low, high = np.quantile(over / under, (0.5 - LEVEL / 2, 0.5 + LEVEL / 2)).tolist()
    return Estimate(float(statistic(first[None])) / whole, low, high)
