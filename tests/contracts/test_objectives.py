"""The contract of every objective in configs/objective; the measurements that all report."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor

from curl import objectives
from curl.objectives.base import (
    Latents,
    Objective,
    alignment,
    effective_rank,
    retrieval_accuracy,
    squared_distances,
)
from support.latents import A, D, masks, ragged, randn, random_latents
from support.paths import CONFIGS

FILES = sorted((CONFIGS / "objective").glob("*.yaml"))
METRICS = {"accuracy", "positive_similarity", "negative_similarity", "effective_rank"}


def make(path: Path, **changes: Any) -> Objective | None:
    """A fresh objective, the same at every call: PyTorch's global generator draws its weights."""
    torch.manual_seed(0)
    chosen = OmegaConf.merge(OmegaConf.load(path), changes)
    return objectives.make(**chosen, latent_dim=D, action_dim=A)


def built(path: Path) -> Objective:
    objective = make(path)
    assert objective is not None
    return objective


SCORING = [path for path in FILES if make(path) is not None]
LATER = [  # an episode may be over
    path for path in SCORING if any(built(path).query_offsets + built(path).key_offsets)
]


@pytest.fixture(params=SCORING, ids=lambda path: path.stem)
def objective(request: pytest.FixtureRequest) -> Objective:
    return built(request.param)


def gradients(objective: Objective, latents: Latents) -> tuple[Tensor, list[Tensor]]:
    """Loss, and the gradients of the queries and of every parameter."""
    loss = objective(latents)[0]
    wanted = [latents.query, *objective.parameters()]
    return loss.detach(), list(torch.autograd.grad(loss, wanted))


def renewed(latents: Latents, **changes: Tensor) -> Latents:
    """The same latents but for `changes`, as leaves of a new graph."""
    made = dataclasses.replace(latents, **changes)
    return dataclasses.replace(made, query=made.query.detach().clone().requires_grad_())


def in_order(latents: Latents, order: Tensor) -> Latents:
    parts = [field.name for field in dataclasses.fields(Latents)]
    return renewed(latents, **{part: getattr(latents, part)[:, order] for part in parts})


def mismatched(latents: Latents, order: Tensor) -> Latents:
    """The same queries, with the keys, actions, rewards and ends of others."""
    return dataclasses.replace(in_order(latents, order), query=latents.query)


def test_accuracy_is_that_of_the_scores(objective: Objective) -> None:
    """Those that compare no two observations have no scores."""
    found = []
    for seed in range(8):
        latents = random_latents(objective, seed=seed)
        scores, accuracy = objective.scores(latents), objective(latents)[1]["accuracy"]
        if scores is not None:
            assert scores.shape == (16, 16)
            assert retrieval_accuracy(scores) == accuracy
            found.append(float(accuracy))
    assert not found or 0 < max(found) < 1


def test_none_is_plain_sac() -> None:
    assert [path.stem for path in FILES if make(path) is None] == ["none"]


def test_unknown_names_and_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="did you mean 'infonce'"):
        objectives.make("infonse", latent_dim=D, action_dim=A)
    with pytest.raises(ValueError, match=r"did you mean objective\.margin"):
        objectives.make("triplet", latent_dim=D, action_dim=A, mining="random", margn=1.0)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("infonce_cosine", {"temperature": 0.0}),
        ("infonce_cosine", {"temperature": "cold"}),
        ("triplet", {"margin": -0.1}),
        ("triplet", {"margin": 4.1}),
        ("triplet", {"mining": "hard"}),
        ("pairwise", {"margin": 2.1}),
        ("pairwise", {"squared": "yes"}),
        ("cpc", {"window": 0}),
        ("cpc", {"horizon": 1.5}),
        ("cpc", {"rows": 0}),
        ("cpc", {"hidden_dim": 0}),
        ("cpc", {"actions": 1}),
        ("temporal", {"offset": 0}),
        ("temporal", {"hidden_dim": -1}),
        ("byol", {"hidden_dim": True}),
        ("inverse", {"hidden_dim": 0}),
        ("deepmdp", {"hidden_dim": 0.5}),
        ("deepmdp", {"transition_weight": 0.0}),
        ("deepmdp", {"reward_weight": -1.0}),
        ("vpn", {"steps": 1}),
        ("vpn", {"discount": 1.0}),
        ("vpn", {"discount": -0.1}),
        ("vpn", {"hidden_dim": 0}),
        ("vpn", {"reward_weight": -1.0}),
        ("vpn", {"value_weight": -1.0}),
        ("vpn", {"reward_weight": 0.0, "value_weight": 0.0}),
        ("vpn", {"rows": 0}),
        ("acl", {"window": 1}),
        ("acl", {"radius": -1}),
        ("acl", {"radius": 4}),
        ("acl", {"actions": 1}),
        ("acl", {"rewards": "no"}),
        ("acl", {"hidden_dim": 0}),
        ("acl", {"hidden_dim": 30}),
        ("acl", {"heads": 0}),
        ("acl", {"layers": 0}),
        ("acl", {"rows": 0}),
    ],
)
def test_settings_out_of_range_are_refused(name: str, changes: dict[str, Any]) -> None:
    (path,) = (path for path in FILES if path.stem == name)
    with pytest.raises(ValueError, match=next(iter(changes))):
        make(path, **changes)


