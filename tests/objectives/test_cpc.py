"""CPC against a loop over windows, steps and candidates; no future leaks; nothing past the end."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from curl.objectives.base import Latents
from curl.objectives.cpc import CPC, prediction_scores
from support.latents import A, D, masks, ragged, randn, random_latents

T, K, H, B = 4, 3, 5, 10


def cpc(*, window: int = T, horizon: int = K, actions: bool = False) -> CPC:
    torch.manual_seed(0)
    sizes = {"latent_dim": D, "action_dim": A, "hidden_dim": H, "rows": 32}
    return CPC(window=window, horizon=horizon, actions=actions, **sizes)


def gradient_of(objective: CPC, latents: Latents) -> tuple[Tensor, Tensor]:
    """Loss, and the gradient of the queries."""
    loss = objective(latents)[0]
    return loss.detach(), torch.autograd.grad(loss, latents.query)[0]


def looped(objective: CPC, latents: Latents, steps: list[int]) -> tuple[float, float]:
    """Loss and accuracy: means over k of the means over the pairs (t, b) whose t + k is there."""
    gru = objective.gru.double()
    contexts: dict[tuple[int, int], Tensor] = {}
    for b in range(B):
        state = torch.zeros(H, dtype=torch.float64)
        for t in range(min(objective.window, steps[b] + 1)):
            z = latents.query[t, b].detach().double()
            if objective.actions:
                # the action of the episode's last observation was never taken; no pair needs it
                z = torch.cat([z, latents.action[t, b].double().nan_to_num(0)])
            state = gru(z, state)
            contexts[t, b] = state
    gru.float()
    losses, accuracies = [], []
    for k, w in enumerate(objective.bilinear, 1):
        there = [(t, b) for t, b in contexts if t + k <= steps[b]]
        keys = {(t, b): latents.key[t + k - 1, b].double() for t, b in there}
        loss = found = 0.0
        for pair in there:
            prediction = w.weight.detach().double() @ contexts[pair].detach()
            scores = {other: float(prediction @ keys[other]) for other in there}
            loss -= math.log(math.exp(scores[pair]) / sum(map(math.exp, scores.values())))
            found += scores[pair] == max(scores.values())
        losses.append(loss / max(len(there), 1))
        accuracies.append(found / max(len(there), 1))
    return sum(losses) / len(losses), sum(accuracies) / len(accuracies)


@pytest.mark.parametrize("actions", [False, True])
@pytest.mark.parametrize(("window", "horizon"), [(1, 1), (4, 3), (2, 5)])
@pytest.mark.parametrize("ended", [False, True])
def test_it_is_the_loop(actions: bool, window: int, horizon: int, ended: bool) -> None:
    objective = cpc(window=window, horizon=horizon, actions=actions)
    steps = ragged(B) if ended else torch.full((B,), 99)
    latents = random_latents(objective, B, steps=steps)
    loss, metrics = objective(latents)
    expected = looped(objective, latents, steps.tolist())
    assert (loss.item(), metrics["accuracy"].item()) == pytest.approx(expected, rel=1e-5)


def test_offsets_cover_the_window_and_what_it_predicts() -> None:
    objective = cpc(window=4, horizon=3)
    assert objective.query_offsets == (0, 1, 2, 3)
    assert objective.key_offsets == (1, 2, 3, 4, 5, 6)
    assert objective.rows == 32


def test_the_positive_of_a_context_is_the_latent_k_steps_later() -> None:
    """Keys that name their offset: on the diagonal of step k stands t + k."""
    key = torch.arange(1.0, T + K)[:, None, None].expand(T - 1 + K, B, 1)
    valid = masks(tuple(range(1, T + K)), ragged(B))
    for k in range(1, K + 1):
        logits, inside = prediction_scores(torch.ones(T, B, 1), key, valid, k)
        assert logits.shape == (T * B, T * B)
        later = logits.diagonal().view(T, B)
        assert torch.equal(later, (torch.arange(T) + k).float()[:, None].expand(T, B))
        assert torch.equal(inside.view(T, B), later <= ragged(B))


def test_candidates_are_all_of_batch_and_time() -> None:
    """Every latent k steps after a step of a window, each once, one's own window included."""
    key = torch.arange(float((T - 1 + K) * B)).view(T - 1 + K, B, 1)
    valid = torch.ones(T - 1 + K, B, dtype=torch.bool)
    for k in range(1, K + 1):
        logits, _ = prediction_scores(torch.ones(T, B, 1), key, valid, k)
        expected = torch.arange(float((k - 1) * B), float((k - 1 + T) * B))
        assert torch.equal(logits, expected.expand(T * B, -1))


@pytest.mark.parametrize("t", range(T))
def test_no_future_leaks_into_a_context(t: int) -> None:
    """c_0..c_t do not change with what comes after t; c_{t+1} does. c_t knows a_t, not a_{t+1}."""
    objective = cpc(actions=True)
    query, action = randn(T, B, D), randn(T, B, A, seed=1)
    expected = objective.contexts(query, action)
    for changed in (query, action):
        altered = changed.clone()
        altered[t + 1 :] += 1
        parts = (altered, action) if changed is query else (query, altered)
        found = objective.contexts(*parts)
        assert torch.equal(found[: t + 1], expected[: t + 1])
        assert all((found[s] != expected[s]).any() for s in range(t + 1, T))
        altered = changed.clone()
        altered[t] += 1
        parts = (altered, action) if changed is query else (query, altered)
        assert (objective.contexts(*parts)[t:] != expected[t:]).any(dim=2).all()


def test_contexts_do_not_mix_windows() -> None:
    objective, query = cpc(), randn(T, B, D)
    altered = query.clone()
    altered[:, 3] += 1
    same = objective.contexts(altered, query) == objective.contexts(query, query)
    assert same.all(dim=2).all(dim=0).tolist() == [b != 3 for b in range(B)]


def test_queries_are_trained_as_far_as_the_episode_goes() -> None:
    """Of a window that ends after n steps, z_0..z_{n-1} get a gradient: z_n predicts nothing."""
    objective = cpc()
    steps = torch.arange(B)
    _, gradient = gradient_of(objective, random_latents(objective, B, steps=steps))
    trained = (gradient != 0).any(dim=2)
    assert torch.equal(trained, torch.arange(T)[:, None] < steps)


@pytest.mark.parametrize("actions", [False, True])
def test_an_ended_episode_is_as_if_its_tail_were_not_there(actions: bool) -> None:
    """Two windows, one of them over from the start: the loss of the other one alone."""
    objective = cpc(actions=actions)
    both = random_latents(objective, 2, steps=torch.tensor([99, 0]))
    parts = {f.name: getattr(both, f.name)[:, :1] for f in dataclasses.fields(both)}
    loss, gradient = gradient_of(objective, both)
    query = parts.pop("query").detach().requires_grad_()
    alone, gradient_alone = gradient_of(objective, Latents(query=query, **parts))
    assert loss.item() == pytest.approx(alone.item(), rel=1e-6)
    assert torch.allclose(gradient[:, :1], gradient_alone, atol=1e-7)
    assert (gradient[:, 1] == 0).all()


def test_actions_matter_only_if_they_are_asked_for() -> None:
    for actions in (False, True):
        objective = cpc(actions=actions)
        latents = random_latents(objective, B)
        changed = dataclasses.replace(latents, action=latents.action + 1)
        assert (objective(changed)[0] == objective(latents)[0]) == (not actions)
