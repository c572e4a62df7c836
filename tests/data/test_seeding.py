"""Seeds: streams that share nothing, whatever the seed."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest
import torch

from curl.data.seeding import (
    Stream,
    episode_seed,
    generator_seed,
    random_action,
    seed_everything,
    sequence,
)

SEEDS = [*range(10), 2**31, 2**32, 2**32 + 1, 2**64, 2**64 + 2**32, 10**30, 10**100]


def words(*arguments: Any) -> tuple[int, ...]:
    return tuple(sequence(*arguments).generate_state(4).tolist())


def test_every_stream_of_every_seed_is_another() -> None:
    """Also of seeds whose 32-bit words could be taken for a stream and a number."""
    arguments = list(itertools.product(SEEDS, Stream, range(6)))
    assert len({words(*each) for each in arguments}) == len(arguments)


@pytest.mark.parametrize("stream", [Stream.TRAINING, Stream.EVALUATION, Stream.RECORDING])
def test_runs_share_no_episode(stream: Stream) -> None:
    """Seed and episode were added once, so that seeds 1 and 2 shared 99 of 100 episodes."""
    episodes = {seed: {episode_seed(seed, stream, i) for i in range(200)} for seed in SEEDS}
    assert all(len(seeds) == 200 for seeds in episodes.values())
    for one, other in itertools.combinations(episodes.values(), 2):
        assert not one & other


def test_training_and_evaluation_never_share_an_episode() -> None:
    """By construction, for any seeds at all."""
    for seed in SEEDS:
        assert all(episode_seed(seed, Stream.TRAINING, i) % 2 == 0 for i in range(100))
        assert all(episode_seed(seed, Stream.EVALUATION, i) % 2 == 1 for i in range(100))


def test_recordings_share_no_episode_with_either() -> None:
    """By construction: seeds of both are below 2**31, and NumPy's generators take 32 bits."""
    for seed in SEEDS:
        found = [episode_seed(seed, Stream.RECORDING, i) for i in range(100)]
        assert len(set(found)) == 100
        assert all(2**31 <= each < 2**32 for each in found)
        for stream in (Stream.TRAINING, Stream.EVALUATION):
            assert max(episode_seed(seed, stream, i) for i in range(100)) < 2**31


def test_seeds_of_episodes_fit_every_environment() -> None:
    seeds = [episode_seed(seed, Stream.TRAINING, i) for seed in SEEDS for i in range(300)]
    assert min(seeds) >= 0 and 2**30 < max(seeds) < 2**31


@pytest.mark.parametrize("seed", SEEDS)
def test_any_whole_number_seeds_everything(seed: int) -> None:
    def drawn() -> list[float]:
        generator = seed_everything(seed, torch.device("cpu"))
        numbers = [random.random(), np.random.random(), torch.rand(1).item()]  # noqa: NPY002
        return [*numbers, torch.rand(1, generator=generator).item()]

    first = drawn()
    assert drawn() == first and len(set(first)) == 4
    assert 0 <= generator_seed(seed, Stream.VIEWS) < 2**63


def test_random_actions_are_uniform_and_depend_on_seed_and_step_alone() -> None:
    actions = torch.stack([random_action(3, step, 2) for step in range(2000)])
    assert actions.dtype == torch.float32 and actions.abs().max() <= 1
    assert actions.mean(0).abs().max() < 0.05
    assert (actions.var(0) - 1 / 3).abs().max() < 0.03
    assert torch.equal(random_action(3, 17, 2), actions[17])
    assert not torch.equal(random_action(4, 17, 2), actions[17])


@pytest.mark.parametrize("seed", [-1, 1.5, "1", True, None])
def test_what_is_no_whole_number_is_refused(seed: Any) -> None:
    with pytest.raises(ValueError, match="seed must be an integer >= 0"):
        seed_everything(seed, torch.device("cpu"))
    with pytest.raises(ValueError, match="seed must be an integer >= 0"):
        episode_seed(seed, Stream.TRAINING, 0)