# -- the contract of every configured objective ----------------------------------------------------


def test_offsets_are_what_the_agent_can_give(objective: Objective) -> None:
    assert objective.query_offsets[0] == 0
    for offsets in (objective.query_offsets, objective.key_offsets):
        assert all(offset >= 0 for offset in offsets)
        assert all(isinstance(offset, int) for offset in offsets)
        assert list(offsets) == sorted(set(offsets))
    assert objective.rows is None or objective.rows >= 1


@pytest.mark.parametrize("count", [1, 2, 5, 16])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e3])
def test_loss_is_a_finite_scalar_and_metrics_are_detached(
    objective: Objective, count: int, scale: float
) -> None:
    """Also of one transition, of a collapsed encoder and of very long latents."""
    drawn = random_latents(objective, count, steps=ragged(count))
    latents = renewed(drawn, query=drawn.query * scale, key=drawn.key * scale)
    loss, metrics = objective(latents)
    assert loss.shape == () and loss.dtype == torch.float32 and loss.isfinite()
    assert metrics.keys() >= METRICS
    assert all(name.endswith("_loss") for name in metrics.keys() - METRICS)  # its parts
    for name, value in metrics.items():
        assert value.shape == () and value.isfinite() and not value.requires_grad, name
    assert all(gradient.isfinite().all() for gradient in gradients(objective, latents)[1])


def test_gradients_reach_every_query_and_parameter_but_no_key(objective: Objective) -> None:
    latents = random_latents(objective, steps=ragged(16))
    key = latents.key.requires_grad_()
    _, (query, *parameters) = gradients(objective, latents)
    assert all(step.norm() > 0 for step in query)
    for (name, _), gradient in zip(objective.named_parameters(), parameters, strict=True):
        assert gradient.norm() > 0, name
    loss = objective(renewed(latents, key=key.detach()))[0]
    loss.backward()
    assert key.grad is None


def test_it_draws_no_randomness_and_keeps_no_state(objective: Objective) -> None:
    """The agent records the update in a CUDA graph and resumes runs to the bit."""
    latents = random_latents(objective, steps=ragged(16))
    before, weights = torch.get_rng_state(), [p.clone() for p in objective.state_dict().values()]
    first, second = gradients(objective, latents), gradients(objective, latents)
    assert torch.equal(first[0], second[0])
    assert all(torch.equal(a, b) for a, b in zip(first[1], second[1], strict=True))
    assert torch.equal(before, torch.get_rng_state())
    after = objective.state_dict().values()
    assert all(torch.equal(a, b) for a, b in zip(weights, after, strict=True))


def test_no_shape_depends_on_data(objective: Objective) -> None:
    """On the meta device there is no data: reading a value or selecting by a mask raises there."""
    latents = random_latents(objective, steps=ragged(16))
    parts = [getattr(latents, field.name) for field in dataclasses.fields(Latents)]
    empty = renewed(Latents(*(part.detach().to("meta") for part in parts)))
    objective.to("meta")(empty)[0].backward()


