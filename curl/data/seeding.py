"""Seeds: every random stream of a run, derived from the run's one seed.

Each stream is a `numpy.random.SeedSequence` of the run's seed, the stream's name and a number
within it (an episode or a step). The streams of different seeds, of different names and of
different numbers are independent, so runs with the seeds 1 and 2 share no episode. Any whole
number >= 0 is a valid seed, however large.

Versions that seeded episode i with `seed + i` gave neighbouring seeds nearly the same episodes.
Their runs cannot be repeated bit for bit with this version.
"""

from __future__ import annotations

import enum
import random

import numpy as np
import torch

from curl.checks import integer


class Stream(enum.IntEnum):
    """What randomness is used for. The values are part of what a seed means: never renumber."""

    INITIALISATION = 0  # networks
    LEARNING = 1  # the run's own generator: policy noise, replay sampling, augmentation
    RANDOM_ACTIONS = 2  # before learning begins; numbered by agent step
    TRAINING = 3  # environment of the training episodes; numbered by episode
    EVALUATION = 4  # environment of the evaluation episodes; numbered by episode
    VIEWS = 5  # contact sheets of augmentations
    RECORDING = 6  # environment of the episodes of a dataset; numbered by episode
    RECORDED_ACTIONS = 7  # random actions in a dataset; numbered by episode
    PROBES = 8  # episodes that probes choose, and environment of those that they play
    SHIFTS = 9  # looks of an environment; its seed is that of the episode
    INSPECTION = 10  # environment of the episodes that an inspection plays; numbered by episode


def sequence(seed: int, stream: Stream, number: int = 0) -> np.random.SeedSequence:
    """The root of one stream.

    The seed comes last: a large one fills several 32-bit words, which would otherwise be taken
    for the stream and the number of a small one.

    Raises:
        ValueError: `seed` is not an integer >= 0.
    """
    return np.random.SeedSequence([int(stream), number, integer("seed", seed, at_least=0)])


def generator_seed(seed: int, stream: Stream) -> int:
    """A seed for a `torch.Generator`, below 2**63."""
    return int(sequence(seed, stream).generate_state(1, np.uint64)[0] >> 1)


def episode_seed(seed: int, stream: Stream, episode: int) -> int:
    """The seed for `env.reset` at the beginning of an episode, below 2**31 (recordings: 2**32).

    Environments differ in what they take; all take 31 bits. The last bit is 1 in evaluations and
    0 in training, so the two never share an episode, not even by chance. The episodes of datasets
    have a bit of their own, the 32nd, so none of them is an episode of a training or an evaluation.
    NumPy's generators, dm_control and Gymnasium take 32 bits.
    """
    bits = int(sequence(seed, stream, episode).generate_state(1)[0]) >> 2  # 30 bits
    return (stream is Stream.RECORDING) << 31 | bits << 1 | (stream is Stream.EVALUATION)


def random_action(seed: int, agent_step: int, action_dim: int) -> torch.Tensor:
    """The uniformly random action of one agent step, float32 [action_dim] in [-1, 1)."""
    generator = np.random.default_rng(sequence(seed, Stream.RANDOM_ACTIONS, agent_step))
    return torch.from_numpy(generator.uniform(-1, 1, action_dim).astype(np.float32))


def seed_everything(seed: int, device: torch.device) -> torch.Generator:
    """Seed the global generators (initialisation) and return the run's own, on `device`."""
    first = generator_seed(seed, Stream.INITIALISATION)
    random.seed(first)
    np.random.seed(first % 2**32)  # noqa: NPY002  some environments use NumPy's global generator
    torch.manual_seed(first)
    return torch.Generator(device).manual_seed(generator_seed(seed, Stream.LEARNING))
