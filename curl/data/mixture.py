"""Batches from two sources of transitions, half from each.

RLPD (Ball, Smith, Kostrikov and Levine 2023, section 4.1) calls it symmetric sampling. An agent
that learns online takes half of each batch from its own experience, half from a recorded dataset.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from curl.data.batch import Batch, join_batches
from curl.data.replay import ReplayBuffer


@dataclass(frozen=True)
class Mixture:
    """Draws from two buffers whose frames and actions have the same sizes.

    Args:
        replay: gives the first half of a batch, and the odd one.
        prior: gives the second half.
    """

    replay: ReplayBuffer
    prior: ReplayBuffer

    def sample(
        self, batch_size: int, generator: torch.Generator, offsets: Sequence[int] = ()
    ) -> Batch:
        """B transitions; see `ReplayBuffer.sample`. A batch of one is the replay buffer's.

        Raises:
            ValueError: a buffer is empty.
        """
        recorded = batch_size // 2
        own = self.replay.sample(batch_size - recorded, generator, offsets)
        if not recorded:
            return own
        return join_batches(own, self.prior.sample(recorded, generator, offsets))
