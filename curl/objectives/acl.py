"""Attentive contrastive learning (Yang and Nachum 2021, section 4): fill in a hidden observation.

A window of tokens, one per agent step, goes through a small Transformer. A token holds the query
latent, the action taken there and, if asked for, its reward. Where the latent is hidden, the
Transformer's output has to pick out the key latent of that observation among those of all hidden
positions of all windows (InfoNCE, bilinear).

Each position of a window is hidden in turn, together with its neighbours up to `radius` steps away,
whose stacks of frames show partly the same frames. The loss is the mean over all positions. The
paper draws positions at random; the mean over all of them is what that estimates. It needs no
random number, so that a run resumes exactly, and costs little beside the encoders. Nothing of a
hidden latent enters its pass: neither the target nor another output can see it.

What differs from the authors' code as well: hidden latents are never replaced by others nor left in
place, actions and rewards are never hidden and never predicted, attention looks both ways, and
there is no dropout. Keys come from the moving-average encoder (the momentum variant of the code)
and are scored by a bilinear form. What lies past the end of an episode is no token and no key.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from curl.checks import flag, integer
from curl.data.batch import Metrics
from curl.objectives.base import Latents, Objective, alignment, retrieval_accuracy
from curl.objectives.infonce import infonce


class ACL(Objective):
    """Loss and accuracy are means over all hidden positions of all windows.

    Args:
        window: T, agent steps. radius: neighbours hidden on each side of the position in question.
        actions, rewards: whether tokens hold them.
        hidden_dim: H, of a token. heads, layers: of the Transformer. rows: windows of a batch.
    """

    hides: Tensor
    """bool [T, T]: where the row's step is hidden, so is the column's."""

    def __init__(
        self,
        *,
        latent_dim: int,
        action_dim: int,
        window: int,
        radius: int,
        actions: bool,
        rewards: bool,
        hidden_dim: int,
        heads: int,
        layers: int,
        rows: int,
    ) -> None:
        super().__init__()
        window = integer("window", window, at_least=2)
        radius = integer("radius", radius, at_least=0)
        if radius >= window // 2:
            raise ValueError(f"radius must be less than half the window of {window}, got {radius}")
        hidden_dim, heads = integer("hidden_dim", hidden_dim), integer("heads", heads)
        if hidden_dim % heads:
            raise ValueError(f"hidden_dim must be a multiple of heads={heads}, got {hidden_dim}")
        self.query_offsets = self.key_offsets = tuple(range(window))
        self.rows = integer("rows", rows)
        self.actions, self.rewards = flag("actions", actions), flag("rewards", rewards)
        step = torch.arange(window)
        self.register_buffer("hides", abs(step[:, None] - step) <= radius, persistent=False)
        self.missing = nn.Parameter(torch.zeros(latent_dim))  # stands for a hidden latent
        self.position = nn.Parameter(0.02 * torch.randn(window, hidden_dim))
        inputs = latent_dim + (action_dim if actions else 0) + (1 if rewards else 0)
        self.token = nn.Linear(inputs, hidden_dim)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                hidden_dim, heads, 4 * hidden_dim, dropout=0.0, batch_first=True, norm_first=True
            )
            for _ in range(integer("layers", layers))
        )
        self.bilinear = nn.Linear(hidden_dim, latent_dim, bias=False)  # W

    def outputs(self, latents: Latents) -> Tensor:
        """What the Transformer says of every step, [T, B, T, H]: first the step that is hidden."""
        inside = latents.query_valid  # [T, B]
        query = latents.query.masked_fill(~inside[..., None], 0)  # [T, B, D]
        # a_t is there if the episode is still on at t + 1; none is known of the window's last step
        taken = inside[1:, :, None]
        steps, others = len(inside), []
        for wanted, column in ((self.actions, latents.action), (self.rewards, latents.reward)):
            if wanted:
                column = column[: steps - 1].masked_fill(~taken, 0)
                others.append(torch.cat([column, torch.zeros_like(column[:1])]))
        hidden = self.hides[:, :, None, None]  # [T, T, 1, 1]
        state = torch.where(hidden, self.missing, query)  # [T, T, B, D], of each hidden step
        tokens = torch.cat([state, *(c.expand(steps, *c.shape) for c in others)], dim=3)
        x = self.token(tokens).transpose(1, 2) + self.position  # [T, B, T, H]
        x = x.flatten(0, 1)  # [T * B, T, H]
        absent = (~inside).T.repeat(steps, 1)  # [T * B, T]
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=absent)
        return x.unflatten(0, (steps, -1))

    def forward(self, latents: Latents) -> tuple[Tensor, Metrics]:
        steps = torch.arange(len(latents.query), device=latents.query.device)
        output = self.outputs(latents)[steps, :, steps]  # [T, B, H], each hidden step's own
        # A window of a single observation has nothing to fill it in from.
        valid = latents.valid & latents.valid[1]  # [T, B]
        key = latents.key.masked_fill(~valid[..., None], 0).flatten(0, 1)  # [T * B, D]
        query, inside = latents.query.flatten(0, 1), valid.flatten()
        logits = self.bilinear(output.flatten(0, 1)) @ key.T  # [T * B, T * B]
        metrics = {"accuracy": retrieval_accuracy(logits, inside)}
        return infonce(logits, inside), metrics | alignment(query, key, inside)
