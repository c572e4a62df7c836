"""The step that an objective adds to the update of an agent: key encoder and Adam of its own.

CURL's key encoder is a moving average that SAC has anyway, the target's. The agents that have none
take theirs from here, where nothing but the objective reads it: `curl/agents/drqv2.py`,
`curl/agents/iql.py` and `curl/agents/bc.py`.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from curl.checks import real
from curl.data.batch import Metrics
from curl.learning.contrast import Contrast, ContrastViews
from curl.learning.networks import move_average
from curl.learning.optimisation import adam, step
from curl.learning.precision import autocast
from curl.objectives.base import Objective


class Auxiliary:
    """Trains query encoder and objective on the objective's loss, and averages the key encoder.

    Args:
        contrast: draws the views, and computes latents and loss.
        objective: what it scores latents with; None: no step is ever due.
        encoder: f_q, trunk and projection, on their device. It is copied here.
        learning_rate: of Adam.
        encoder_tau: of the key encoder's moving average.
        precision: dtype of convolutions and hidden layers.

    Attributes:
        key_encoder: f_k, a moving average of the query encoder, or the query encoder itself where
            it is shared or there is no objective.
        modules: what the agent's state has to hold besides the encoder, by name.
        optimizers: `contrast` -> Adam; empty without an objective.

    Raises:
        ValueError: `encoder_tau` is not in [0, 1].
    """

    def __init__(
        self,
        contrast: Contrast,
        *,
        objective: Objective | None,
        encoder: nn.ModuleList,
        learning_rate: float,
        encoder_tau: float,
        precision: torch.dtype,
    ) -> None:
        self.contrast, self.encoder, self.precision = contrast, encoder, precision
        self.encoder_tau = real("encoder_tau", encoder_tau, low=0, high=1)
        self.key_encoder = encoder
        self.modules: dict[str, nn.Module] = {}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        if objective is None:
            return
        self.modules["objective"] = objective
        if not contrast.shared_key_encoder:
            self.key_encoder = copy.deepcopy(encoder).requires_grad_(False)
            self.modules["key_encoder"] = self.key_encoder
        trained = [*encoder.parameters(), *objective.parameters()]
        self.optimizers["contrast"] = adam(trained, learning_rate)

    def update(self, features: Tensor, views: ContrastViews) -> Metrics:
        """One Adam step of query encoder and objective on the objective's loss.

        Args:
            features: see `Contrast.latents`; they carry a gradient of the trunk as it is now.
            views: see `Contrast.views`.
        """
        with autocast(features.device, self.precision):
            latents = self.contrast.latents(self.encoder, self.key_encoder, features, views)
        loss, metrics = self.contrast.loss(latents)
        return metrics | {"contrastive_grad_norm": step(loss, self.optimizers["contrast"])}

    @torch.no_grad()
    def update_average(self) -> None:
        """Move the key encoder by `encoder_tau` towards the query encoder."""
        if self.key_encoder is not self.encoder:
            keys, queries = self.key_encoder.parameters(), self.encoder.parameters()
            move_average(keys, queries, self.encoder_tau)
