"""The step of an objective: what it trains, what it averages, and what a state holds of it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from curl.augmentations.none import NoAugmentation
from curl.learning.auxiliary import Auxiliary
from curl.learning.contrast import Contrast
from curl.learning.networks import ConvTrunk
from curl.objectives.infonce import InfoNCE
from support.agents import make_batch

EDGE, LATENT = 24, 6


def make(*, objective: bool = True, shared: bool = False, tau: float = 0.25) -> Auxiliary:
    torch.manual_seed(0)
    trunk = ConvTrunk(channels=9, size=EDGE, strides=(2, 1), filters=4)
    encoder = nn.ModuleList([trunk, nn.Linear(trunk.features, LATENT)])
    scorer, view = InfoNCE(latent_dim=LATENT) if objective else None, NoAugmentation(size=EDGE)
    contrast = Contrast(objective=scorer, query=view, key=view, shared_key_encoder=shared)
    return Auxiliary(
        contrast,
        objective=scorer,
        encoder=encoder,
        learning_rate=1e-3,
        encoder_tau=tau,
        precision=torch.float32,
    )


def copies(*modules: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for module in modules for p in module.parameters()]


def update(auxiliary: Auxiliary) -> dict[str, Any]:
    batch, generator = make_batch(edge=EDGE), torch.Generator()
    views = auxiliary.contrast.views(batch, generator, 0)
    assert views is not None
    trunk: Any = auxiliary.encoder[0]
    return dict(auxiliary.update(trunk(auxiliary.contrast.view(batch.obs, generator)), views))


def test_a_step_trains_every_weight_of_encoder_and_objective_and_no_key() -> None:
    auxiliary = make()
    trained = (auxiliary.encoder, auxiliary.modules["objective"])
    before, keys = copies(*trained), copies(auxiliary.key_encoder)
    metrics = update(auxiliary)
    assert {"contrastive_loss", "contrastive_grad_norm"} <= metrics.keys()
    assert not [True for p, q in zip(before, copies(*trained), strict=True) if p.equal(q)]
    assert all(map(torch.equal, keys, copies(auxiliary.key_encoder)))


def test_the_key_encoder_moves_by_tau() -> None:
    auxiliary = make(tau=0.25)
    keys = copies(auxiliary.key_encoder)
    update(auxiliary)
    auxiliary.update_average()
    queries, moved = copies(auxiliary.encoder), copies(auxiliary.key_encoder)
    for before, query, after in zip(keys, queries, moved, strict=True):
        torch.testing.assert_close(after, 0.75 * before + 0.25 * query)


def test_a_shared_key_encoder_is_the_query_encoder_and_is_saved_once() -> None:
    auxiliary = make(shared=True)
    assert auxiliary.key_encoder is auxiliary.encoder and set(auxiliary.modules) == {"objective"}
    update(auxiliary)
    before = copies(auxiliary.encoder)
    auxiliary.update_average()
    assert all(map(torch.equal, before, copies(auxiliary.encoder)))


def test_without_an_objective_there_is_nothing_to_save_or_to_average() -> None:
    auxiliary = make(objective=False)
    assert not auxiliary.modules and not auxiliary.optimizers
    auxiliary.update_average()


@pytest.mark.parametrize("tau", [-0.1, 1.1, math.nan])
@pytest.mark.parametrize("objective", [False, True])
def test_a_tau_that_is_no_fraction_is_refused(tau: float, objective: bool) -> None:
    with pytest.raises(ValueError, match="encoder_tau"):
        make(tau=tau, objective=objective)
