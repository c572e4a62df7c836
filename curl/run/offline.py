"""The offline loop: update on recorded transitions, and act only in evaluations.

Its axis is updates. It is the sibling of `curl/run/online.py`: the agent gets the same batches from
the same kind of buffer, and cannot tell which loop it learns in.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from curl.data.replay import ReplayBuffer
from curl.run.checkpoint import Sizes
from curl.run.clock import UPDATES
from curl.run.guard import Signals, reason
from curl.run.loop import Trainer
from curl.run.probes import Probes

log = logging.getLogger("curl")


class OfflineTrainer(Trainer):
    """Trains an agent on a dataset.

    Args:
        replay: holds the transitions of the dataset; it is only read.
        updates: budget.
        batch_size: transitions per update.
        probes: measures at each evaluation what can be read from the encoder; None: nothing does.
        others: see `Trainer`.
    """

    axis = UPDATES

    def __init__(
        self,
        *,
        replay: ReplayBuffer,
        updates: int,
        batch_size: int,
        probes: Probes | None = None,
        signals: Signals | None = None,
        **others: Any,
    ) -> None:
        sizes = Sizes(replay.action.shape[1], (replay.frame_stack, *replay.frames.shape[1:]))
        super().__init__(budget=updates, sizes=sizes, signals=signals, **others)
        self.replay, self.batch_size, self.probes = replay, batch_size, probes

    def advance(self) -> None:
        """One update."""
        self.finite.require(ahead=1)
        self.learn(self.replay, self.batch_size)

    def evaluate(self) -> None:
        """Probe the encoder, too."""
        before = self.last_evaluation
        super().evaluate()
        if self.probes is None or self.last_evaluation == before:
            return
        self.evaluating = True
        try:
            found = self.probes(self.agent, self.watchdog)
        except Exception as error:
            log.warning("the probes at %s failed: %s", self.amount(), reason(error))
            return
        finally:
            self.evaluating = False
        if found:
            self.write("probe", found)
            told = [f"{name.removesuffix('_r2')} {r2:.2f}" for name, r2 in found.items()]
            self.logger.announce(f"           R² of probes: {', '.join(told).replace('_', ' ')}")

    @property
    def remedy(self) -> str:
        return f"lower batch_size={self.batch_size} or dataset_episodes"

    def status(self) -> str:
        return ""

    def without_updates(self) -> str:
        return f"the run ended without a single update: updates={self.budget}"

    def own_state(self) -> dict[str, Any]:
        return {}

    def frames(self) -> None:
        return None

    def restore(self, state: dict[str, Any], frames: Iterator[Any]) -> None:
        """There is nothing but what every loop restores."""

    def resumed(self) -> None:
        """Nothing was going on between two updates."""
