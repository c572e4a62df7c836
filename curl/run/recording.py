"""Where the episodes of a dataset come from: a saved agent that acts, or a saved replay buffer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from curl import schema
from curl.checks import choice, integer
from curl.data.episode import Episode, Origin
from curl.data.replay import ReplayBuffer
from curl.data.seeding import Stream, episode_seed, sequence
from curl.run.checkpoint import (
    CheckpointError,
    clock_of,
    load_file,
    refuse_foreign_content,
    sha256,
)
from curl.run.clock import UPDATES, Clock
from curl.run.folder import RunFolder
from curl.run.guard import Watchdog, Watched
from curl.run.policy import Policy, read, saved_action_dim, settings_of

log = logging.getLogger("curl")

POLICIES = ("mean", "sample", "random")
REPLAY = "replay"  # the policy of a dataset that was a replay buffer


def play(
    policy: Policy,
    env: gym.Env[np.ndarray, np.ndarray],
    *,
    episodes: int,
    seed: int,
    how: str = "mean",
    stream: Stream = Stream.RECORDING,
    stop: Callable[[], bool] = lambda: False,
    watchdog: Watchdog | None = None,
) -> Iterator[Episode]:
    """Let an agent act in its environment, and yield each episode when it is over.

    The episodes of a dataset are those of no training and of no evaluation, whatever the seeds:
    see `episode_seed`.

    Args:
        env: of `curl.make_env`.
        episodes: how many.
        seed: of the episodes and of random actions. `load` has seeded what the agent draws.
        how: mean: the mean action, as in evaluations. sample: an action is drawn, as in training.
            random: actions are uniformly random, and the agent is not asked.
        stream: of the seeds of the episodes.
        stop: asked before every step.
        watchdog: is told when the environment does not answer; None: nobody is.

    Raises:
        ValueError: an unknown `how`; what the environment raised; a reward that is not finite.
        TimeoutError: the environment took longer to answer than `watchdog` allows.
        InterruptedError: `stop` said so.
    """
    choice("policy", how, POLICIES)
    watched = Watched(env, watchdog, interruptible=True)
    for number in range(integer("episodes", episodes)):
        reset_seed = episode_seed(seed, stream, number)
        generator = np.random.default_rng(sequence(seed, Stream.RECORDED_ACTIONS, number))
        policy.reset()
        frame = watched.reset(seed=reset_seed)
        frames, actions, rewards = [np.array(frame)], [], []
        terminated = truncated = False
        while not (terminated or truncated):
            if stop():
                raise InterruptedError("the recording was interrupted")
            if how == "random":
                action = generator.uniform(-1, 1, policy.action_dim).astype(np.float32)
            else:
                action = policy.step(frame, deterministic=how == "mean")
            frame, reward, terminated, truncated = watched.step(action)
            frames.append(np.array(frame))
            actions.append(action)
            rewards.append(reward)
        episode = Episode(
            np.stack(frames),
            np.stack(actions),
            np.array(rewards, np.float32),
            terminated=terminated,
            truncated=truncated,
            seed=reset_seed,
        )
        log.info(
            "episode %d of %d: %d transitions, return %.1f",
            *(number + 1, episodes, len(episode), episode.rewards.sum()),
        )
        yield episode


def origin_of_policy(run: Path, policy: Policy, *, how: str, seed: int) -> Origin:
    """The origin of the episodes that `play` yields for the policy of a run or a state file."""
    return _origin(
        run, policy.config, policy.clock, action_dim=policy.action_dim, policy=how, seed=seed
    )


def saved_replay(run: Path) -> tuple[ReplayBuffer, bool, Origin]:
    """The replay buffer that the newest sound checkpoint of a run holds, on the CPU.

    Args:
        run: the folder of a run, or a state file in it.

    Returns:
        The buffer, whether its newest episode has ended, and the origin of its episodes.

    Raises:
        CheckpointError: there is no such checkpoint, it holds no replay buffer, or is damaged.
        MemoryError: the buffer does not fit into memory.
    """
    state = read(run)
    with refuse_foreign_content(run), settings_of(run):
        if not state["segments"]:
            if clock_of(state).axis == UPDATES:
                raise CheckpointError(
                    f"{run} has no replay buffer: it learned from a dataset alone"
                )
            raise CheckpointError(f"{run} saved no replay buffer: save_replay was false")
        config = schema.checked(state["config"], schema.Policy)
        action_dim = saved_action_dim(state)
        if action_dim is None:
            raise CheckpointError(f"{run} does not say how many components its actions have")
        buffer = ReplayBuffer(
            capacity=state["config"]["replay"]["capacity"],
            frame_size=config["render_size"],
            action_dim=action_dim,
            frame_stack=config["frame_stack"],
        )
        folder = RunFolder.of(run).checkpoints
        frames = (load_file(folder / each["file"], each["sha256"]) for each in state["segments"])
        buffer.restore(frames, state.get("replay"))
        over = not state["counters"]["in_episode"]
        clock = clock_of(state)
        origin = _origin(run, config, clock, action_dim=action_dim, policy=REPLAY, seed=None)
    return buffer, over, origin


def _origin(
    run: Path,
    config: Mapping[str, Any],
    clock: Clock,
    *,
    action_dim: int,
    policy: str,
    seed: int | None,
) -> Origin:
    checkpoint = RunFolder(run).checkpoint(clock.now) if run.is_dir() else run
    return Origin(
        environment=config["task"]["env_id"],
        action_repeat=config["task"]["action_repeat"],
        render_size=config["render_size"],
        frame_stack=config["frame_stack"],
        action_dim=action_dim,
        task=dict(config["task"]),
        policy=policy,
        seed=seed,
        checkpoint=str(checkpoint),
        checkpoint_sha256=sha256(checkpoint),
        env_steps=clock.env_steps,
        updates=clock.updates,
    )
