"""`python -m curl record RUN --dataset NAME`: record the episodes of a saved agent as a dataset."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Sequence
from typing import Any

from curl.checks import choice, integer, positive
from curl.command.parser import (
    ENV_TIMEOUT,
    Parser,
    add_dataset,
    add_device,
    add_env_timeout,
    add_opengl,
    add_run,
    add_seed,
    number,
)
from curl.command.stopping import Stop
from curl.command.writing import CODES, until, writing
from curl.data.dataset import Dataset
from curl.data.episode import episodes_of
from curl.data.layout import require_free
from curl.data.seeding import seed_everything
from curl.data.writing import discard_unfinished, write
from curl.errors import HUNG, refuse
from curl.run.guard import Watchdog
from curl.run.policy import load, make_env
from curl.run.recording import POLICIES, origin_of_policy, play, saved_replay

DEFAULTS = {"episodes": 10, "policy": "mean", "seed": 0, "env_timeout": ENV_TIMEOUT}


def parser() -> Parser:
    parser = Parser(
        "record",
        "Let a saved agent act in new episodes of its environment, and write them as a local "
        "Minari dataset:\nsingle frames, actions, rewards and ends. With --replay the dataset is "
        "the replay buffer that the\nrun saved with its newest checkpoint, and nothing is played.",
        examples={
            "runs/cartpole_swingup/curl-crop-infonce/seed_1 --dataset cartpole_swingup/expert-v0": (
                "Ten episodes of the newest sound checkpoint, which takes its mean actions."
            ),
            "runs/.../seed_1 --dataset cartpole_swingup/random-v0 --policy random --episodes 50": (
                "Fifty episodes of random actions in the environment of the run."
            ),
            "runs/.../seed_1 --dataset cartpole_swingup/medium_replay-v0 --replay": (
                "What the run has stored while it learned."
            ),
        },
        codes=CODES | {str(HUNG): "The environment did not answer; no dataset was written."},
    )
    add_run(parser)
    add_dataset(parser)
    parser.add_argument(
        "--episodes",
        type=number,
        metavar="N",
        help=f"How many episodes are played. The default is {DEFAULTS['episodes']}.",
    )
    parser.add_argument(
        "--policy",
        metavar="NAME",
        help="How the agent acts: mean takes its mean actions, as evaluations do; sample draws "
        "them, as training does; random does not ask it. The default is mean.",
    )
    add_seed(
        parser,
        "The seed of the episodes and of everything that is drawn in them. No episode of a "
        "training or of an evaluation is among them.",
    )
    parser.set_defaults(seed=None)  # so that a seed beside --replay is noticed
    add_env_timeout(parser, "the recording")
    parser.set_defaults(env_timeout=None)  # so that one beside --replay is noticed
    parser.add_argument(
        "--replay",
        action="store_true",
        help="Write the replay buffer of the checkpoint, instead of playing episodes.",
    )
    add_device(parser)
    add_opengl(parser)
    return parser


def main(arguments: Sequence[str]) -> int:
    """The command. Refusals are raised as ValueError, OSError, MemoryError or OpenGLError.

    Returns:
        The exit code: 0, 3 if the environment did not answer, or 128 + n after signal n.
    """
    options = parser().parse_args(arguments)
    require_options(options)
    require_free(options.dataset)
    record = record_replay if options.replay else record_episodes
    try:
        return writing(lambda stop: record(options, stop))
    except TimeoutError as error:
        refuse(error)
        return HUNG


def require_options(options: argparse.Namespace) -> None:
    """Fill in the defaults; `ValueError` for values and combinations that mean nothing."""
    for name, default in DEFAULTS.items():
        option = name.replace("_", "-")
        if getattr(options, name) is None:
            setattr(options, name, default)
        elif options.replay:
            raise ValueError(f"--replay plays no episodes: it does not go with --{option}")
    integer("--episodes", options.episodes)
    integer("--seed", options.seed, at_least=0)
    choice("--policy", options.policy, POLICIES)
    positive("--env-timeout", options.env_timeout)


def record_episodes(options: argparse.Namespace, stop: Stop) -> Dataset:
    """Play, and write each episode when it is over."""
    policy = load(options.run, device=options.device, seed=options.seed)
    origin = origin_of_policy(options.run, policy, how=options.policy, seed=options.seed)
    watchdog = Watchdog(timeout=options.env_timeout, on_hang=leave)
    with contextlib.ExitStack() as stack:
        stack.callback(watchdog.close)
        env = make_env(options.run, device=options.device, opengl=options.opengl)
        stack.callback(close, env, watchdog)
        seed_everything(options.seed, policy.device)  # some environments draw from global ones
        played = play(
            policy,
            env,
            episodes=options.episodes,
            seed=options.seed,
            how=options.policy,
            stop=stop,
            watchdog=watchdog,
        )
        return write(options.dataset, played, origin)


def close(env: Any, watchdog: Watchdog) -> None:
    """Close an environment, which may hang in that as well."""
    with watchdog.watching(interruptible=True):
        env.close()


def leave(cause: str) -> None:
    """End the process: nothing can be raised in an environment that hangs in C."""
    discard_unfinished()
    refuse(cause)
    os._exit(HUNG)


def record_replay(options: argparse.Namespace, stop: Stop) -> Dataset:
    """Read the replay buffer of the checkpoint, and write its episodes."""
    buffer, over, origin = saved_replay(options.run)
    return write(options.dataset, until(stop, episodes_of(buffer, over=over)), origin)
