"""Each number of an inspection where its value is known in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from curl.inspection import measures

RNG = np.random.default_rng(0)


# -- retrieval -------------------------------------------------------------------------------------


def test_the_nearest_keys_are_in_the_order_of_their_scores() -> None:
    scores = np.array([[3.0, 1.0, 2.0], [0.0, 5.0, 7.0], [1.0, 1.0, 0.0]])
    assert measures.nearest_keys(scores, 2).tolist() == [[0, 2], [2, 1], [0, 1]]
    assert measures.nearest_keys(scores, 9).shape == (3, 3)


def test_the_most_confused_queries_come_first_with_their_excess() -> None:
    scores = np.array([[3.0, 1.0, 2.0], [0.0, 5.0, 7.0], [1.0, 4.0, 0.0]])
    found = measures.most_confused(scores, 2)
    assert found == [(2, 1, 4.0), (1, 2, 2.0)]
    assert measures.most_confused(scores, 3)[-1] == (0, 2, -1.0)
    assert scores[0, 0] == 3.0  # the argument stays as it is


def test_retrieval_accuracy_counts_own_keys_that_win() -> None:
    scores = np.array([[3.0, 1.0, 2.0], [0.0, 5.0, 7.0], [1.0, 4.0, 5.0]])
    assert measures.retrieval_accuracy(scores) == pytest.approx(2 / 3)
    assert measures.retrieval_accuracy(np.zeros((8, 8))) == 1 / 8


# -- representations -------------------------------------------------------------------------------


def test_principal_components_find_the_axes_of_a_stretched_cloud() -> None:
    cloud = np.zeros((4, 3))
    cloud[0, 1], cloud[1, 1], cloud[2, 0], cloud[3, 0] = 4, -4, 3, -3
    points, shares = measures.principal_components(cloud + 7)
    assert np.allclose(points, [[4, 0], [-4, 0], [0, 3], [0, -3]])
    assert np.allclose(shares, [16 / 25, 9 / 25])


def test_principal_components_of_equal_latents_are_nothing() -> None:
    points, shares = measures.principal_components(np.ones((5, 3)))
    assert not points.any() and not shares.any()


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_the_effective_rank_of_orthogonal_features_is_their_number(rank: int) -> None:
    assert measures.effective_rank(5 * np.eye(8)[:, :rank]) == rank


def test_the_effective_rank_leaves_small_singular_values_out() -> None:
    assert measures.effective_rank(np.diag([1.0, 0.009])) == 1
    assert measures.effective_rank(np.diag([1.0, 0.02])) == 2
    assert measures.effective_rank(np.zeros((4, 2))) == 0


def test_the_mean_cosine_does_not_count_a_row_with_itself() -> None:
    assert measures.mean_cosine(np.eye(4)) == pytest.approx(0)
    assert measures.mean_cosine(np.array([[1.0, 2.0], [2.0, 4.0]])) == pytest.approx(1)
    assert measures.mean_cosine(np.array([[1.0, 0.0], [-3.0, 0.0]])) == pytest.approx(-1)


def test_dormant_units_are_those_far_below_the_mean_of_their_layer() -> None:
    active = np.array([[0.0, 0.02, 1.0, 2.98], [0.0, 0.0, 1.0, 3.0]])  # means 0, 0.01, 1, 2.99
    assert measures.dormant_share(active) == 0.5
    assert measures.dormant_share(active, 0) == 0.25
    assert measures.dormant_share(-active) == 0.5
    assert measures.dormant_share(np.zeros((3, 4))) == 1.0


# -- values ----------------------------------------------------------------------------------------


def test_returns_to_go_are_discounted_sums() -> None:
    reward = np.array([1.0, 2.0, 4.0])
    assert measures.returns_to_go(reward, 0.5).tolist() == [3.0, 4.0, 4.0]
    assert measures.returns_to_go(reward, 0.5, tail=8.0).tolist() == [4.0, 6.0, 8.0]
    bonus = np.array([100.0, 2.0, 4.0, 6.0])  # that of the first state has been earned already
    assert measures.returns_to_go(reward, 0.5, bonus=bonus).tolist() == [5.75, 7.5, 7.0]


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_what_a_critic_promises_of_an_episode_does_not_depend_on_what_comes_after(
    factor: float,
) -> None:
    """Q is `factor` times the truth: the bias says so, however much comes after the cut."""
    reward, discount = RNG.uniform(size=30), 0.99
    for after in (0.0, 50.0):
        truth = measures.returns_to_go(reward, discount, tail=after)
        promised = measures.promised(factor * truth, discount, factor * after)
        earned = measures.returns_to_go(reward, discount)
        found = measures.calibration(promised, earned, factor * truth, truth)
        assert found.bias == pytest.approx(factor - 1)
        assert found.correlation == pytest.approx(1)


def test_a_critic_that_says_the_same_everywhere_orders_nothing() -> None:
    same, returns = np.ones(5), np.arange(5.0)
    assert np.isnan(measures.calibration(same, returns, same, returns).correlation)


def test_rank_correlation_is_that_of_the_order() -> None:
    x = np.array([1.0, 2.0, 3.0, 4.0])
    assert measures.rank_correlation(x, np.exp(x)) == pytest.approx(1)
    assert measures.rank_correlation(x, -(x**3)) == pytest.approx(-1)
    assert np.isnan(measures.rank_correlation(x[:2], x[:2]))


# -- actions ---------------------------------------------------------------------------------------


def test_saturation_and_spread_of_actions() -> None:
    actions = np.array([[1.0, 0.0], [-1.0, 0.5], [0.2, 0.0], [0.96, -0.5]])
    assert measures.saturated_share(actions, 0.95).tolist() == [0.75, 0.0]
    assert measures.spread([np.array([[1.0], [-1.0]]), np.array([[0.3], [0.3]])]) == 0.5


# -- saliency --------------------------------------------------------------------------------------


def test_pooling_sums_over_patches() -> None:
    pixels = np.arange(16.0).reshape(1, 4, 4)
    sums = measures.pooled(pixels, np.array([0, 2]), 2)
    assert sums.tolist() == [[0 + 1 + 4 + 5, 2 + 3 + 6 + 7, 8 + 9 + 12 + 13, 10 + 11 + 14 + 15]]
    assert measures.pooled(pixels, np.array([1]), 3).tolist() == [[pixels[0, 1:, 1:].sum()]]
