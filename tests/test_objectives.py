"""Objectives: InfoNCE against hand calculation, and the contract of every configured objective."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from curl import objectives
from curl.objectives.base import Objective
from curl.objectives.infonce import InfoNCE, infonce

CONFIGS = sorted((Path(__file__).parents[1] / "configs" / "objective").glob("*.yaml"))
LATENT = 6


def latents(count: int, seed: int) -> Tensor:
    return torch.randn(count, LATENT, generator=torch.Generator().manual_seed(seed))


def identity_infonce() -> InfoNCE:
    objective = InfoNCE(latent_dim=LATENT)
    with torch.no_grad():
        objective.bilinear.copy_(torch.eye(LATENT))
    return objective


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Initial weights come from PyTorch's global generator."""
    torch.manual_seed(0)


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_infonce_of_orthogonal_latents(scale: float) -> None:
    """Logits scale^2 on the diagonal, 0 beside it: log(e^(scale^2) + B - 1) - scale^2."""
    q = scale * torch.eye(LATENT)
    loss, metrics = identity_infonce()(q, q)
    expected = math.log(math.exp(scale**2) + LATENT - 1) - scale**2
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    assert metrics["accuracy"] == (1.0 if scale else pytest.approx(1 / LATENT))


def test_infonce_is_the_double_loop() -> None:
    """-1/B sum_i log(exp(q_i W k_i) / sum_j exp(q_i W k_j)), in Python floats."""
    objective = InfoNCE(latent_dim=LATENT)
    q, k, w = latents(8, 1), latents(8, 2), objective.bilinear.detach().double()
    total, right = 0.0, 0
    for i in range(8):
        scores = [float(q[i].double() @ w @ k[j].double()) for j in range(8)]
        total -= math.log(math.exp(scores[i]) / sum(map(math.exp, scores)))
        right += max(scores) == scores[i]
    loss, metrics = objective(q, k)
    assert loss.item() == pytest.approx(total / 8, rel=1e-5)
    assert metrics["accuracy"].item() == pytest.approx(right / 8)


def test_infonce_does_not_overflow() -> None:
    logits = torch.tensor([[1000.0, 0.0], [0.0, 1000.0]])
    assert infonce(logits).item() == 0
    assert infonce(logits.flip(0)).item() == 1000


def test_accuracy_counts_the_queries_that_find_their_key() -> None:
    """Two of six keys are swapped: four are found."""
    q = 3 * torch.eye(LATENT)
    _, metrics = identity_infonce()(q, q[[1, 0, 2, 3, 4, 5]])
    assert metrics["accuracy"].item() == pytest.approx(4 / 6)


def test_accuracy_asks_queries_for_keys_and_not_keys_for_queries() -> None:
    """Query 1 points at key 0, and more strongly than query 0: one query misses, but two keys."""
    k = 3 * torch.eye(LATENT)
    q = k.clone()
    q[1] = 2 * k[0]
    assert identity_infonce()(q, k)[1]["accuracy"].item() == pytest.approx(5 / 6)


def test_aligned_pairs_score_better_than_shuffled_ones() -> None:
    q, objective = latents(32, 3), identity_infonce()
    near = q + 0.1 * latents(32, 4)
    aligned, shuffled = objective(q, near)[0], objective(q, near.roll(1, 0))[0]
    assert aligned < math.log(32) < shuffled


def test_initial_w_is_uniform_in_0_1() -> None:
    w = InfoNCE(latent_dim=100).bilinear
    assert w.shape == (100, 100)
    assert w.min() >= 0 and w.max() < 1
    assert w.mean().item() == pytest.approx(0.5, abs=0.02)


# -- the contract of every configured objective ----------------------------------------------------


def make(path: Path) -> Objective | None:
    return objectives.make(**OmegaConf.load(path), latent_dim=LATENT)


def test_none_is_plain_sac() -> None:
    assert [path.stem for path in CONFIGS if make(path) is None] == ["none"]


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="did you mean 'infonce'"):
        objectives.make("infonse", latent_dim=LATENT)


SCORING = [path for path in CONFIGS if make(path) is not None]


@pytest.fixture(params=SCORING, ids=lambda path: path.stem)
def objective(request: pytest.FixtureRequest) -> Objective:
    made = make(request.param)
    assert made is not None
    return made


def test_loss_is_a_finite_scalar_and_metrics_are_detached(objective: Objective) -> None:
    loss, metrics = objective(latents(5, 1), latents(5, 2))
    assert loss.shape == () and loss.dtype == torch.float32 and loss.isfinite()
    for value in metrics.values():
        assert value.shape == () and value.isfinite() and not value.requires_grad
    assert isinstance(objective.offset, int) and objective.offset >= 0


def test_gradients_reach_query_and_parameters_but_no_detached_key(objective: Objective) -> None:
    q, k = latents(5, 1).requires_grad_(), latents(5, 2).requires_grad_()
    objective(q, k.detach())[0].backward()
    assert q.grad is not None and q.grad.norm() > 0
    assert all(p.grad is not None and p.grad.norm() > 0 for p in objective.parameters())
    assert k.grad is None


def test_minimising_it_brings_queries_to_their_keys(objective: Objective) -> None:
    """Some steps on one batch lower its loss, and raise that of the same keys in another order."""
    q, k = latents(16, 1).requires_grad_(), latents(16, 2)
    first = objective(q, k)[0].item()
    optimizer = torch.optim.Adam([q, *objective.parameters()], lr=0.05)
    for _ in range(50):
        optimizer.zero_grad()
        objective(q, k)[0].backward()
        optimizer.step()
    with torch.no_grad():
        assert objective(q, k)[0] < 0.5 * first
        assert objective(q, k.roll(1, 0))[0] > first
