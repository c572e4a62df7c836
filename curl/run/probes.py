"""Probes of an encoder: what can be read linearly from its features.

Rewards, returns-to-go and, where the environment observes a state besides its frames, that state
are decoded by ridge regression from the features of the trunk, in episodes that the regression has
not seen. A probe trains nothing of the agent and draws none of the run's random numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from curl.agents.base import Agent
from curl.data.batch import FrameStacks
from curl.data.dataset import Dataset
from curl.data.environment import make_env, state_of
from curl.data.episode import Episode
from curl.data.replay import ReplayBuffer
from curl.data.seeding import Stream, episode_seed, sequence
from curl.learning.probing import held_out_r2
from curl.run.guard import Watchdog, Watched

TRANSITIONS = 3000  # that a probe looks at, two thirds of them to fit the regression
FEWEST = 6  # episodes, below which nothing is held out in earnest
DISCOUNT = 0.99  # of returns-to-go
CHUNK = 256  # stacks that are encoded at a time


@dataclass(frozen=True)
class Examples:
    """Observations with what is to be decoded from them.

    Args:
        stacks: N stacks.
        targets: name -> float [N, K].
        episode: int [N], which episode each one is of.
    """

    stacks: FrameStacks
    targets: Mapping[str, np.ndarray]
    episode: np.ndarray

    def r2(self, agent: Agent) -> dict[str, float]:
        """Name -> R^2 on the last third of the episodes, the mean over the K components."""
        parts = range(0, len(self.stacks), CHUNK)
        features = torch.cat([agent.features(self.stacks[i : i + CHUNK]).cpu() for i in parts])
        episodes = np.unique(self.episode)
        fits = np.isin(self.episode, episodes[: 2 * len(episodes) // 3])
        x = features.numpy()
        found = {}
        for name, y in self.targets.items():
            r2 = held_out_r2(x[fits], y[fits], self.episode[fits], x[~fits], y[~fits])
            if not np.isnan(r2).all():
                found[f"{name}_r2"] = float(np.nanmean(r2))
        return found


class Probes:
    """The probes of a run on a dataset.

    Args:
        replay: holds the transitions of the dataset.
        dataset: its episodes; their actions are played in the environment for the state.
        settings: arguments of `make_env`.
        episodes: how many episodes of the dataset the run uses; None: all.
        seed: of the run.
    """

    def __init__(
        self,
        *,
        replay: ReplayBuffer,
        dataset: Dataset,
        settings: Mapping[str, Any],
        episodes: int | None,
        seed: int,
    ) -> None:
        self._replay, self._dataset, self._settings = replay, dataset, settings
        self._episodes, self._seed = episodes, seed
        self._examples: list[Examples] | None = None

    def __call__(self, agent: Agent, watchdog: Watchdog) -> dict[str, float]:
        """Name of the metric -> R^2; nothing where a dataset has too few episodes.

        Args:
            watchdog: watches the environment.
        """
        if self._examples is None:
            made = [recorded(self._replay, self._seed), self._played(watchdog)]
            self._examples = [examples for examples in made if examples is not None]
        return {name: r2 for each in self._examples for name, r2 in each.r2(agent).items()}

    def _played(self, watchdog: Watchdog) -> Examples | None:
        """Examples with the environment's state; None if it observes none."""
        with watchdog.watching(interruptible=True):
            plain = make_env(**self._settings)
        env = Watched(plain, watchdog, interruptible=True)
        try:
            env.reset(seed=episode_seed(self._seed, Stream.PROBES, 0))
            if state_of(plain) is None:
                return None
            lengths = np.array(self._dataset.lengths[: self._episodes])
            chosen = drawn(lengths, self._seed)
            found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
            for number, episode in enumerate(self._dataset.episodes(self._episodes)):
                if number in chosen:
                    seed = episode.seed
                    if seed is None:
                        seed = episode_seed(self._seed, Stream.PROBES, number)
                    found[number] = play(env, episode, seed)
        finally:
            with watchdog.watching(interruptible=True):
                plain.close()
        return joined([found[number] for number in chosen], self._replay) if found else None


def recorded(replay: ReplayBuffer, seed: int) -> Examples | None:
    """Examples with rewards and returns-to-go, of episodes drawn at random; None if too few."""
    numbers = torch.arange(replay.oldest_needed(), replay.written, device=replay.device)
    starts = replay.start[numbers % replay.rows]
    after = numbers[starts != numbers]  # frames that end a transition
    rows = after % replay.rows
    episode = replay.start[rows].cpu().numpy()
    reward = replay.reward[rows].cpu().numpy().astype(np.float64)  # [T, 1]
    known, counts = np.unique(episode, return_counts=True)
    place = {known[which]: at for at, which in enumerate(drawn(counts, seed))}
    if not place:
        return None
    wanted = np.flatnonzero(np.isin(episode, list(place)))
    to_go = returns_to_go(reward, episode)
    return Examples(
        stacks=replay.stacks(after[torch.from_numpy(wanted).to(after.device)] - 1),
        targets={"reward": reward[wanted], "return_to_go": to_go[wanted]},
        episode=np.array([place[which] for which in episode[wanted]]),
    )


def drawn(lengths: np.ndarray, seed: int) -> list[int]:
    """The numbers of the episodes that a probe looks at, in a random order; none if too few.

    Args:
        lengths: int [E], of all episodes.
    """
    if len(lengths) < FEWEST:
        return []
    order = np.random.default_rng(sequence(seed, Stream.PROBES)).permutation(len(lengths))
    enough = int(np.searchsorted(np.cumsum(lengths[order]), TRANSITIONS)) + 1
    return order[: max(enough, FEWEST)].tolist()


def returns_to_go(reward: np.ndarray, episode: np.ndarray) -> np.ndarray:
    """The discounted sum of the rewards to the end of each episode, float64 [T, 1].

    Args:
        reward: float [T, 1], consecutive transitions. episode: int [T].
    """
    found = np.array(reward, dtype=np.float64)
    for at in range(len(found) - 2, -1, -1):
        if episode[at] == episode[at + 1]:
            found[at] += DISCOUNT * found[at + 1]
    return found


def play(env: Watched, episode: Episode, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames uint8 [T, H, W, 3] and states float [T, K] of the actions of an episode."""
    frames, states = [env.reset(seed=seed)], [state_of(env.env)]
    for action in episode.actions[:-1]:
        frame, _, terminated, truncated = env.step(action)
        if terminated or truncated:
            break
        frames.append(frame)
        states.append(state_of(env.env))
    return np.stack(frames), np.stack([state for state in states if state is not None])


def joined(played: list[tuple[np.ndarray, np.ndarray]], replay: ReplayBuffer) -> Examples:
    """The examples of several episodes that were played."""
    frames = torch.from_numpy(np.concatenate([frames for frames, _ in played]))
    lengths = [len(frames) for frames, _ in played]
    episode = np.repeat(np.arange(len(played)), lengths)
    start = torch.from_numpy(np.repeat(np.cumsum([0, *lengths[:-1]]), lengths))
    back = torch.arange(replay.frame_stack - 1, -1, -1)
    indices = torch.maximum(torch.arange(len(frames))[:, None] - back, start[:, None])
    target = replay.target
    stacks = FrameStacks(frames.to(target), indices.to(target))
    return Examples(stacks, {"state": np.concatenate([s for _, s in played])}, episode)
