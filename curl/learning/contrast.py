"""What an agent adds to be trained by an objective too: views, latents and the weighted loss.

This is CURL's contrastive half, apart from the reinforcement learning, so that any agent with a
convolutional trunk can take it. By default the anchor is the crop that the critic saw, as in the
reference code, so that one pass of the trunk serves both. The paper's ablations are options.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypedDict

import torch
from torch import Tensor, nn

from curl.augmentations.base import Augmentation
from curl.checks import integer, positive
from curl.data.batch import Batch, FrameStacks, Metrics, join
from curl.objectives.base import Latents, Objective


class ContrastOptions(TypedDict, total=False):
    """Settings of `Contrast`, for an agent that takes them among its own as `**contrast`.

    Their defaults are those of `Contrast`.
    """

    contrastive_weight: float
    contrastive_every: int
    shared_key_encoder: bool
    first_frame_only: bool
    clean_critic: bool


class ContrastViews(NamedTuple):
    """What a contrastive step learns from: R transitions, the first `Objective.rows` of a batch.

    It is a tuple of tensors, so that an update which is recorded (`curl/learning/capture.py`) can
    take its fields one by one and put them together again.

    Args:
        keys: views for the key encoder, [K * R, C, size, size], K key offsets; None for an
            objective that wants no keys.
        queries: the query views that the critic has not seen, [Q * R, C, size, size]; None if it
            has seen all of them.
        valid: bool [K, R], whether the episode was still on at each key offset; None: everywhere.
        query_valid: bool [Q, R], the same for each query offset, Q of them.
        actions: float32 [N, R, A], row n taken n agent steps after the observation; None for an
            objective without later offsets.
        rewards: float32 [N, R, 1], the rewards of these actions; None without later offsets.
        terminated: bool [N, R, 1], whether they terminated the episode; None without later offsets.
    """

    keys: Tensor | None
    queries: Tensor | None = None
    valid: Tensor | None = None
    query_valid: Tensor | None = None
    actions: Tensor | None = None
    rewards: Tensor | None = None
    terminated: Tensor | None = None


class Contrast:
    """An objective with the views that it learns from.

    Args:
        objective: says at which offsets it wants latents; None: no contrastive step is ever due.
        query, key: what draws the views of the query encoder and of the key encoder.
        contrastive_weight: of the loss.
        contrastive_every: updates between contrastive steps.
        shared_key_encoder: keys come from the query encoder itself, without gradient, instead of
            from its moving average.
        first_frame_only: views show the stack's oldest frame, repeated, so that motion is hidden.
        clean_critic: the critic sees the evaluation view, and the objective the augmented ones.
        frozen: whether the trunk is never trained, which leaves an objective nothing to do.

    Raises:
        ValueError: a weight or interval that is not positive; views of different sizes; an
            objective for a frozen trunk.
    """

    def __init__(
        self,
        *,
        objective: Objective | None,
        query: Augmentation,
        key: Augmentation,
        contrastive_weight: float = 1.0,
        contrastive_every: int = 1,
        shared_key_encoder: bool = False,
        first_frame_only: bool = False,
        clean_critic: bool = False,
        frozen: bool = False,
    ) -> None:
        if frozen and objective is not None:
            raise ValueError(
                "an objective cannot train a frozen encoder: choose objective=none or "
                "encoder=finetune"
            )
        if key.size != query.size:
            raise ValueError(f"query and key views differ: {query.size} and {key.size} pixels")
        self._objective, self.query, self.key = objective, query, key
        self.weight = positive("contrastive_weight", contrastive_weight)
        self.every = integer("contrastive_every", contrastive_every)
        self.shared_key_encoder = shared_key_encoder
        self.first_frame_only, self.clean_critic = first_frame_only, clean_critic
        self.shares_view = not (first_frame_only or clean_critic)
        """Whether the query view at offset 0 is the critic's own."""
        self.offsets: tuple[int, ...] = ()
        if objective is not None:
            wanted = {*objective.query_offsets, *objective.key_offsets}
            self.offsets = tuple(sorted(wanted - {0}))

    # -- views -----------------------------------------------------------------------------------

    def critic_views(
        self, obs: FrameStacks, next_obs: FrameStacks, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The critic's views of what was observed before and after, each [B, C, size, size]."""
        if self.clean_critic:
            return self.query.evaluate(obs), self.query.evaluate(next_obs)
        return self.query.pair(obs, next_obs, generator)

    def view(self, obs: FrameStacks, generator: torch.Generator) -> Tensor:
        """The view of what was observed, for an agent that needs no other, [B, C, size, size]."""
        return self.query.evaluate(obs) if self.clean_critic else self.query(obs, generator)

    def views(self, batch: Batch, generator: torch.Generator, update: int) -> ContrastViews | None:
        """What update number `update` learns from; None where no contrastive step is due."""
        if self._objective is None or update % self.every:
            return None
        own = self.objective.query_offsets[1 if self.shares_view else 0 :]
        queries = self.query(self._stacks(batch, own), generator) if own else None
        wanted = self.objective.key_offsets
        keys = self.key(self._stacks(batch, wanted), generator) if wanted else None
        if not self.offsets:
            return ContrastViews(keys, queries)
        taken = [(batch.action, batch.reward, batch.terminated)]
        while len(taken) in self.offsets and len(taken) + 1 in self.offsets:
            later = batch.future[len(taken) + 1]
            taken.append((later.action, later.reward, later.terminated))
        rows = slice(self.objective.rows)
        return ContrastViews(
            keys,
            queries,
            self._valid(batch, wanted)[:, rows],
            self._valid(batch, self.objective.query_offsets)[:, rows],
            *(torch.stack(column)[:, rows] for column in zip(*taken, strict=True)),
        )

    def anchors(self, batch_size: int) -> int:
        """How many rows of the critic's view, the first ones, are queries of a contrastive step."""
        if not self.shares_view:
            return 0
        return min(batch_size, self.objective.rows or batch_size)

    # -- latents and loss ------------------------------------------------------------------------

    def latents(
        self,
        encoder: nn.ModuleList,
        key_encoder: nn.ModuleList,
        features: Tensor,
        views: ContrastViews,
    ) -> Latents:
        """Encode the views.

        Args:
            encoder, key_encoder: trunk and projection; keys carry no gradient.
            features: [B, F], the trunk's, of the critic's view. They are read where the view is
                shared, and of their rows no more than `anchors` counts.
        """
        trunk, projection = encoder
        key_trunk, key_projection = key_encoder
        parts = [features[: self.objective.rows]] if self.shares_view else []
        if views.queries is not None:
            parts.append(trunk(views.queries))
        query = projection(torch.cat(parts) if len(parts) > 1 else parts[0])
        query = query.view(len(self.objective.query_offsets), -1, query.shape[1])  # [Q, R, D]
        key = query.detach()[:0]
        if views.keys is not None:
            with torch.no_grad():
                key = key_projection(key_trunk(views.keys))
            key = key.view(len(self.objective.key_offsets), -1, key.shape[1])  # [K, R, D]
        later = [column for column in views[2:] if column is not None]  # all of them, or none
        return Latents(query, key, *(later or nothing_later(query, key)))

    def loss(self, latents: Latents) -> tuple[Tensor, Metrics]:
        """The weighted loss; metrics with `contrastive_loss`, which is without the weight."""
        loss, metrics = self.objective(latents)
        named = {f"contrastive_{name}": value for name, value in metrics.items()}
        return self.weight * loss, {"contrastive_loss": loss.detach(), **named}

    @property
    def objective(self) -> Objective:
        assert self._objective is not None
        return self._objective

    def _valid(self, batch: Batch, offsets: Sequence[int]) -> Tensor:
        """Whether the episode was still on at each offset: bool [offsets, B]."""
        always = torch.ones(len(batch.action), dtype=torch.bool, device=batch.action.device)
        valid = [batch.future[o].valid if o else always for o in offsets]
        return torch.stack(valid) if valid else always[None][:0]

    def _stacks(self, batch: Batch, offsets: Sequence[int]) -> FrameStacks:
        """The first `Objective.rows` transitions at each offset, one after the other."""
        first = slice(self.objective.rows)
        stacks = join([(batch.future[o].obs if o else batch.obs)[first] for o in offsets])
        return stacks.first_frames() if self.first_frame_only else stacks


def nothing_later(query: Tensor, key: Tensor) -> tuple[Tensor, ...]:
    """The rest of `Latents` for latents [Q, R, D] and [K, R, D] at offset 0: all are valid."""
    valid, query_valid = (
        torch.ones(latent.shape[:2], dtype=torch.bool, device=latent.device)
        for latent in (key, query)
    )
    number = query.new_empty(0, query.shape[1], 1)
    return valid, query_valid, number[..., :0], number, number.bool()
