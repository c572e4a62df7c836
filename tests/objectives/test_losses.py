"""Every loss of one pair a row: closed forms, and double loops in Python floats against it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise as neighbours

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from curl.objectives.base import Latents, Objective, squared_distances
from curl.objectives.byol import BYOL, regression
from curl.objectives.infonce import InfoNCE, infonce
from curl.objectives.infonce_cosine import InfoNCECosine
from curl.objectives.pairwise import Pairwise, pairwise
from curl.objectives.temporal import Temporal
from curl.objectives.triplet import Triplet, random, semi_hard, triplet
from support.latents import D, randn, random_latents

B = 12
Vector = Sequence[float]


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Initial weights come from PyTorch's global generator."""
    torch.manual_seed(0)


def pairs(query: Tensor, key: Tensor, valid: Tensor | None = None) -> Latents:
    """Latents [B, D] at one offset."""
    inside = torch.ones(len(key), dtype=torch.bool) if valid is None else valid
    number = torch.zeros(1, len(key), 1)
    masks = inside[None], torch.ones_like(inside)[None]
    return Latents(query[None], key[None], *masks, number.expand(-1, -1, 2), number, number.bool())


def dot(a: Vector, b: Vector) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def unit(a: Vector) -> list[float]:
    return [x / math.sqrt(dot(a, a)) for x in a]


def squared(a: Vector, b: Vector) -> float:
    """|a/|a| - b/|b||^2"""
    return math.fsum((x - y) ** 2 for x, y in zip(unit(a), unit(b), strict=True))


def entropy(scores: Sequence[Vector], valid: Sequence[bool] | None = None) -> tuple[float, float]:
    """-log(exp(s_ii) / sum_j exp(s_ij)) and "is s_ii the largest?", means over valid i and j."""
    counted = [i for i in range(len(scores)) if valid is None or valid[i]]
    losses, found = [], 0
    for i in counted:
        total = math.fsum(math.exp(scores[i][j]) for j in counted)
        losses.append(-math.log(math.exp(scores[i][i]) / total))
        found += all(scores[i][i] >= scores[i][j] for j in counted)
    return math.fsum(losses) / len(counted), found / len(counted)


# -- InfoNCE ---------------------------------------------------------------------------------------


def identity_infonce() -> InfoNCE:
    objective = InfoNCE(latent_dim=D)
    with torch.no_grad():
        objective.bilinear.copy_(torch.eye(D))
    return objective


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_infonce_of_orthogonal_latents(scale: float) -> None:
    """Logits scale^2 on the diagonal, 0 beside it: log(e^(scale^2) + B - 1) - scale^2."""
    q = scale * torch.eye(D)
    loss, metrics = identity_infonce()(pairs(q, q))
    expected = math.log(math.exp(scale**2) + D - 1) - scale**2
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    assert metrics["accuracy"] == (1.0 if scale else pytest.approx(1 / D))


def test_infonce_is_the_double_loop() -> None:
    """With scores q_i W k_j."""
    objective = InfoNCE(latent_dim=D)
    q, k, w = randn(B, D, seed=1), randn(B, D, seed=2), objective.bilinear.detach().double()
    scores = [
        [dot((q[i].double() @ w).tolist(), k[j].tolist()) for j in range(B)] for i in range(B)
    ]
    loss, metrics = objective(pairs(q, k))
    assert (loss.item(), metrics["accuracy"].item()) == pytest.approx(entropy(scores), rel=1e-5)


def test_infonce_does_not_overflow() -> None:
    logits = torch.tensor([[1000.0, 0.0], [0.0, 1000.0]])
    assert infonce(logits).item() == 0
    assert infonce(logits.flip(0)).item() == 1000


def test_initial_w_is_uniform_in_0_1() -> None:
    w = InfoNCE(latent_dim=100).bilinear
    assert w.shape == (100, 100)
    assert w.min() >= 0 and w.max() < 1
    assert w.mean().item() == pytest.approx(0.5, abs=0.02)


def test_masked_infonce_is_infonce_of_what_is_left() -> None:
    logits, valid = randn(B, B), torch.arange(B) % 3 > 0
    left = logits[valid][:, valid]
    assert infonce(logits, valid).item() == pytest.approx(infonce(left).item(), rel=1e-6)
    expected = entropy(logits.tolist(), valid.tolist())[0]
    assert infonce(logits, valid).item() == pytest.approx(expected, rel=1e-5)
    everything = torch.ones(B, dtype=torch.bool)
    assert infonce(logits, everything).item() == pytest.approx(infonce(logits).item(), rel=1e-6)


