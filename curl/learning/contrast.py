"""The views and latents that an objective asks for: CURL's contrastive half, apart from SAC.

By default the anchor is the crop that the critic saw, as in the reference, so that one pass of the
trunk serves both. The paper's ablations are flags: `first_frame_only` and `clean_critic`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from curl.augmentations.base import Augmentation
from curl.checks import positive, whole
from curl.data.batch import Batch, FrameStacks, Metrics, join
from curl.objectives.base import Latents, Objective


class Contrast:
    """An objective with what it needs of views.

    Args:
        objective: says at which offsets it wants latents; None: nothing is ever due.
        query, key: what draws the views of the query encoder and of the key encoder.
        weight: of the loss.
        every: updates between contrastive steps.
        first_frame_only: views show the stack's oldest frame, repeated, so that motion is hidden.
        shares_view: the query view at offset 0 is the critic's.

    Raises:
        ValueError: a weight or interval that is not positive; views of different sizes.
    """

    def __init__(
        self,
        *,
        objective: Objective | None,
        query: Augmentation,
        key: Augmentation,
        weight: float,
        every: int,
        first_frame_only: bool,
        shares_view: bool,
    ) -> None:
        if key.size != query.size:
            raise ValueError(f"query and key views differ: {query.size} and {key.size} pixels")
        self._objective, self.query, self.key = objective, query, key
        self.weight = positive("contrastive_weight", weight)
        self.every = whole("contrastive_every", every)
        self.first_frame_only, self.shares_view = first_frame_only, shares_view
        self.offsets: tuple[int, ...] = ()
        if objective is not None:
            wanted = {*objective.query_offsets, *objective.key_offsets}
            self.offsets = tuple(sorted(wanted - {0}))

    def views(
        self, batch: Batch, generator: torch.Generator, update: int
    ) -> tuple[Tensor | None, ...]:
        """What update number `update` needs; nothing where no contrastive step is due.

        Returns:
            key views [K * R, C, size, size]; the query views that are not the critic's own, or
            None; which keys are valid, bool [K, R], or None for all; actions [N, R, A], or None.
            R rows, K key offsets.
        """
        if self._objective is None or update % self.every:
            return ()
        own = self.objective.query_offsets[1 if self.shares_view else 0 :]
        queries = self.query(self._stacks(batch, own), generator) if own else None
        wanted = self.objective.key_offsets
        keys = self.key(self._stacks(batch, wanted), generator)
        if not self.offsets:
            return keys, queries, None, None
        always = torch.ones(len(batch.action), dtype=torch.bool, device=batch.action.device)
        valid = torch.stack([batch.future[o].valid if o else always for o in wanted])
        actions = [batch.action]
        while len(actions) in batch.future and len(actions) + 1 in batch.future:
            actions.append(batch.future[len(actions) + 1].action)
        rows = self.objective.rows
        return keys, queries, valid[:, :rows], torch.stack(actions)[:, :rows]

    def anchors(self, batch_size: int) -> int:
        """How many rows of the critic's view, the first ones, are queries of a contrastive step."""
        if not self.shares_view:
            return 0
        return min(batch_size, self.objective.rows or batch_size)

    def latents(
        self,
        encoder: nn.ModuleList,
        key_encoder: nn.ModuleList,
        features: Tensor,
        keys: Tensor,
        queries: Tensor | None = None,
        valid: Tensor | None = None,
        action: Tensor | None = None,
    ) -> Latents:
        """Encode those views.

        Args:
            encoder, key_encoder: trunk and projection; keys carry no gradient.
            features: [B, F], the trunk's, of the critic's view; read where the view is shared, and
                of its rows no more than `anchors` counts.
        """
        parts = [features[: self.objective.rows]] if self.shares_view else []
        if queries is not None:
            parts.append(encoder[0](queries))
        query = encoder[1](torch.cat(parts) if len(parts) > 1 else parts[0])
        with torch.no_grad():
            key = key_encoder[1](key_encoder[0](keys))
        query = query.view(len(self.objective.query_offsets), -1, query.shape[1])  # [Q, R, D]
        key = key.view(len(self.objective.key_offsets), -1, key.shape[1])  # [K, R, D]
        if valid is None:
            valid = torch.ones(key.shape[:2], dtype=torch.bool, device=key.device)
        if action is None:
            action = torch.empty(0, key.shape[1], 0, device=key.device)
        return Latents(query, key, valid, action)

    def loss(self, latents: Latents) -> tuple[Tensor, Metrics]:
        """The weighted loss; metrics with `contrastive_loss`, which is without the weight."""
        loss, metrics = self.objective(latents)
        named = {f"contrastive_{name}": value for name, value in metrics.items()}
        return self.weight * loss, {"contrastive_loss": loss.detach(), **named}

    @property
    def objective(self) -> Objective:
        assert self._objective is not None
        return self._objective

    def _stacks(self, batch: Batch, offsets: Sequence[int]) -> FrameStacks:
        """The objective's rows at each offset, one after the other."""
        rows = slice(self.objective.rows)
        stacks = join([(batch.future[o].obs if o else batch.obs)[rows] for o in offsets])
        return stacks.first_frames() if self.first_frame_only else stacks
