"""The loop: act, update, step; between episodes evaluate, checkpoint, log.

Budgets and intervals are in env steps (the simulator's control steps); one agent step is
`action_repeat` of them. Each episode is seeded with seed + its number, so an interrupted episode
is taken up by replaying its actions.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from curl.agents.base import Agent
from curl.checkpoint import Checkpoints
from curl.checks import whole
from curl.evaluation import evaluate
from curl.logger import Logger
from curl.replay import ReplayBuffer

log = logging.getLogger("curl")

EVALUATION_SEED = 1_000_000  # evaluation episodes differ from training episodes


class Trainer:
    """Args: the collaborators, built by the caller, and the knobs of `configs/train.yaml`."""

    def __init__(
        self,
        *,
        agent: Agent,
        env: gym.Env[Any, Any],
        make_eval_env: Callable[[], gym.Env[Any, Any]],
        replay: ReplayBuffer,
        logger: Logger,
        checkpoints: Checkpoints,
        generator: torch.Generator,
        config: dict[str, Any],
        seed: int,
        action_repeat: int,
        env_steps: int,
        batch_size: int,
        initial_steps: int,
        eval_every: int,
        eval_episodes: int,
        checkpoint_every: int,
        save_replay: bool,
        log_every: int,
        video: bool,
    ) -> None:
        self.agent, self.env, self.make_eval_env = agent, env, make_eval_env
        self.replay, self.logger, self.checkpoints = replay, logger, checkpoints
        self.generator, self.config = generator, config
        self.seed = whole("seed", seed, at_least=0)
        self.action_repeat = action_repeat
        self.budget = whole("env_steps", env_steps)
        self.batch_size = whole("batch_size", batch_size)
        self.initial_steps = whole("initial_steps", initial_steps)
        self.eval_every = whole("eval_every", eval_every)
        self.eval_episodes = whole("eval_episodes", eval_episodes)
        self.checkpoint_every = whole("checkpoint_every", checkpoint_every)
        self.log_every = whole("log_every", log_every)
        self.save_replay, self.video = save_replay, video
        self.agent_steps = 0
        self.episode = -1  # number of the episode under way
        self.episode_steps = 0  # agent steps into it
        self.episode_return = 0.0
        self.in_episode = False
        self.last_return = float("nan")
        self.next_evaluation = self.next_checkpoint = 0
        self.stopped_by: int | None = None

    @property
    def env_steps(self) -> int:
        return self.agent_steps * self.action_repeat

    def run(self) -> int | None:
        """Train to the budget, or until a signal; returns the signal's number, or None."""
        self.catch_signals()
        self.resume()
        self.logger.progress.start()
        metrics: dict[str, Any] = {}
        mark, marked_steps = time.monotonic(), self.agent_steps
        while self.env_steps < self.budget and self.stopped_by is None:
            if not self.in_episode:
                self.between_episodes()
                if self.stopped_by is not None:
                    break
                self.begin_episode()

            if len(self.replay) < self.initial_steps:
                action = self.random_action()
            else:
                action = self.agent.act(self.replay.latest(), deterministic=False)[0]
                batch = self.replay.sample(self.batch_size, self.generator, self.agent.offsets)
                metrics |= self.agent.update(batch)
            self.step(action)

            if self.agent_steps % max(1, self.log_every // self.action_repeat) == 0:
                now = time.monotonic()
                rate = (self.agent_steps - marked_steps) / max(now - mark, 1e-9)
                mark, marked_steps = now, self.agent_steps
                self.log_training(metrics, rate)
        self.finish()
        return self.stopped_by

    def step(self, action: torch.Tensor) -> None:
        action = action.cpu()
        frame, reward, terminated, truncated, _ = self.env.step(action.numpy())
        self.replay.add(action, float(reward), terminated, frame)
        self.agent_steps += 1
        self.episode_steps += 1
        self.episode_return += float(reward)
        if terminated or truncated:
            self.in_episode = False
            self.last_return = self.episode_return
            values = {"return": self.episode_return, "length": self.episode_steps}
            self.logger.write("episode", self.env_steps, self.agent_steps, values)

    def random_action(self) -> torch.Tensor:
        assert self.env.action_space.shape is not None
        size = self.env.action_space.shape[0]
        device = self.generator.device
        return 2 * torch.rand(size, generator=self.generator, device=device) - 1

    def begin_episode(self) -> None:
        self.episode += 1
        self.episode_steps, self.episode_return, self.in_episode = 0, 0.0, True
        frame, _ = self.env.reset(seed=self.seed + self.episode)
        self.replay.begin(frame)

    # -- chores ----------------------------------------------------------------------------------

    def between_episodes(self) -> None:
        if self.env_steps >= self.next_evaluation:
            self.next_evaluation = (self.env_steps // self.eval_every + 1) * self.eval_every
            self.evaluate()
        if self.env_steps >= self.next_checkpoint:
            self.next_checkpoint = self.env_steps - self.env_steps % self.checkpoint_every
            self.next_checkpoint += self.checkpoint_every
            if self.agent_steps:
                self.checkpoint()

    def evaluate(self) -> None:
        """Deterministic episodes in an environment of their own."""
        video = self.logger.folder / "videos" / f"{self.env_steps:08d}.mp4" if self.video else None
        env = self.make_eval_env()
        try:
            returns = evaluate(
                self.agent,
                env,
                episodes=self.eval_episodes,
                frame_stack=self.replay.frame_stack,
                seed=self.seed + EVALUATION_SEED,
                device=self.generator.device,
                video=video,
                action_repeat=self.action_repeat,
            )
        finally:
            env.close()
        values = {
            "return_mean": float(np.mean(returns)),
            "return_std": float(np.std(returns)),
            "returns": [round(r, 4) for r in returns],
        }
        self.logger.write("evaluation", self.env_steps, self.agent_steps, values)
        self.logger.evaluation(self.env_steps, returns, str(video or ""))

    def log_training(self, metrics: dict[str, Any], rate: float) -> None:
        updates = float(rate if metrics else 0.0)
        values = {name: float(value) for name, value in metrics.items()}
        values |= {"updates_per_second": updates, "env_steps_per_second": rate * self.action_repeat}
        self.logger.write("train", self.env_steps, self.agent_steps, values)
        accuracy = values.get("contrastive_accuracy")
        matched = "" if accuracy is None else f"  retrieval {accuracy:.0%}"
        self.logger.show(
            self.env_steps,
            f"{self.env_steps:,}/{self.budget:,}  {rate * self.action_repeat:.0f} env steps/s  "
            f"{updates:.1f} updates/s  last return {self.last_return:.1f}{matched}",
        )

    def finish(self) -> None:
        """A run that reached its budget is evaluated a last time; every run is checkpointed."""
        if self.stopped_by is None and not self.evaluated_here():
            self.evaluate()
        self.checkpoint()

    def evaluated_here(self) -> bool:
        return self.next_evaluation > self.env_steps and self.env_steps % self.eval_every == 0

    # -- stopping and resuming -------------------------------------------------------------------

    def catch_signals(self) -> None:
        """The first SIGINT or SIGTERM ends the run after the current step, a second one at once."""

        def stop(number: int, _: FrameType | None) -> None:
            if self.stopped_by is not None:
                raise KeyboardInterrupt
            self.stopped_by = number
            self.logger.console.print("stopping after this step; once more to leave at once")

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)

    def checkpoint(self) -> Path | None:
        names = ("agent_steps", "episode", "episode_steps", "episode_return", "in_episode")
        names += ("next_evaluation", "next_checkpoint", "last_return")
        state = {
            "agent": self.agent.state(),
            "config": self.config,
            "counters": {name: getattr(self, name) for name in names},
            "replay": self.replay.counters(),
            "generator": self.generator.get_state(),
            "wall_time": self.logger.wall_time(),
        }
        frames = (self.replay.oldest(), self.replay.written) if self.save_replay else None
        try:
            return self.checkpoints.save(
                self.env_steps, state, frames=frames, export=self.replay.export
            )
        except OSError as error:
            log.warning("no checkpoint at %d env steps: %s; going on", self.env_steps, error)
            return None

    def resume(self) -> None:
        """Go on from the run folder's newest sound checkpoint, if there is one."""
        found = self.checkpoints.load()
        if found is None:
            return
        state, segments = found
        self.agent.load(state["agent"])
        for name, value in state["counters"].items():
            setattr(self, name, value)
        self.generator.set_state(state["generator"])
        self.logger.resume(self.env_steps, state["wall_time"])
        if segments:
            self.replay.restore(segments, state["replay"])
        if self.in_episode and not (segments and self.replay_episode()):
            self.in_episode = False  # the episode is given up; its transitions stay
        self.logger.console.print(f"resumed at {self.env_steps:,} env steps")

    def replay_episode(self) -> bool:
        """Bring the environment back to where it was: the same seed, the same actions."""
        frame, _ = self.env.reset(seed=self.seed + self.episode)
        for back in range(self.episode_steps, 0, -1):
            row = (self.replay.written - back) % self.replay.rows
            frame = self.env.step(self.replay.action[row].cpu().numpy())[0]
        newest = (self.replay.written - 1) % self.replay.rows
        same = np.array_equal(frame, self.replay.frames[newest].cpu().numpy())
        if not same:
            log.warning("the environment does not repeat itself: a new episode is begun")
        return same
