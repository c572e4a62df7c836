"""Contrastive Predictive Coding (van den Oord 2018, section 2): contexts predict later latents.

A recurrent context c_t of z_0..z_t predicts the latents k = 1..K steps later, each by its own
bilinear form (eq. 3), scored by InfoNCE (eq. 4). The candidates of step k are the latents k steps
after every step of every window, one's own window included; what lies past the end of an episode is
none of them, and nobody's positive. What differs: keys come from the moving-average encoder without
gradient; the window is short and starts from an empty context; actions may be part of it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from curl.checks import flag, integer
from curl.data.batch import Metrics
from curl.objectives.base import Latents, Objective, alignment, retrieval_accuracy
from curl.objectives.infonce import infonce


def prediction_scores(
    prediction: Tensor, key: Tensor, valid: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """Logits [T*B, T*B] of every W_k c_t against every latent k steps later, and which count [T*B].

    Args:
        prediction: W_k c_t, [T, B, D].
        key, valid: latents [T-1+K, B, D] and mask [T-1+K, B] at 1, ..., T-1+K steps.
        k: how far ahead, from 1.
    """
    ahead = slice(k - 1, k - 1 + len(prediction))
    logits = prediction.flatten(0, 1) @ key[ahead].flatten(0, 1).T
    return logits, valid[ahead].flatten()


class CPC(Objective):
    """Loss and accuracy are means over k = 1..K.

    Args:
        window: T, steps with a context. horizon: K. rows: windows of a batch.
        actions: c_t knows a_t, the action that leads to z_{t+1}, and those before it.
    """

    def __init__(
        self,
        *,
        latent_dim: int,
        action_dim: int,
        window: int,
        horizon: int,
        hidden_dim: int,
        rows: int,
        actions: bool,
    ) -> None:
        super().__init__()
        self.window, horizon = integer("window", window), integer("horizon", horizon)
        hidden_dim = integer("hidden_dim", hidden_dim)
        self.query_offsets = tuple(range(window))
        self.key_offsets = tuple(range(1, window + horizon))
        self.rows = integer("rows", rows)
        self.actions = flag("actions", actions)
        self.gru = nn.GRUCell(latent_dim + (action_dim if actions else 0), hidden_dim)
        self.bilinear = nn.ModuleList(  # W_1, ..., W_K
            nn.Linear(hidden_dim, latent_dim, bias=False) for _ in range(horizon)
        )

    def contexts(self, query: Tensor, action: Tensor) -> Tensor:
        """c_0, ..., c_{T-1}, [T, B, H], of latents [T, B, D] and actions [T, B, A]."""
        inputs = torch.cat([query, action], dim=-1) if self.actions else query
        states = [self.gru(inputs[0])]
        for t in range(1, self.window):
            states.append(self.gru(inputs[t], states[-1]))
        return torch.stack(states)

    def forward(self, latents: Latents) -> tuple[Tensor, Metrics]:
        query, key, valid = latents.query, latents.key, latents.valid
        # a_t is undefined where the episode has ended by t + 1, the offset of row t of `valid`
        taken = valid[: self.window, :, None]
        context = self.contexts(query, latents.action[: self.window].masked_fill(~taken, 0))
        scores = [
            prediction_scores(w(context), key, valid, k) for k, w in enumerate(self.bilinear, 1)
        ]
        loss = torch.stack([infonce(*score) for score in scores]).mean()
        accuracy = torch.stack([retrieval_accuracy(*score) for score in scores]).mean()
        next_key, inside = key[: self.window].flatten(0, 1), valid[: self.window].flatten()
        return loss, {"accuracy": accuracy, **alignment(query.flatten(0, 1), next_key, inside)}
