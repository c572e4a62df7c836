"""Roll out a policy, deterministically, and record what it does."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import multiprocessing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.wrappers import FrameStackObservation

from curl.agents.base import Agent
from curl.checks import integer
from curl.data.batch import FrameStacks, stack_of
from curl.data.environment import display_frame, frames_per_second, make_env, require_sense
from curl.data.seeding import Stream, episode_seed
from curl.run.guard import Watchdog
from curl.run.video import Film
from curl.run.workers import Workers

log = logging.getLogger("curl")

Shift = Mapping[str, Mapping[str, Any]]
"""The settings of a look: name of a file of curl/shifts -> its settings."""


class Evaluator:
    """Deterministic episodes in environments of their own, one after another or side by side.

    Args:
        settings: arguments of `make_env`.
        episodes: how many; an episode's seed is derived from the given one and its number, so
            that it is the same episode in either case.
        frame_stack: S.
        device: where the agent is.
        processes: 1 steps one environment here; more steps that many beside each other, in
            processes that are started once, and acts on all of them in one batch.
    """

    def __init__(
        self,
        *,
        settings: Mapping[str, Any],
        episodes: int,
        frame_stack: int,
        device: torch.device,
        processes: int = 1,
    ) -> None:
        self.settings, self.device = dict(settings), device
        self.episodes = integer("eval_episodes", episodes)
        self.frame_stack = integer("frame_stack", frame_stack)
        self.processes = min(integer("eval_processes", processes), episodes)
        self._vector: Workers | None = None
        self._shown = self._own = self.settings.get("shift") or {}

    def __call__(
        self,
        agent: Agent,
        *,
        seed: int,
        video: Path | None = None,
        seen: list[np.ndarray] | None = None,
        shift: Shift | None = None,
        stop: Callable[[], bool] = lambda: False,
        watchdog: Watchdog | None = None,
    ) -> list[float]:
        """Undiscounted returns, one float per episode.

        Args:
            seed: of the episodes.
            video: an MP4 of the first episode; one that cannot be written is only warned of.
            seen: gets what the agent sees in the first episode, uint8 [H, W, 3] for each step.
            shift: another look than that of `settings`, in the same episodes; see `make_env`.
            stop: says whether to stop, and is asked before every step.
            watchdog: is told when an environment does not answer; None: nobody is.

        Raises:
            InterruptedError: `stop` said so.
            TimeoutError: an environment took longer to answer than `watchdog` allows.
            WorkerError: one of the processes was killed; the next evaluation starts them anew.
            ValueError: an environment returned a reward that is not finite, or a shift makes no
                sense there.
        """
        self._stop, self._watchdog = stop, watchdog
        self._shift, self._seen = self._own if shift is None else shift, seen
        seeds = [episode_seed(seed, Stream.EVALUATION, i) for i in range(self.episodes)]
        if self.processes > 1:
            if video is not None:
                self._one_by_one(agent, seeds[:1], video)
                self._seen = None  # it has been seen
            groups = [seeds[i : i + self.processes] for i in range(0, len(seeds), self.processes)]
            try:
                return [value for group in groups for value in self._side_by_side(agent, group)]
            except InterruptedError:
                self.close()
                raise
            except multiprocessing.TimeoutError:  # no TimeoutError, for all its name
                self.close(terminate=True)
                raise TimeoutError(watchdog.cause if watchdog else "") from None
            except BaseException:
                self.close(terminate=True)  # whatever they are in, the next evaluation begins anew
                raise
        return self._one_by_one(agent, seeds, video)

    def close(self, *, terminate: bool = False) -> None:
        """End the processes, `terminate`: at once. It never raises, whatever they are in."""
        if self._vector is not None:
            self._vector.close(terminate=terminate)
            self._vector = None

    def _watched(self) -> contextlib.AbstractContextManager[None]:
        if self._watchdog is None:
            return contextlib.nullcontext()
        return self._watchdog.watching(interruptible=True)

    def _go_on(self) -> None:
        if self._stop():
            raise InterruptedError("the evaluation was interrupted")

    def _one_by_one(self, agent: Agent, seeds: Iterable[int], video: Path | None) -> list[float]:
        with self._watched():
            env = make_stacked_env(self.settings | {"shift": self._shift}, self.frame_stack)
        returns: list[float] = []
        try:
            for seed in seeds:
                film = contextlib.nullcontext()
                if video is not None and not returns:
                    film = Film(video, frames_per_second(env, self.settings["action_repeat"]))
                with film as filmed:
                    returns.append(require_finite_return(self._episode(agent, env, seed, filmed)))
        finally:
            with self._watched():
                env.close()
        return returns

    def _episode(self, agent: Agent, env: Any, seed: int, film: Film | None) -> float:
        """The return of one episode, which `film` shows."""
        with self._watched():
            frames, _ = env.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            self._go_on()
            self._see(frames)
            if film is not None:
                with self._watched():
                    film.add(display_frame(env))
            obs = stack_of(torch.as_tensor(np.asarray(frames)).to(self.device))
            action = agent.act(obs, deterministic=True)[0].cpu().numpy()
            with self._watched():
                frames, reward, terminated, truncated, _ = env.step(action)
            total, over = total + float(reward), terminated or truncated
        self._seen = None
        return total

    def _see(self, stack: np.ndarray) -> None:
        """Keep the newest frame of a stack [S, H, W, 3] of the first episode."""
        if self._seen is not None:
            self._seen.append(np.array(stack[-1]))

    def _workers(self) -> Workers:
        """The processes, started if they are not there yet or one of them has been killed since."""
        if self._vector is not None and not self._vector.alive():
            log.warning("an evaluation process has died since the last evaluation: starting anew")
            self.close(terminate=True)
        if self._vector is None:
            make = functools.partial(Changing, make_stacked_env, self.settings, self.frame_stack)
            self._vector, self._shown = Workers([make] * self.processes), self._own
        return self._vector

    def _show(self, vector: Workers, limit: float | None) -> None:
        """Let the processes show the look that is wanted."""
        if self._shown != self._shift:
            vector.call_async("show", self._shift)
            vector.call_wait(timeout=limit)
            self._shown = self._shift

    def _side_by_side(self, agent: Agent, seeds: Sequence[int]) -> list[float]:
        vector = self._workers()
        with vector.naming_the_dead():
            return self._roll_out(agent, seeds, vector)

    def _roll_out(self, agent: Agent, seeds: Sequence[int], vector: Workers) -> list[float]:
        count = self.processes
        limit = None if self._watchdog is None else self._watchdog.timeout
        self._show(vector, limit)
        vector.reset_async(seed=[seeds[i % len(seeds)] for i in range(count)])
        frames, _ = vector.reset_wait(timeout=limit)
        totals, over = np.zeros(count), np.zeros(count, dtype=bool)
        while not over.all():
            self._go_on()
            if not over[0]:
                self._see(frames[0])
            pixels = torch.as_tensor(frames).to(self.device).flatten(0, 1)  # [count * S, H, W, 3]
            rows = torch.arange(len(pixels), device=self.device).view(count, self.frame_stack)
            actions = agent.act(FrameStacks(pixels, rows), deterministic=True)
            vector.step_async(actions.cpu().numpy())
            frames, rewards, terminated, truncated, _ = vector.step_wait(timeout=limit)
            totals += np.where(over, 0.0, rewards)
            over |= terminated | truncated
        self._seen = None
        return [require_finite_return(float(total)) for total in totals[: len(seeds)]]


def senseless(settings: Mapping[str, Any], looks: Mapping[str, Shift]) -> dict[str, str]:
    """Name -> reason, of the looks that make no sense in the environment of these settings.

    Args:
        settings: arguments of `make_env`.
    """
    reasons: dict[str, str] = {}
    with contextlib.closing(make_env(**settings)) as env:
        for name, shift in looks.items():
            try:
                require_sense(env, shift)
            except ValueError as error:
                reasons[name] = str(error)
    return reasons


def require_finite_return(total: float) -> float:
    """A return; `ValueError` if it is not finite."""
    if not math.isfinite(total):
        raise ValueError(f"an episode's return became {total}")
    return total


class Changing(gym.Wrapper[Any, Any, Any, Any]):
    """An environment that is made anew when it is to have another look.

    A look may leave textures in the OpenGL context, which an environment keeps to its end.

    Args:
        make: `make_stacked_env`, whose arguments follow.
    """

    def __init__(
        self,
        make: Callable[[Mapping[str, Any], int], gym.Env[Any, Any]],
        settings: Mapping[str, Any],
        frame_stack: int,
    ) -> None:
        super().__init__(make(settings, frame_stack))
        self._make, self._settings, self._frame_stack = make, dict(settings), frame_stack

    def show(self, shift: Shift) -> None:
        """Another look, from the next reset on."""
        self.env.close()
        self.env = self._make(self._settings | {"shift": shift}, self._frame_stack)


def make_stacked_env(settings: Mapping[str, Any], frame_stack: int) -> gym.Env[Any, Any]:
    """`make_env` with observations uint8 [S, H, W, 3]; an episode's first frame is repeated."""
    return FrameStackObservation(make_env(**settings), frame_stack)