def test_masked_infonce_sends_no_gradient_to_what_is_masked() -> None:
    """Not even where the logits have overflowed."""
    logits, valid = randn(B, B), torch.arange(B) % 3 > 0
    pair = valid[:, None] & valid
    logits = logits.masked_fill(~pair, torch.inf).requires_grad_()
    infonce(logits, valid).backward()
    assert logits.grad is not None
    assert (logits.grad[~pair] == 0).all() and (logits.grad[pair] != 0).all()
    none = torch.zeros(B, dtype=torch.bool)
    (gradient,) = torch.autograd.grad(infonce(logits, none), logits)
    assert infonce(logits, none) == 0 and (gradient == 0).all()


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_infonce_cosine_is_the_double_loop(temperature: float) -> None:
    q, k = 5 * randn(B, D, seed=1), randn(B, D, seed=2)
    rows, keys = q.tolist(), k.tolist()
    scores = [[dot(unit(a), unit(b)) / temperature for b in keys] for a in rows]
    loss, metrics = InfoNCECosine(temperature=temperature)(pairs(q, k))
    assert (loss.item(), metrics["accuracy"].item()) == pytest.approx(entropy(scores), rel=1e-5)


def test_infonce_cosine_of_orthogonal_latents() -> None:
    """Logits 1/t on the diagonal whatever the lengths: log(e^(1/t) + B - 1) - 1/t."""
    lengths = torch.arange(1.0, D + 1)[:, None]
    loss, _ = InfoNCECosine(temperature=0.5)(pairs(lengths * torch.eye(D), torch.eye(D)))
    assert loss.item() == pytest.approx(math.log(math.exp(2) + D - 1) - 2, abs=1e-6)


@pytest.mark.parametrize("masked", [False, True])
def test_temporal_is_the_double_loop(masked: bool) -> None:
    """Scores (q_i + MLP(q_i)) W^T k_j among the transitions whose later observation exists."""
    objective = Temporal(latent_dim=D, offset=2, hidden_dim=5)
    q, k = randn(B, D, seed=1), randn(B, D, seed=2)
    valid = torch.arange(B) % 3 > 0 if masked else torch.ones(B, dtype=torch.bool)
    first, _, second = objective.residual.double()
    w = objective.bilinear.weight.detach().double()
    scores = []
    for row in q.double():
        hidden = (first.weight @ row + first.bias).clamp(min=0)
        prediction = w @ (row + second.weight @ hidden + second.bias)
        scores.append([dot(prediction.tolist(), key) for key in k.tolist()])
    loss, metrics = objective.float()(pairs(q, k, valid))
    expected = entropy(scores, valid.tolist())
    assert (loss.item(), metrics["accuracy"].item()) == pytest.approx(expected, rel=1e-5)
    assert objective.query_offsets == (0,) and objective.key_offsets == (2,)


# -- triplet ---------------------------------------------------------------------------------------


def mined(distances: Sequence[Vector], i: int, mining: str) -> float:
    """The distance of row i to its negative."""
    others = [d for j, d in enumerate(distances[i]) if j != i]
    if mining == "random":
        return distances[i][(i + 1) % len(distances)]
    beyond = [d for d in others if d > distances[i][i]]
    return min(beyond) if beyond else max(others)


@pytest.mark.parametrize("mining", ["semi_hard", "random"])
@pytest.mark.parametrize("noise", [0.3, 3.0])
def test_triplet_is_the_double_loop(mining: str, noise: float) -> None:
    """With noise of 0.3 most keys are near their query, with 3.0 some are the farthest of all."""
    k = randn(B, D, seed=2)
    q = k + noise * randn(B, D, seed=1)
    distances = [[squared(a, b) for b in k.tolist()] for a in q.tolist()]
    terms = [max(0.0, distances[i][i] - mined(distances, i, mining) + 0.5) for i in range(B)]
    loss, metrics = Triplet(margin=0.5, mining=mining)(pairs(q, k))
    assert loss.item() == pytest.approx(math.fsum(terms) / B, rel=1e-4, abs=1e-6)
    found = sum(min(row) == row[i] for i, row in enumerate(distances)) / B
    assert metrics["accuracy"].item() == pytest.approx(found)


