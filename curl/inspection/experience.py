"""The episodes that an inspection looks at.

They are played in the run's own environment: with the mean actions of the agent, with actions that
it draws, and with random ones, which show states that a good agent leaves at once. Their seeds come
from a stream of their own. All three kinds begin in the same states.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from curl.data.dataset import Episode
from curl.data.environment import state_names, state_of
from curl.data.replay import ReplayBuffer
from curl.data.seeding import Stream
from curl.run.guard import Watchdog
from curl.run.policy import Policy
from curl.run.recording import play

KINDS = ("mean", "sample", "random")


class Noted(gym.Wrapper[Any, Any, Any, Any]):
    """Notes the state of an environment of `make_env` after each reset and step."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.states: list[list[np.ndarray]] = []  # of each episode

    def reset(self, **options: Any) -> Any:
        found = self.env.reset(**options)
        self.states.append([])
        self._note()
        return found

    def step(self, action: Any) -> Any:
        found = self.env.step(action)
        self._note()
        return found

    def _note(self) -> None:
        state = state_of(self.env)
        if state is not None:
            self.states[-1].append(state)


@dataclass(frozen=True, eq=False)
class Experience:
    """Episodes, and their N transitions one after the other.

    Attributes:
        episodes: kind -> its episodes.
        replay: holds all transitions; transition n there is row n of the arrays below.
        kind: int [N], a place in KINDS.
        number: int [N], which episode of its kind.
        step: int [N], agent steps since the reset.
        reward: float32 [N].
        action: float32 [N, A].
        state: float64 [N, K], what the environment observes besides frames; None if nothing.
        state_names: K names.
    """

    episodes: dict[str, list[Episode]]
    replay: ReplayBuffer
    kind: np.ndarray
    number: np.ndarray
    step: np.ndarray
    reward: np.ndarray
    action: np.ndarray
    state: np.ndarray | None
    state_names: Sequence[str]

    def __len__(self) -> int:
        return len(self.reward)

    def rows(self, kind: str, number: int) -> np.ndarray:
        """The transitions of an episode, in their order."""
        return np.flatnonzero((self.kind == KINDS.index(kind)) & (self.number == number))

    def returns(self, kind: str) -> list[float]:
        """Undiscounted."""
        return [float(each.rewards.sum(dtype=np.float64)) for each in self.episodes[kind]]


def gather(
    policy: Policy,
    env: gym.Env[np.ndarray, np.ndarray],
    *,
    episodes: int,
    seed: int,
    stop: Callable[[], bool] = lambda: False,
    watchdog: Watchdog | None = None,
) -> Experience:
    """Play `episodes` episodes of each kind.

    Args:
        env: of `curl.make_env`. For the others see `curl/run/recording.py`.
    """
    noted = Noted(env)
    played = {
        how: list(
            play(
                policy,
                noted,
                episodes=episodes,
                seed=seed,
                how=how,
                stream=Stream.INSPECTION,
                stop=stop,
                watchdog=watchdog,
            )
        )
        for how in KINDS
    }
    every = [each for kind in KINDS for each in played[kind]]
    states = [np.stack(each[:-1]) for each in noted.states if each]
    lengths = [len(each) for each in every]
    return Experience(
        episodes=played,
        replay=stored(every, policy.frame_stack, policy.device),
        kind=np.repeat(np.repeat(np.arange(len(KINDS)), episodes), lengths),
        number=np.repeat(np.tile(np.arange(episodes), len(KINDS)), lengths),
        step=np.concatenate([np.arange(length) for length in lengths]),
        reward=np.concatenate([each.rewards for each in every]),
        action=np.concatenate([each.actions for each in every]),
        state=np.concatenate(states) if states else None,
        state_names=state_names(env),
    )


def stored(episodes: Sequence[Episode], frame_stack: int, device: torch.device) -> ReplayBuffer:
    """A replay buffer that holds all transitions of the episodes, in their order."""
    transitions = sum(len(each) for each in episodes)
    replay = ReplayBuffer(
        capacity=transitions,
        frame_size=episodes[0].frames.shape[1],
        action_dim=episodes[0].actions.shape[1],
        frame_stack=frame_stack,
        target=device,
    )
    for each in episodes:
        replay.begin(each.frames[0])
        for step, frame in enumerate(each.frames[1:]):
            over = each.terminated and step == len(each) - 1
            replay.add(each.actions[step], float(each.rewards[step]), over, frame)
    assert len(replay) == transitions
    return replay