def test_training_brings_queries_to_their_keys(objective: Objective) -> None:
    """On one batch the loss falls, and keys (or whatever the queries are to predict) are found.

    In another order they are not.
    """
    latents = random_latents(objective, 32)
    parts = ("key", "action", "reward")  # each that of another row
    moved = {part: getattr(latents, part).roll(by, dims=1) for by, part in enumerate(parts, 1)}
    other_order = dataclasses.replace(latents, **moved)
    first, before = objective(latents)
    rates = {0.05: [latents.query], 0.005: [*objective.parameters()]}  # too fast for a Transformer
    groups = [{"params": params, "lr": rate} for rate, params in rates.items() if params]
    optimizer = torch.optim.Adam(groups)
    for _ in range(100):
        optimizer.zero_grad()
        objective(latents)[0].backward()
        optimizer.step()
    (aligned, after), (shuffled, others) = objective(latents), objective(other_order)
    assert aligned < 0.5 * first and aligned < 0.5 * shuffled
    assert before["accuracy"] < 0.1 and after["accuracy"] > 0.6 and others["accuracy"] < 0.1


def test_the_order_of_a_batch_does_not_matter(objective: Objective) -> None:
    latents, order = random_latents(objective, steps=ragged(16)), torch.randperm(16)
    loss, (query, *parameters) = gradients(objective, latents)
    loss_too, (query_too, *parameters_too) = gradients(objective, in_order(latents, order))
    torch.testing.assert_close(loss_too, loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(query_too, query[:, order], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(parameters_too, parameters, rtol=1e-4, atol=1e-5)
    # yet pairing queries with the keys, actions and rewards of others does matter
    other = objective(mismatched(latents, order))[0]
    assert (other - loss).abs() > 1e-4


@pytest.mark.parametrize("path", LATER, ids=lambda path: path.stem)
@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_what_lies_past_an_episodes_end_changes_nothing(path: Path, data: st.DataObject) -> None:
    """Not the loss, no gradient and no metric, to the bit, whatever is there and however large."""
    scale = data.draw(st.sampled_from([1.0, 1e6, 1e18]))
    steps = torch.tensor(data.draw(st.lists(st.integers(0, 8), min_size=12, max_size=12)))
    objective = built(path)
    latents = random_latents(objective, 12, steps=steps)
    on = masks(objective.query_offsets, steps)[..., None]
    changed = renewed(
        latents,
        key=torch.where(latents.valid[..., None], latents.key, scale * randn(12, D, seed=9)),
        query=torch.where(on, latents.query, scale * randn(12, D, seed=8)),
        action=latents.action.nan_to_num(scale),
        reward=latents.reward.nan_to_num(scale),
        terminated=latents.terminated ^ latents.reward.isnan(),
    )
    (loss, expected), (loss_too, found) = (gradients(objective, x) for x in (latents, changed))
    assert torch.equal(loss, loss_too)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    metrics, metrics_too = objective(latents)[1], objective(changed)[1]
    assert all(torch.equal(metrics[name], metrics_too[name]) for name in metrics)


def test_what_lies_within_an_episode_counts(objective: Objective) -> None:
    """The counterpart: a change of a valid key changes the loss, at any offset.

    The row is the first one that ends there or later, and has more than one observation.
    """
    latents = random_latents(objective, steps=ragged(16))
    loss, several = objective(latents)[0], ragged(16) > 0
    for k in range(len(objective.key_offsets)):
        key = latents.key.clone()
        key[k, (latents.valid[k] & several).nonzero()[0]] *= -2
        assert objective(renewed(latents, key=key))[0] != loss, objective.key_offsets[k]


@pytest.mark.parametrize("path", LATER, ids=lambda path: path.stem)
def test_without_any_pair_nothing_is_learnt(path: Path) -> None:
    """Every episode ends at its first observation: no gradient; nothing is NaN."""
    latents = random_latents(objective := built(path), steps=torch.zeros(16, dtype=torch.int64))
    loss, found = gradients(objective, latents)
    assert loss.isfinite() and all((gradient == 0).all() for gradient in found)
    assert all(value == 0 for value in objective(latents)[1].values())


# -- the measurements ------------------------------------------------------------------------------


@pytest.mark.parametrize("valid", [None, torch.tensor([True, False, True, True, False])])
def test_alignment_is_the_double_loop(valid: Tensor | None) -> None:
    query, key = randn(5, D), randn(5, D, seed=1)
    counted = [i for i in range(5) if valid is None or valid[i]]
    own, others = [], []
    for i in counted:
        for j in counted:
            q, k = query[i].tolist(), key[j].tolist()
            dot = sum(a * b for a, b in zip(q, k, strict=True))
            lengths = sum(a * a for a in q) ** 0.5 * sum(b * b for b in k) ** 0.5
            (own if i == j else others).append(dot / lengths)
    found = alignment(query, key, valid)
    assert found["positive_similarity"].item() == pytest.approx(sum(own) / len(own), abs=1e-6)
    expected = sum(others) / len(others)
    assert found["negative_similarity"].item() == pytest.approx(expected, abs=1e-6)
    assert torch.allclose(found["effective_rank"], effective_rank(query[counted]), rtol=1e-5)


def test_effective_rank_of_isotropic_latents_is_their_dimension() -> None:
    both = torch.cat([torch.eye(D), -torch.eye(D)])
    assert effective_rank(both).item() == pytest.approx(D)
    assert effective_rank(5 * both + 3).item() == pytest.approx(D)


def test_effective_rank_counts_the_directions() -> None:
    """Of equal variance: 1, 2, 3, ...; of variances 4 and 1: (4 + 1)^2 / (4^2 + 1^2)."""
    both = torch.cat([torch.eye(D), -torch.eye(D)])
    for rank in range(1, D + 1):
        flat = both.clone()
        flat[:, rank:] = 0
        assert effective_rank(flat).item() == pytest.approx(rank)
    unequal = torch.tensor([[2.0, 0], [-2, 0], [0, 1], [0, -1]])
    assert effective_rank(unequal).item() == pytest.approx(25 / 17)
    assert effective_rank(torch.arange(8.0)[:, None] * randn(1, D)).item() == pytest.approx(1)


def test_effective_rank_of_a_collapsed_encoder_is_0() -> None:
    assert effective_rank(randn(1, D).expand(64, D)).item() == pytest.approx(0, abs=1e-3)


def test_effective_rank_leaves_out_what_does_not_count() -> None:
    latents, valid = randn(8, D), torch.arange(8) < 5
    latents[5:] = 1e6
    assert torch.allclose(effective_rank(latents, valid), effective_rank(latents[:5]), rtol=1e-5)


def test_accuracy_asks_queries_for_keys_and_not_keys_for_queries() -> None:
    """Query 1 scores keys 0 and 2 above its own, and above their own: it misses, but so do they."""
    scores = torch.eye(4)
    scores[1, 0], scores[1, 2] = 2, 1.5
    assert retrieval_accuracy(scores) == 3 / 4
    assert retrieval_accuracy(scores.T) == 2 / 4


def test_accuracy_of_a_collapsed_encoder_is_chance() -> None:
    assert retrieval_accuracy(torch.zeros(8, 8)) == 1 / 8


def test_accuracy_counts_valid_pairs_among_valid_keys() -> None:
    """Query 1's better key 2 is not there, and query 2 does not count: 3 of 3 instead of 2 of 4."""
    scores = torch.eye(4)
    scores[1, 2] = scores[2, 0] = 5
    assert retrieval_accuracy(scores) == 2 / 4
    assert retrieval_accuracy(scores, torch.tensor([True, True, False, True])) == 1
    assert retrieval_accuracy(scores, torch.zeros(4, dtype=torch.bool)) == 0


def test_squared_distances_are_those_of_unit_vectors() -> None:
    query, key = randn(5, D), 3 * randn(5, D, seed=1)
    found = squared_distances(query, key)
    for i in range(5):
        for j in range(5):
            difference = query[i] / query[i].norm() - key[j] / key[j].norm()
            expected = difference.square().sum().item()
            assert found[i, j].item() == pytest.approx(expected, abs=1e-6)
    own = squared_distances(query, query).diagonal()
    assert own.min() >= 0 and own.max() < 1e-5