def test_semi_hard_takes_the_nearest_key_beyond_its_own() -> None:
    """Row 0: not the nearer 0.1, nor the farther 0.9. Row 2: none is beyond 0.8: the farthest."""
    distances = torch.tensor(
        [[0.3, 0.1, 0.5, 0.9], [0.2, 0.1, 0.7, 0.6], [0.1, 0.4, 0.8, 0.2], [1.0, 2.0, 3.0, 0.0]]
    )
    assert torch.allclose(semi_hard(distances), torch.tensor([0.5, 0.2, 0.4, 1.0]))
    assert torch.equal(random(distances), torch.tensor([0.1, 0.7, 0.2, 1.0]))


def test_triplet_closed_forms() -> None:
    """Met by the margin: 0; short of it by s: s; collapsed: the margin."""
    distances = torch.tensor([[0.0, 0.5], [0.6, 0.0]])
    assert triplet(distances, semi_hard(distances), 0.5).item() == 0
    assert triplet(distances, semi_hard(distances), 0.8).item() == pytest.approx((0.3 + 0.2) / 2)
    same = torch.zeros(4, 4)
    assert triplet(same, semi_hard(same), 0.2).item() == pytest.approx(0.2)
    assert triplet(same, random(same), 0.2).item() == pytest.approx(0.2)


def test_triplet_pulls_the_key_and_pushes_the_negative() -> None:
    distances = torch.tensor([[0.1, 0.2, 0.9], [0.9, 0.1, 0.2], [0.2, 0.9, 0.1]]).requires_grad_()
    (slope,) = torch.autograd.grad(triplet(distances, semi_hard(distances), 0.5), distances)
    expected = torch.tensor([[1.0, -1, 0], [0, 1, -1], [-1, 0, 1]]) / 3
    assert torch.allclose(slope, expected)


def test_equally_near_negatives_share_the_push() -> None:
    distances = torch.tensor([[0.1, 0.3, 0.3], [0.2, 0.6, 0.2], [9, 9, 0.0]]).requires_grad_()
    (slope,) = torch.autograd.grad(semi_hard(distances).sum(), distances)
    assert torch.equal(slope, torch.tensor([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]))


def test_random_mining_depends_on_neighbours_only() -> None:
    """Rows in another order have other negatives, but where a batch begins does not matter."""
    objective = Triplet(margin=0.5, mining="random")
    q, k = randn(B, D, seed=1), randn(B, D, seed=2)
    loss = objective(pairs(q, k))[0].item()
    turned = objective(pairs(q.roll(5, dims=0), k.roll(5, dims=0)))[0].item()
    assert turned == pytest.approx(loss, rel=1e-5)
    assert objective(pairs(q.flip(0), k.flip(0)))[0].item() != pytest.approx(loss, rel=1e-3)


def test_random_mining_learns() -> None:
    latents = random_latents(objective := Triplet(margin=0.2, mining="random"), 32)
    optimizer = torch.optim.Adam([latents.query], lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        objective(latents)[0].backward()
        optimizer.step()
    assert objective(latents)[0] < 0.01


# -- pairwise --------------------------------------------------------------------------------------


@pytest.mark.parametrize("square", [True, False])
def test_pairwise_is_the_double_loop(square: bool) -> None:
    k = randn(B, D, seed=2)
    q = k + 0.7 * randn(B, D, seed=1)
    power = 2 if square else 1
    near, far = [], []
    for i, a in enumerate(q.tolist()):
        for j, b in enumerate(k.tolist()):
            d = math.sqrt(squared(a, b))
            (near if i == j else far).append(d**power if i == j else max(0.0, 1.2 - d) ** power)
    expected = math.fsum(near) / B + math.fsum(far) / (B * (B - 1))
    loss = Pairwise(margin=1.2, squared=square)(pairs(q, k))[0]
    assert loss.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("square", "expected"), [(True, 0.64 + 0.25), (False, 0.8 + 0.5)])
def test_pairwise_closed_form(square: bool, expected: float) -> None:
    """Own keys at 0.8, others at 1.0, margin 1.5."""
    distances = torch.full((4, 4), 1.0).fill_diagonal_(0.64)
    loss = pairwise(distances, margin=1.5, squared=square)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("square", [True, False])
