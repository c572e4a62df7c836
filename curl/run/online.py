"""The online loop: act, update, step, in an environment.

Its axis is env steps, the simulator's control steps. One agent step is `action_repeat` of them, or
fewer where the episode ends. `initial_steps` alone is in agent steps. Evaluations and checkpoints
fall within episodes too, because episodes may be long. Each episode has a seed of its own, so an
interrupted episode is taken up by replaying its actions.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from curl.checks import positive
from curl.data.environment import episode_length
from curl.data.mixture import Mixture
from curl.data.replay import ReplayBuffer
from curl.data.seeding import Stream, episode_seed, random_action
from curl.hardware.transfer import ToHost
from curl.run.checkpoint import Sizes
from curl.run.clock import ENV_STEPS
from curl.run.guard import Signals, Watched, failures_of
from curl.run.loop import Trainer

log = logging.getLogger("curl")


class OnlineTrainer(Trainer):
    """Trains an agent on the transitions that it makes.

    Args:
        env: of `make_env`; the caller closes it.
        replay: where transitions are stored.
        prior: holds the transitions of a dataset, which give half of each batch; None: there are
            none.
        env_steps: budget.
        batch_size: transitions per update.
        updates_per_step: gradient updates per agent step; a fraction is kept exactly.
        initial_steps: agent steps of random actions before learning begins. It does not depend on
            `action_repeat`, as in the paper.
        save_replay: whether checkpoints hold the replay buffer.
        others: see `Trainer`.
    """

    axis = ENV_STEPS
    extra_counters = ("episode", "episode_steps", "episode_return", "in_episode", "last_return")

    def __init__(
        self,
        *,
        env: gym.Env[Any, Any],
        replay: ReplayBuffer,
        env_steps: int,
        batch_size: int,
        updates_per_step: float,
        initial_steps: int,
        save_replay: bool,
        prior: ReplayBuffer | None = None,
        signals: Signals | None = None,
        **others: Any,
    ) -> None:
        assert env.action_space.shape is not None
        self.action_dim = env.action_space.shape[0]
        sizes = Sizes(self.action_dim, (replay.frame_stack, *replay.frames.shape[1:]))
        super().__init__(budget=env_steps, sizes=sizes, signals=signals, **others)
        self.env = Watched(env, self.watchdog)
        self.replay, self.save_replay = replay, save_replay
        self.source = replay if prior is None else Mixture(replay, prior)
        self.batch_size, self.initial_steps = batch_size, initial_steps
        self.updates_per_step = as_fraction(positive("updates_per_step", updates_per_step))
        self.episode = -1  # number of the episode under way
        self.episode_steps = 0  # agent steps into it
        self.episode_length = 0  # env steps into it
        self.episode_actions: list[torch.Tensor] = []  # since its reset
        self.episode_return = 0.0
        self.in_episode = False
        self.last_return = float("nan")

    # -- act, update, step -----------------------------------------------------------------------

    def advance(self) -> None:
        """One agent step."""
        if not self.in_episode:
            self.begin_episode()
        if self.agent_steps < self.initial_steps:
            action = random_action(self.seed, self.agent_steps, self.action_dim)
        else:
            acted = self.act()
            self.update()  # a GPU computes it while the environment steps
            action = self.arrived(acted)
        self.step(action)

    def act(self) -> ToHost:
        """The agent's action on the newest frame stack, float32 [A]."""
        with failures_of("the agent's action", self.remedy):
            return ToHost(self.agent.act(self.replay.latest(), deterministic=False)[0])

    def arrived(self, acted: ToHost) -> torch.Tensor:
        """The action on the host; `RunError` if it is not finite because an update was not."""
        with failures_of("the agent's action", self.remedy):
            action = acted.get()
        if not action.isfinite().all():
            self.finite.require()
        return action

    def update(self) -> None:
        """The updates of this agent step, once the buffer holds the initial steps."""
        self.finite.require(ahead=1)
        # Transitions ever written: after a resume without the saved buffer, learning waits for as
        # many of them as at the beginning.
        if self.replay.last < min(self.initial_steps, self.replay.capacity):
            return
        for _ in range(updates_due(self.updates_per_step, self.agent_steps - self.initial_steps)):
            self.learn(self.source, self.batch_size)

    def step(self, action: torch.Tensor) -> None:
        """Make the action in the environment, and store what comes of it."""
        frame, reward, terminated, truncated = self.env.step(action.numpy())
        self.replay.add(action, reward, terminated, frame)
        length = episode_length(self.env.env)
        self.clock.env_steps += length - self.episode_length
        self.clock.agent_steps += 1
        self.episode_length = length
        self.episode_actions.append(action)
        self.episode_steps += 1
        self.episode_return += reward
        if terminated or truncated:
            self.in_episode = False
            self.last_return = self.episode_return
            self.write("episode", {"return": self.episode_return, "length": self.episode_steps})

    def begin_episode(self) -> None:
        """Reset the environment to the next episode."""
        self.episode += 1
        frame = self.reset()
        self.episode_steps, self.episode_return, self.in_episode = 0, 0.0, True
        self.episode_actions = []
        self.replay.begin(frame)

    def reset(self) -> np.ndarray:
        """The first frame of the episode under way."""
        self.episode_length = 0
        return self.env.reset(seed=episode_seed(self.seed, Stream.TRAINING, self.episode))

    # -- what the loop asks ----------------------------------------------------------------------

    @property
    def env_steps(self) -> int:
        return self.clock.env_steps

    @property
    def agent_steps(self) -> int:
        return self.clock.agent_steps

    @property
    def remedy(self) -> str:
        return f"lower batch_size={self.batch_size} or replay.capacity={self.replay.capacity}"

    def status(self) -> str:
        return f"return {self.last_return:.0f}"

    def without_updates(self) -> str:
        return (
            f"the run ended without a single update, its agent has learned nothing: env_steps="
            f"{self.budget} are {self.agent_steps} agent steps, and learning begins after "
            f"initial_steps={self.initial_steps} agent steps, with updates_per_step="
            f"{float(self.updates_per_step):g}; raise env_steps or lower initial_steps"
        )

    # -- stopping and resuming -------------------------------------------------------------------

    def own_state(self) -> dict[str, Any]:
        return {"replay": self.replay.counters(), "episode_actions": self.actions_so_far()}

    def frames(self) -> tuple[tuple[int, int], Callable[[int, int], Any]] | None:
        if not self.save_replay:
            return None
        return (self.replay.oldest(), self.replay.written), self.replay.export

    def actions_so_far(self) -> torch.Tensor | None:
        """Actions of the episode under way, float32 [episode_steps, A]; None if there are none.

        The replay buffer does not hold them all where an episode is longer than its capacity.
        """
        return torch.stack(self.episode_actions) if self.in_episode and self.episode_steps else None

    def restore(self, state: dict[str, Any], frames: Iterator[Any]) -> None:
        self._saved_replay = bool(state["segments"])
        self._saved_actions = state.get("episode_actions")  # older versions saved none
        if self._saved_replay:
            self.replay.restore(frames, state.get("replay"))

    def resumed(self) -> None:
        """Take up the episode that was under way, or give it up; its transitions stay."""
        if self.in_episode and not (
            self._saved_replay and self.repeat_episode(self._saved_actions)
        ):
            self.in_episode = False

    def repeat_episode(self, actions: Any) -> bool:
        """Bring the environment back to where it was: the same seed, the same actions.

        Args:
            actions: float32 [episode_steps, A], of the episode so far.

        Returns:
            Whether the environment came back to the newest frame in the replay buffer.
        """
        shape = (self.episode_steps, self.action_dim)
        if not isinstance(actions, torch.Tensor) or actions.shape != shape:
            log.warning("the checkpoint lacks the actions of its episode: a new episode begins")
            return False
        frame = self.reset()
        for action in actions:
            frame = self.env.step(action.numpy())[0]
        self.episode_length = episode_length(self.env.env)
        self.episode_actions = list(actions)
        same = np.array_equal(frame, self.replay.newest_frame())
        if not same:
            log.warning("the environment is not reproducible: a new episode begins")
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
