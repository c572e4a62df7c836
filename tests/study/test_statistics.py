"""Statistics of the comparison: by hand, by Monte Carlo, and against rliable."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu, norm

from curl.study import statistics
from curl.study.statistics import (
    area_under_curve,
    bootstrap,
    iqm,
    mean,
    median,
    optimality_gap,
    permutation_test,
    probability_of_improvement,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_aggregates_by_hand() -> None:
    scores = np.array([[0.1, 0.9, 0.5, 0.3], [0.2, 1.4, 0.6, 0.4]])  # [tasks, seeds]
    assert iqm(scores) == pytest.approx((0.3 + 0.4 + 0.5 + 0.6) / 4)
    assert mean(scores) == pytest.approx((1.8 + 2.6) / 8)
    assert median(scores) == pytest.approx((0.45 + 0.65) / 2)
    assert optimality_gap(scores) == pytest.approx(1 - (1.8 + 2.2) / 8)  # 1.4 counts as 1


def test_area_under_curve_by_hand() -> None:
    returns = np.array([[0.0, 100.0, 100.0], [40.0, 40.0, 40.0]])
    areas = area_under_curve(np.array([0, 10_000, 40_000]), returns)
    np.testing.assert_allclose(areas, [(50 * 1 + 100 * 3) / 4, 40])
    assert area_under_curve(np.array([0]), np.array([7.0])) == 7


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([[1, 2, 3]], [[4, 5, 6]], 0),
        ([[4, 5, 6]], [[1, 2, 3]], 1),
        ([[1, 3]], [[2, 2]], 0.5),
        ([[1, 1]], [[1, 1]], 0.5),
        ([[0, 2, 4]], [[1, 2]], (0 + 1.5 + 2) / 6),
        ([[9, 9], [0, 1]], [[1, 1], [0, 1]], (1 + 0.5) / 2),
    ],
)
def test_probability_of_improvement_by_hand(
    first: list[list[float]], second: list[list[float]], expected: float
) -> None:
    assert probability_of_improvement(np.array(first), np.array(second)).value == expected


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=8),
    st.lists(st.integers(0, 5), min_size=1, max_size=8),
)
def test_improvement_intervals_hold_the_value_and_mirror(a: list[int], b: list[int]) -> None:
    there = probability_of_improvement(np.array([a]), np.array([b]))
    back = probability_of_improvement(np.array([b]), np.array([a]))
    assert 0 <= there.low <= there.value <= there.high <= 1
    assert there.high > there.low, "a handful of runs never leaves certainty"
    np.testing.assert_allclose(there, [1 - back.value, 1 - back.high, 1 - back.low], atol=1e-6)


def test_a_clean_sweep_is_told_from_luck_with_four_seeds_but_not_with_three() -> None:
    for seeds, told_apart in ((3, False), (4, True), (5, True)):
        low, high = np.arange(seeds)[None], 10.0 + np.arange(seeds)[None]
        p_value = permutation_test(high, low, rng())
        interval = probability_of_improvement(high, low)
        assert (interval.low > 0.5 and p_value <= 0.05) == told_apart


def test_permutation_test_matches_the_exact_mann_whitney_test() -> None:
    for seed in range(5):
        first, second = rng(seed).normal(0.8, size=(1, 6)), rng(seed + 50).normal(size=(1, 5))
        exact = mannwhitneyu(first[0], second[0], method="exact").pvalue
        assert permutation_test(first, second, rng()) == pytest.approx(exact, abs=0.02)


def test_permutation_test_is_not_fooled_by_luck_over_tasks_with_ties() -> None:
    draws = rng()
    found = [
        permutation_test(draws.integers(4, size=(2, 4)), draws.integers(4, size=(2, 4)), draws)
        for _ in range(200)
    ]
    assert np.mean(np.array(found) <= 0.05) <= 0.09


def test_bootstrap_draws_runs_within_each_task() -> None:
    scores = np.repeat([[0.1], [0.9]], 5, axis=1)
    np.testing.assert_allclose(bootstrap(scores, mean, rng()), 0.5)  # tasks are never resampled


def test_bootstrap_draws_whole_curves() -> None:
    curve = rng().normal(size=(2, 5, 1))
    twice = bootstrap(np.concatenate([curve, 2 * curve], axis=2), iqm, rng())
    np.testing.assert_allclose(twice[:, 1], 2 * twice[:, 0])


def test_one_run_has_no_interval() -> None:
    value, low, high = bootstrap(np.array([[3.0]]), iqm, rng())
    assert value == 3
    assert np.isnan([low, high]).all()


@pytest.mark.parametrize("statistic", [iqm, mean])
def test_bootstrap_intervals_cover_the_truth(statistic: statistics.Statistic) -> None:
    draws, levels = rng(), np.array([[0.2], [0.4], [0.5], [0.9]])
    pooled = levels + 0.2 * draws.normal(size=(4, 100_000))
    truth = float(statistic(pooled))
    covered = 0
    for _ in range(300):
        scores = levels + 0.2 * draws.normal(size=(4, 10))
        _, low, high = bootstrap(scores, statistic, draws, resamples=400)
        covered += low <= truth <= high
    assert 0.88 <= covered / 300 <= 0.98


@pytest.mark.parametrize(
    "shifts", [[0.0], [1.0], [2.0], [0.0, 0.0, 0.0], [2.0] * 6, [0.0, 1.0, 3.0]]
)
def test_improvement_is_unbiased_and_its_intervals_cover(shifts: list[float]) -> None:
    draws, means = rng(), np.array(shifts)[:, None]
    truth = norm.cdf(means / np.sqrt(2)).mean()  # P(N(shift, 1) > N(0, 1))
    shape = (len(shifts), 5)
    found = [
        probability_of_improvement(means + draws.normal(size=shape), draws.normal(size=shape))
        for _ in range(500)
    ]
    assert np.mean([estimate.value for estimate in found]) == pytest.approx(truth, abs=0.02)
    assert np.mean([low <= truth <= high for _, low, high in found]) >= 0.92


def test_agrees_with_rliable() -> None:
    library = pytest.importorskip("rliable.library")
    metrics = pytest.importorskip("rliable.metrics")
    draws = rng(4)
    first = draws.uniform(size=(4, 10)) * [[0.4], [0.8], [1.3], [0.6]]
    second = first[:, ::-1] * 0.8 + 0.1 * draws.uniform(size=(4, 10))
    for name, theirs in (
        ("IQM", metrics.aggregate_iqm),
        ("median", metrics.aggregate_median),
        ("mean", metrics.aggregate_mean),
        ("optimality gap", metrics.aggregate_optimality_gap),
    ):
        statistic = statistics.AGGREGATES[name]
        point, interval = library.get_interval_estimates(
            {"first": first.T}, lambda scores, f=theirs: np.array([f(scores)]), reps=1000
        )
        ours = bootstrap(first, statistic, rng(), resamples=1000)
        assert ours[0] == pytest.approx(point["first"][0])
        np.testing.assert_allclose(ours[1:], interval["first"][:, 0], atol=0.02)

    thresholds = np.linspace(0, 1, 11)
    profile, _ = library.create_performance_profile({"first": first.T}, thresholds, reps=10)
    above = (first[:, :, None] > thresholds).astype(float)
    np.testing.assert_allclose(bootstrap(above, mean, rng())[0], profile["first"])

    chance = probability_of_improvement(first, second)
    assert chance.value == pytest.approx(metrics.probability_of_improvement(first.T, second.T))
    _, interval = library.get_interval_estimates(
        {"pair": (first.T, second.T)},
        lambda x, y: np.array([metrics.probability_of_improvement(x, y)]),
        reps=300,
    )
    np.testing.assert_allclose(chance[1:], interval["pair"][:, 0], atol=0.08)


def test_ratio_of_means_by_hand() -> None:
    first, second = np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0])
    estimate = statistics.ratio(first, second, np.random.default_rng(0))
    assert estimate == pytest.approx((0.5, 0.5, 0.5))  # pairs are drawn together
    other = statistics.ratio(first[::-1].copy(), second, np.random.default_rng(0))
    assert other.value == pytest.approx(0.5) and other.low < 0.4 < 0.6 < other.high


def test_ratio_of_means_covers_the_truth() -> None:
    generator = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        second = generator.normal(100, 20, 30)
        first = 0.6 * second + generator.normal(0, 10, 30)
        _, low, high = statistics.ratio(first, second, generator)
        hits += low < 0.6 < high
    assert hits >= 180


def test_ratio_of_means_to_nothing() -> None:
    generator = np.random.default_rng(0)
    assert np.isnan(statistics.ratio(np.ones(3), np.zeros(3), generator)).all()
    value, low, high = statistics.ratio(np.ones(2), np.array([-1.0, 3.0]), generator)
    assert value == 1 and np.isnan([low, high]).all()
    assert np.isnan(statistics.ratio(np.ones(1), np.ones(1), generator)[1:]).all()
