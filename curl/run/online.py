"""The loop: act, update, step; at intervals evaluate, checkpoint, log.

Budgets and intervals are in env steps (the simulator's control steps). One agent step is
`action_repeat` of them, or fewer where the episode ends. An interval is over at the first agent
step that reaches it, within an episode too, because episodes may be long. Each episode has a seed
of its own, so an interrupted episode is taken up by replaying its actions.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
import traceback
from fractions import Fraction
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from curl.agents.base import Agent
from curl.checks import positive
from curl.data.environment import episode_length
from curl.data.replay import ReplayBuffer
from curl.data.seeding import Stream, episode_seed, random_action
from curl.hardware.processor import Threads, give_back
from curl.run.checkpoint import (
    CheckpointError,
    Checkpoints,
    Sizes,
    env_steps_of,
    progress,
    refuse_foreign_content,
    sizes_of,
)
from curl.run.evaluation import Evaluator
from curl.run.guard import (
    FiniteUpdates,
    RunError,
    Signals,
    StopSignal,
    Watchdog,
    Watched,
    failures_of,
    is_out_of_memory,
    reason,
    remedied,
)
from curl.run.logger import Logger

log = logging.getLogger("curl")

HUNG = 3  # exit code
COUNTERS = ("env_steps", "agent_steps", "episode", "episode_steps", "episode_return")
COUNTERS += ("in_episode", "last_return", "last_evaluation", "next_evaluation", "next_checkpoint")


class Trainer:
    """Args: the collaborators, built by the caller, and settings, which `curl/schema.py` checks."""

    def __init__(
        self,
        *,
        agent: Agent,
        env: gym.Env[Any, Any],
        evaluator: Evaluator,
        replay: ReplayBuffer,
        logger: Logger,
        checkpoints: Checkpoints,
        generator: torch.Generator,
        config: dict[str, Any],
        signals: Signals | None = None,
        threads: Threads,
        seed: int,
        env_steps: int,
        batch_size: int,
        updates_per_step: float,
        initial_steps: int,
        eval_every: int,
        checkpoint_every: int,
        save_replay: bool,
        log_every: int,
        video: bool,
        env_timeout: float,
    ) -> None:
        self.agent, self.evaluator = agent, evaluator
        self.signals = signals or Signals()
        self.watchdog = Watchdog(
            timeout=env_timeout, on_hang=self.leave_hanging_environment, signals=self.signals
        )
        self.env = Watched(env, self.watchdog)
        assert env.action_space.shape is not None
        self.action_dim = env.action_space.shape[0]
        self.sizes = Sizes(self.action_dim, (replay.frame_stack, *replay.frames.shape[1:]))
        self.replay, self.logger, self.checkpoints = replay, logger, checkpoints
        self.generator, self.config, self.threads = generator, config, threads
        self.seed, self.budget = seed, env_steps
        self.batch_size, self.initial_steps = batch_size, initial_steps
        self.updates_per_step = as_fraction(positive("updates_per_step", updates_per_step))
        self.eval_every, self.checkpoint_every = eval_every, checkpoint_every
        self.log_every, self.save_replay, self.video = log_every, save_replay, video
        self.env_steps = self.agent_steps = 0
        self.episode = -1  # number of the episode under way
        self.episode_steps = 0  # agent steps into it
        self.episode_length = 0  # env steps into it
        self.episode_actions: list[torch.Tensor] = []  # since its reset
        self.episode_return = 0.0
        self.in_episode = False
        self.last_return = float("nan")
        self.next_evaluation = self.next_checkpoint = 0
        self.last_evaluation = -1
        self.metrics: dict[str, Any] = {}  # the newest value of each
        self.updates = FiniteUpdates()
        self.evaluating = False

    def counters(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in COUNTERS}

    def run(self) -> int | None:
        """Train to the budget, or until a signal; returns the signal's number, or None.

        Raises:
            RunError: a non-finite number, a failing environment, a lack of memory, or any other
                failure; a diagnostic checkpoint was written if that was possible.
        """
        self.stop = StopSignal(
            self.logger.announce, leave=self.logger.restore_terminal, signals=self.signals
        )
        with contextlib.closing(self.watchdog):
            with refuse_foreign_content(self.checkpoints.folder):
                self.resume()
            self.train()
        return self.stop.number

    def train(self) -> None:
        self.logger.progress.start()
        self.mark, self.marked = time.monotonic(), (self.env_steps, self.agent_steps)
        try:
            while self.env_steps < self.budget and self.stop.number is None:
                self.at_intervals()
                if self.stop.number is not None:
                    break
                if not self.in_episode:
                    self.begin_episode()
                if self.agent_steps < self.initial_steps:
                    action = random_action(self.seed, self.agent_steps, self.action_dim)
                else:
                    action = self.act()
                    self.update()  # a GPU computes it while the environment steps
                before = self.env_steps
                self.step(action)
                if self.env_steps // self.log_every > before // self.log_every:
                    self.log_training()
            self.finish()
        except Exception as failure:
            raise self.failed(failure) from failure

    def act(self) -> torch.Tensor:
        with failures_of("the agent's action", self.remedy):
            return self.agent.act(self.replay.latest(), deterministic=False)[0].cpu()

    def update(self) -> None:
        """The updates of this agent step, once the buffer holds the initial steps."""
        self.updates.require()
        # Transitions ever written: after a resume without the saved buffer, learning waits for as
        # many of them as at the beginning.
        if self.replay.last < min(self.initial_steps, self.replay.capacity):
            return
        for _ in range(updates_due(self.updates_per_step, self.agent_steps - self.initial_steps)):
            with failures_of("the agent's update", self.remedy):
                batch = self.replay.sample(self.batch_size, self.generator, self.agent.offsets)
                metrics = self.agent.update(batch)
                self.updates.note(metrics, self.env_steps)
            self.metrics |= metrics

    def step(self, action: torch.Tensor) -> None:
        frame, reward, terminated, truncated = self.env.step(action.numpy())
        self.replay.add(action, reward, terminated, frame)
        length = episode_length(self.env.env)
        self.env_steps += length - self.episode_length
        self.episode_length = length
        self.episode_actions.append(action)
        self.agent_steps += 1
        self.episode_steps += 1
        self.episode_return += reward
        if terminated or truncated:
            self.in_episode = False
            self.last_return = self.episode_return
            values = {"return": self.episode_return, "length": self.episode_steps}
            self.logger.write("episode", self.env_steps, self.agent_steps, values)

    def begin_episode(self) -> None:
        self.episode += 1
        frame = self.reset()
        self.episode_steps, self.episode_return, self.in_episode = 0, 0.0, True
        self.episode_actions = []
        self.replay.begin(frame)

    def reset(self) -> np.ndarray:
        """The first frame of the episode under way."""
        self.episode_length = 0
        return self.env.reset(seed=episode_seed(self.seed, Stream.TRAINING, self.episode))

    # -- chores ----------------------------------------------------------------------------------

    def at_intervals(self) -> None:
        """Evaluate and checkpoint if it is time, between episodes or within one."""
        if self.env_steps >= self.next_evaluation:
            self.updates.require()
            self.evaluate()
        if self.env_steps >= self.next_checkpoint:
            self.updates.require()
            self.next_checkpoint = self.env_steps - self.env_steps % self.checkpoint_every
            self.next_checkpoint += self.checkpoint_every
            if self.agent_steps:
                self.checkpoint()

    def evaluate(self) -> None:
        """Deterministic episodes in environments of their own, once at an env step.

        A failure or a hang is only reported; what a signal breaks off is made up for on resuming.
        """
        if self.last_evaluation == self.env_steps:
            return
        video = self.logger.video_path(self.env_steps) if self.video else None
        self.evaluating = True
        try:
            returns = self.evaluator(
                self.agent,
                seed=self.seed,
                video=video,
                stop=lambda: self.stop.number is not None,
                watchdog=self.watchdog,
            )
        except InterruptedError:
            return
        except Exception as error:
            cause = reason(error) + remedied(error, "lower eval_processes or replay.capacity")
            log.warning("the evaluation at %d env steps failed: %s", self.env_steps, cause)
            returns = []
        finally:
            self.evaluating = False
        self.evaluated()
        if returns:
            self.logger.evaluation(self.env_steps, self.agent_steps, returns)

    def evaluated(self) -> None:
        self.last_evaluation = self.env_steps
        self.next_evaluation = (self.env_steps // self.eval_every + 1) * self.eval_every

    def log_training(self) -> None:
        self.updates.require()
        now = time.monotonic()
        seconds, (env_steps, agent_steps) = max(now - self.mark, 1e-9), self.marked
        env_rate = (self.env_steps - env_steps) / seconds
        rate = (self.agent_steps - agent_steps) / seconds
        self.mark, self.marked = now, (self.env_steps, self.agent_steps)
        self.metrics = {name: float(value) for name, value in self.metrics.items()}
        updates = rate * float(self.updates_per_step) * bool(self.metrics)
        rates = {"updates_per_second": updates, "env_steps_per_second": env_rate}
        rates["threads"] = self.threads.number
        self.logger.write("train", self.env_steps, self.agent_steps, self.metrics | rates)
        self.logger.show(
            self.env_steps,
            f"{env_rate:.0f} env steps/s, {updates:.1f} updates/s, return {self.last_return:.0f}",
        )
        self.threads.adapt()

    def finish(self) -> None:
        """A run that reached its budget is evaluated a last time; every run is checkpointed."""
        self.updates.require()
        if self.stop.number is None:
            self.evaluate()
            if not self.metrics:
                log.warning("%s", self.without_updates())
        learned = "" if self.metrics else ", no update was made"
        self.logger.show(self.env_steps, f"return {self.last_return:.0f}{learned}")
        self.checkpoint()

    def without_updates(self) -> str:
        """What to change in a run that ended before it learned anything."""
        return (
            f"the run ended without a single update, its agent has learned nothing: env_steps="
            f"{self.budget} are {self.agent_steps} agent steps, and learning begins after "
            f"initial_steps={self.initial_steps} agent steps, with updates_per_step="
            f"{float(self.updates_per_step):g}; raise env_steps or lower initial_steps"
        )

    # -- stopping and resuming -------------------------------------------------------------------

    def checkpoint(self, kind: str = "state") -> Path | None:
        """Write a checkpoint; a disk or memory that refuses is reported, and training goes on."""
        try:
            state = {
                "agent": self.agent.state(),
                "config": self.config,
                "sizes": self.sizes.state(),
                "counters": self.counters(),
                "metrics": {name: float(value) for name, value in self.metrics.items()},
                "replay": self.replay.counters(),
                "episode_actions": self.actions_so_far(),
                "generator": self.generator.get_state(),
                "wall_time": self.logger.wall_time(),
            }
            frames = (self.replay.oldest(), self.replay.written) if self.save_replay else None
            return self.checkpoints.save(
                self.env_steps, state, frames=frames, export=self.replay.export, kind=kind
            )
        except Exception as error:
            if kind == "state" and not isinstance(error, OSError) and not is_out_of_memory(error):
                raise
            text = str(error) if isinstance(error, OSError) else reason(error)
            after = "going on" if kind == "state" else f"this was to be a {kind} one"
            log.warning("no checkpoint at %d env steps: %s; %s", self.env_steps, text, after)
            return None

    def actions_so_far(self) -> torch.Tensor | None:
        """Actions of the episode under way, float32 [episode_steps, A]; None if there are none."""
        return torch.stack(self.episode_actions) if self.in_episode and self.episode_steps else None

    @property
    def remedy(self) -> str:
        """Which settings to lower where the memory does not suffice."""
        return f"lower batch_size={self.batch_size} or replay.capacity={self.replay.capacity}"

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
        path = self.checkpoint(kind="diagnostic")
        at = f"stopped at env step {self.env_steps}"
        return RunError(f"{text}; {at}; diagnostic checkpoint: {path or 'none could be written'}")

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
        if self.evaluating:
            self.evaluated()
            cause += f" in the evaluation at {self.env_steps} env steps"
            log.error("error: %s; checkpoint: %s; resuming skips it", cause, self.checkpoint())
        else:
            log.error("error: %s", self.failed(RunError(cause)))

    def resume(self) -> None:
        """Go on from the newest sound checkpoint, if there is one. `ValueError` if it misfits."""
        found = self.checkpoints.load()
        if found is None:
            self.logger.resume(-1, 0.0)  # rows of a run that was killed before its first one
            return
        state, frames = found
        if (saved := sizes_of(state)) not in (None, self.sizes):
            raise CheckpointError(f"the checkpoint is of {saved}, the run is of {self.sizes}")
        self.agent.load(state["agent"])
        state["counters"]["env_steps"] = env_steps_of(state)
        counters, self.metrics, wall_time = progress(state, self.counters())
        vars(self).update(counters)
        try:
            self.generator.set_state(state["generator"])
        except (KeyError, RuntimeError, TypeError):
            log.warning("the checkpoint was made on another device: random numbers begin anew")
        has_replay, actions = bool(state["segments"]), state.get("episode_actions")
        if has_replay:
            self.replay.restore(frames, state.get("replay"))
        del state, frames
        give_back()
        self.logger.resume(self.env_steps, wall_time, self.last_evaluation)
        if self.in_episode and not (has_replay and self.replay_episode(actions)):
            self.in_episode = False  # the episode is given up; its transitions stay
        self.logger.announce(f"resumed at {self.env_steps:,} env steps")

    def replay_episode(self, actions: Any) -> bool:
        """Bring the environment back to where it was: the same seed, the same actions.

        Args:
            actions: float32 [episode_steps, A], of the episode so far. Checkpoints of older
                versions have none.
        """
        shape = (self.episode_steps, self.action_dim)
        if not isinstance(actions, torch.Tensor) or actions.shape != shape:
            log.warning("the checkpoint lacks the actions of its episode: a new one is begun")
            return False
        frame = self.reset()
        for action in actions:
            frame = self.env.step(action.numpy())[0]
        self.episode_length = episode_length(self.env.env)
        self.episode_actions = list(actions)
        same = np.array_equal(frame, self.replay.newest_frame())
        if not same:
            log.warning("the environment does not repeat itself: a new episode is begun")
        return same


def as_fraction(value: float) -> Fraction:
    """The number as it is written: 0.1 is 1/10, and not the nearest binary number."""
    return Fraction(repr(value))


def updates_due(per_step: Fraction, step: int) -> int:
    """How many updates belong to learning step number `step`, counted from 0.

    The first n steps have floor(per_step * n) updates together. The number depends on nothing but
    the step, so a resumed run needs no counter of its own to go on rightly.
    """
    return math.floor(per_step * (step + 1)) - math.floor(per_step * step)
