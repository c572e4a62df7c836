"""What every training loop does between its steps: evaluate, checkpoint, log, stop, resume, fail.

A subclass says what one step is (`advance`), which of the clock's counts is the axis of its run,
and what it adds to a checkpoint. curl/run/online.py acts in an environment and counts env steps.
curl/run/offline.py learns from a dataset alone and counts updates.

The budget and the intervals are positions on the axis. An interval is over at the first step that
reaches it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch

from curl.agents.base import Agent
from curl.data.batch import Batch
from curl.errors import HUNG
from curl.hardware.processor import Threads, give_back
from curl.run.checkpoint import (
    CheckpointError,
    Checkpoints,
    Sizes,
    clock_of,
    refuse_foreign_content,
    restored_progress,
    sizes_of,
)
from curl.run.clock import ENV_STEPS, UPDATES, Clock, words
from curl.run.evaluation import Evaluator, Shift
from curl.run.folder import DIAGNOSTIC, STATE
from curl.run.guard import (
    FiniteUpdates,
    RunError,
    Signals,
    StopSignal,
    Watchdog,
    failures_of,
    is_out_of_memory,
    reason,
    remedied,
)
from curl.run.logger import Logger

log = logging.getLogger("curl")


class Source(Protocol):
    """What transitions are drawn from, such as a replay buffer."""

    def sample(
        self, batch_size: int, generator: torch.Generator, offsets: Sequence[int] = ()
    ) -> Batch:
        """A batch, as `ReplayBuffer.sample` draws it."""
        ...


class Trainer(ABC):
    """A training loop.

    Args:
        agent: what learns.
        evaluator: what measures it, in environments of its own.
        logger: where metrics go.
        checkpoints: of the run's folder.
        generator: source of all randomness but that of environments; its state is saved.
        config: the settings of the run, which are saved.
        sizes: what the agent acts on, which is saved.
        threads: follows the load of the machine.
        signals: handles the signals that ask to stop; None: `Signals()`.
        seed: of the run; evaluations derive theirs from it.
        budget: position on the axis at which the run ends.
        eval_every: interval of evaluations.
        checkpoint_every: interval of checkpoints.
        log_every: interval of training rows.
        video: whether evaluations leave an MP4.
        looks: name -> settings of other looks that evaluations play as well, in the same episodes.
        env_timeout: seconds that an environment may take to answer.
        dataset: name of each file of the dataset that the agent learns from -> its SHA-256; empty
            without one. A checkpoint holds them, so that no run goes on with other data.
    """

    axis: ClassVar[str]
    """The count of the clock in which the budget and the intervals are given."""

    extra_counters: ClassVar[tuple[str, ...]] = ()
    """Names of the loop's own attributes that belong to the counters of a checkpoint."""

    def __init__(
        self,
        *,
        agent: Agent,
        evaluator: Evaluator,
        logger: Logger,
        checkpoints: Checkpoints,
        generator: torch.Generator,
        config: dict[str, Any],
        sizes: Sizes,
        threads: Threads,
        signals: Signals | None,
        seed: int,
        budget: int,
        eval_every: int,
        checkpoint_every: int,
        log_every: int,
        video: bool,
        env_timeout: float,
        looks: Mapping[str, Shift] | None = None,
        dataset: Mapping[str, str] | None = None,
    ) -> None:
        self.dataset = dict(dataset or {})
        self.agent, self.evaluator = agent, evaluator
        self.logger, self.checkpoints = logger, checkpoints
        self.generator, self.config, self.sizes = generator, config, sizes
        self.threads, self.signals = threads, signals or Signals()
        self.seed, self.budget = seed, budget
        self.eval_every, self.checkpoint_every = eval_every, checkpoint_every
        self.log_every, self.video = log_every, video
        self.looks = dict(looks or {})
        self.watchdog = Watchdog(
            timeout=env_timeout, on_hang=self.leave_hanging_environment, signals=self.signals
        )
        self.clock = Clock(self.axis)
        self.last_evaluation = -1
        self.next_evaluation = self.next_checkpoint = 0
        self.metrics: dict[str, Any] = {}  # the newest value of each
        self.finite = FiniteUpdates()
        self.evaluating = False

    # -- what a loop is --------------------------------------------------------------------------

    @abstractmethod
    def advance(self) -> None:
        """Make one step with the updates that belong to it, and move the clock."""

    @property
    @abstractmethod
    def remedy(self) -> str:
        """Which settings to lower where the memory does not suffice."""

    @abstractmethod
    def status(self) -> str:
        """What the progress display says of the training, such as the last return."""

    @abstractmethod
    def without_updates(self) -> str:
        """What to change in a run that ended before it learned anything."""

    @abstractmethod
    def own_state(self) -> dict[str, Any]:
        """What this loop adds to a checkpoint."""

    @abstractmethod
    def frames(self) -> tuple[tuple[int, int], Callable[[int, int], Any]] | None:
        """The range of frames that a checkpoint holds, and what exports them; None: no frames."""

    @abstractmethod
    def restore(self, state: dict[str, Any], frames: Iterator[Any]) -> None:
        """Take back `own_state` and the frames of a checkpoint, whose counters are restored."""

    @abstractmethod
    def resumed(self) -> None:
        """Called when everything else has been resumed, to take up what was going on."""

    # -- the loop --------------------------------------------------------------------------------

    def run(self) -> int | None:
        """Train to the budget, or until a signal; returns the signal's number, or None.

        Raises:
            RunError: a non-finite number, a failing environment, a lack of memory, or any other
                failure; a diagnostic checkpoint was written if that was possible.
            CheckpointError: the folder's checkpoints cannot be resumed.
        """
        self.stop = StopSignal(
            self.logger.announce, leave=self.logger.restore_terminal, signals=self.signals
        )
        with contextlib.closing(self.watchdog):
            with refuse_foreign_content(self.checkpoints.folder):
                self.resume()
            self.logger.progress.start()
            self.mark, self.marked = time.monotonic(), self.clock.counts()
            try:
                while self.clock.now < self.budget and self.stop.number is None:
                    self.at_intervals()
                    if self.stop.number is not None:
                        break
                    before = self.clock.now
                    self.advance()
                    if self.clock.now // self.log_every > before // self.log_every:
                        self.log_training()
                self.finish()
            except Exception as failure:
                raise self.failed(failure) from failure
        return self.stop.number

    def learn(self, source: Source, batch_size: int) -> None:
        """One update of the agent, on transitions of `source`."""
        with failures_of("the agent's update", self.remedy):
            batch = source.sample(batch_size, self.generator, self.agent.offsets)
            metrics = self.agent.update(batch)
            self.finite.note(metrics, self.clock.now, self.axis)
        self.clock.updates += 1
        self.metrics |= metrics

    def at_intervals(self) -> None:
        """Evaluate and checkpoint if it is time."""
        if self.clock.now >= self.next_evaluation:
            self.finite.require()
            self.evaluate()
        if self.clock.now >= self.next_checkpoint:
            self.finite.require()
            self.next_checkpoint = self.clock.now - self.clock.now % self.checkpoint_every
            self.next_checkpoint += self.checkpoint_every
            if self.clock.now:
                self.checkpoint()

    def evaluate(self) -> None:
        """Deterministic episodes in environments of their own, once at a position.

        A failure or a hang is only reported. An evaluation that a signal interrupts is made when
        the run is resumed.
        """
        if self.last_evaluation == self.clock.now:
            return
        video = self.logger.video_path(self.clock.now) if self.video else None
        self.evaluating = True
        try:
            returns = self.returns("", video=video)
            others = {
                name: self.returns(f" on {name}", shift=shift) for name, shift in self.looks.items()
            }
        except InterruptedError:
            return
        finally:
            self.evaluating = False
        self.evaluated()
        if returns:
            self.logger.evaluation(self.clock, returns, others)

    def returns(self, where: str, **how: Any) -> list[float]:
        """The returns of one evaluation; none if it failed, which is only reported.

        Args:
            where: words for the report of a failure.
            how: more arguments of the evaluator.

        Raises:
            InterruptedError: a signal interrupts it.
        """
        try:
            return self.evaluator(
                self.agent,
                seed=self.seed,
                stop=lambda: self.stop.number is not None,
                watchdog=self.watchdog,
                **how,
            )
        except InterruptedError:
            raise
        except Exception as error:
            cause = reason(error) + remedied(error, "lower eval_processes or replay.capacity")
            log.warning("the evaluation%s at %s failed: %s", where, self.amount(), cause)
            return []

    def evaluated(self) -> None:
        """Note that the evaluation at this position is made, or given up."""
        self.last_evaluation = self.clock.now
        self.next_evaluation = (self.clock.now // self.eval_every + 1) * self.eval_every

    def log_training(self) -> None:
        """Append a training row: the newest value of each metric, and how fast the run is."""
        self.finite.require()
        now, counts = time.monotonic(), self.clock.counts()
        seconds = max(now - self.mark, 1e-9)
        rate = {name: (counts[name] - self.marked[name]) / seconds for name in counts}
        self.mark, self.marked = now, counts
        self.metrics = {name: float(value) for name, value in self.metrics.items()}
        rates = {
            "updates_per_second": rate[UPDATES],
            "env_steps_per_second": rate[ENV_STEPS],
            "threads": self.threads.number,
        }
        self.write("train", self.metrics | rates)
        speeds = [f"{rate[self.axis]:.0f} {words(self.axis)}/s"] * (self.axis != UPDATES)
        speeds += [f"{rate[UPDATES]:.1f} updates/s", self.status()]
        self.logger.show(self.clock.now, ", ".join(filter(None, speeds)))
        self.threads.adapt()

    def write(self, kind: str, values: dict[str, Any]) -> None:
        """Append a row of metrics at the clock's time."""
        self.logger.write(kind, self.clock, values)

    def finish(self) -> None:
        """Evaluate a run that reached its budget a last time, and checkpoint every run."""
        self.finite.require()
        if self.stop.number is None:
            self.evaluate()
            if not self.clock.updates:
                log.warning("%s", self.without_updates())
        learned = "" if self.clock.updates else ", no update was made"
        self.logger.show(self.clock.now, f"{self.status()}{learned}")
        self.checkpoint()

    def amount(self) -> str:
        """How far the run is, in words: `400 env steps`."""
        return f"{self.clock.now} {words(self.axis)}"

    # -- stopping and resuming -------------------------------------------------------------------

    def counters(self) -> dict[str, Any]:
        """The numbers of a checkpoint that say how far the run is."""
        ours = ("last_evaluation", "next_evaluation", "next_checkpoint", *self.extra_counters)
        return self.clock.counts() | {name: getattr(self, name) for name in ours}

    def checkpoint(self, kind: str = STATE) -> Path | None:
        """Write a checkpoint; a disk or memory that refuses is reported, and training goes on."""
        try:
            state = {
                "agent": self.agent.state(),
                "config": self.config,
                "sizes": self.sizes.state(),
                "axis": self.axis,
                "dataset": self.dataset,
                "counters": self.counters(),
                "metrics": {name: float(value) for name, value in self.metrics.items()},
                **self.own_state(),
                "generator": self.generator.get_state(),
                "wall_time": self.logger.wall_time(),
            }
            frames, export = self.frames() or (None, None)
            return self.checkpoints.save(
                self.clock.now, state, frames=frames, export=export, kind=kind
            )
        except Exception as error:
            if kind == STATE and not isinstance(error, OSError) and not is_out_of_memory(error):
                raise
            text = str(error) if isinstance(error, OSError) else reason(error)
            after = "going on" if kind == STATE else f"this was to be a {kind} one"
            log.warning("no checkpoint at %s: %s; %s", self.amount(), text, after)
            return None

    def resume(self) -> None:
        """Go on from the newest sound checkpoint, if there is one. `ValueError` if it misfits."""
        found = self.checkpoints.load()
        if found is None:
            self.logger.resume(-1, 0.0)  # rows of a run that was killed before its first one
            return
        state, frames = found
        clock = clock_of(state)
        if clock.axis != self.axis:
            ours, theirs = words(self.axis), words(clock.axis)
            raise CheckpointError(f"the checkpoint counts {theirs}, this run counts {ours}")
        if (saved := sizes_of(state)) not in (None, self.sizes):
            raise CheckpointError(f"the checkpoint is of {saved}, the run is of {self.sizes}")
        if state.get("dataset", {}) != self.dataset:  # older versions had none
            raise CheckpointError("the dataset is not the one that the run has learned from so far")
        self.agent.load(state["agent"])
        state["counters"] |= clock.counts()
        counters, self.metrics, wall_time = restored_progress(state, self.counters())
        self.clock = clock
        vars(self).update({name: counters[name] for name in counters.keys() - clock.counts()})
        try:
            self.generator.set_state(state["generator"])
        except (KeyError, RuntimeError, TypeError):
            log.warning("the checkpoint comes from another device: random numbers differ")
        self.restore(state, frames)
        del state, frames
        give_back()
        self.logger.resume(self.clock.now, wall_time, self.last_evaluation)
        self.resumed()
        self.logger.announce(f"resumed at {self.clock.now:,} {words(self.axis)}")

    # -- failing ---------------------------------------------------------------------------------

    def failed(self, failure: Exception) -> RunError:
        """Keep what there is for a diagnosis, aside from the checkpoints that a resume reads."""
        if isinstance(failure, RunError):
            text = str(failure)
        else:
            text = reason(failure) + remedied(failure, self.remedy)
        for error in (failure, failure.__cause__):
            if error is not None and is_out_of_memory(error):
                traceback.clear_frames(error.__traceback__)  # they hold the batch and its gradients
                torch.cuda.empty_cache()
        path = self.checkpoint(kind=DIAGNOSTIC)
        written = path or "none could be written"
        return RunError(f"{text}; stopped at {self.clock}; diagnostic checkpoint: {written}")

    def leave_hanging_environment(self, cause: str) -> None:
        """Called beside the hanging call: nothing can interrupt it, so the process ends.

        In an evaluation the training is sound, and the same command goes on after it. The process
        of a host program does not belong to the run: it is told, and goes on hanging.
        """
        try:
            self.report_hanging_environment(cause)
        finally:
            self.logger.restore_terminal()
            if self.signals.owned:
                os._exit(HUNG)

    def report_hanging_environment(self, cause: str) -> None:
        """Say what hangs, and keep what there is."""
        if self.evaluating:
            self.evaluated()
            cause += f" in the evaluation at {self.amount()}"
            log.error("error: %s; checkpoint: %s; resuming skips it", cause, self.checkpoint())
        else:
            log.error("error: %s", self.failed(RunError(cause)))