def test_pairwise_is_finite_where_latents_coincide(square: bool) -> None:
    """The slope of a distance is undefined at 0: nothing moves; a little away the slope is 1."""
    same = torch.zeros(3, 3, requires_grad=True)
    loss = pairwise(same, margin=1.0, squared=square)
    (slope,) = torch.autograd.grad(loss, same)
    assert loss.item() == pytest.approx(1.0, abs=5e-3) and slope.isfinite().all()
    q = torch.ones(3, D, requires_grad=True)
    (slope,) = torch.autograd.grad(Pairwise(margin=1.0, squared=square)(pairs(q, q))[0], q)
    assert slope.isfinite().all()


def test_pairwise_in_order_is_better_the_nearer_the_keys() -> None:
    """Positives count as they should: the loss grows with the noise between query and key."""
    k = randn(B, D)
    losses = [
        Pairwise(margin=1.0, squared=True)(pairs(k + noise * randn(B, D, seed=1), k))[0]
        for noise in (0.0, 0.1, 0.3, 1.0)
    ]
    assert all(near < far for near, far in neighbours(losses))


# -- BYOL ------------------------------------------------------------------------------------------


def test_byol_is_the_loop() -> None:
    """Linear, layer norm, ReLU, linear; then squared distances of unit vectors."""
    objective = BYOL(latent_dim=D, hidden_dim=5)
    q, k = randn(B, D, seed=1), randn(B, D, seed=2)
    first, _, _, last = objective.predictor.double()
    hidden = q.double() @ first.weight.T + first.bias
    mean, spread = hidden.mean(1, keepdim=True), hidden.var(1, keepdim=True, unbiased=False)
    hidden = ((hidden - mean) / (spread + 1e-5).sqrt()).clamp(min=0)
    prediction = (hidden @ last.weight.T + last.bias).tolist()
    distances = [[squared(p, key) for key in k.tolist()] for p in prediction]
    loss, metrics = objective.float()(pairs(q, k))
    expected = math.fsum(row[i] for i, row in enumerate(distances)) / B
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    found = sum(min(row) == row[i] for i, row in enumerate(distances)) / B
    assert metrics["accuracy"].item() == pytest.approx(found)


@pytest.mark.parametrize(("sign", "expected"), [(1, 0), (-1, 4)])
def test_regression_closed_forms(sign: int, expected: float) -> None:
    """The same direction: 0; the opposite: 4; orthogonal: 2; lengths do not matter."""
    p = randn(B, D)
    assert regression(p, sign * 7 * p).item() == pytest.approx(expected, abs=1e-5)
    assert regression(torch.eye(D), torch.eye(D).roll(1, 0)).item() == pytest.approx(2)


def test_byol_has_no_negatives() -> None:
    """Another row's key changes no row's own term."""
    q, k = randn(B, D, seed=1), randn(B, D, seed=2)
    objective = BYOL(latent_dim=D, hidden_dim=5)
    other = k.clone()
    other[0] = randn(D, seed=3)
    with torch.no_grad():
        prediction = objective.predictor(q)
    change = objective(pairs(q, other))[0] - objective(pairs(q, k))[0]
    expected = regression(prediction[:1], other[:1]) - regression(prediction[:1], k[:1])
    assert (B * change).item() == pytest.approx(expected.item(), abs=1e-5)


# -- all of them -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "objective",
    [
        identity_infonce(),
        InfoNCECosine(temperature=0.1),
        Triplet(margin=0.2, mining="semi_hard"),
        Triplet(margin=0.2, mining="random"),
        Pairwise(margin=1.0, squared=True),
        Pairwise(margin=1.0, squared=False),
    ],
    ids=["infonce", "cosine", "semi_hard", "random", "squared", "unsquared"],
)
def test_aligned_pairs_score_better_than_shuffled_ones(objective: Objective) -> None:
    """By the sign of the loss alone: nothing is trained."""
    q = F.layer_norm(randn(32, D, seed=3), [D])
    near = q + 0.1 * randn(32, D, seed=4)
    loss, metrics = objective(pairs(q, near))
    shuffled, others = objective(pairs(q, near.roll(1, dims=0)))
    # a semi-hard negative is never nearer than the key itself, so that its loss stays near 0.2
    assert loss < (0.9 if isinstance(objective, Triplet) else 0.5) * shuffled
    assert metrics["accuracy"] == 1 and others["accuracy"] == 0
    assert squared_distances(q, near).diagonal().max() < 0.2
