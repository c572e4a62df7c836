"""n-step returns against a loop over the episode: ends, truncation, termination, wrap-around."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from curl.data.replay import ReplayBuffer
from curl.learning.returns import n_step, n_step_return

EDGE, STACK = 4, 2
DISCOUNT = 0.5  # exact in binary, so that sums can be compared with ==


class Episode:
    """Steps of one episode as they went into a buffer; `first` is its first frame's number."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.rewards: list[float] = []
        self.terminated = False


def frame(number: int) -> np.ndarray:
    """A frame whose red and green are the base-256 digits of its number."""
    return np.tile(np.array([number % 256, number // 256, 0], np.uint8), (EDGE, EDGE, 1))


def filled(lengths: list[int], capacity: int) -> tuple[ReplayBuffer, list[Episode]]:
    """Episodes of these lengths, every second one terminated, the last one still under way."""
    buffer = ReplayBuffer(capacity=capacity, frame_size=EDGE, action_dim=1, frame_stack=STACK)
    episodes, number = [], 0
    for index, length in enumerate(lengths):
        episodes.append(Episode(number))
        buffer.begin(frame(number))
        for step in range(length):
            number += 1
            reward = float(number % 7)
            over = step == length - 1 and index % 2 == 0 and index < len(lengths) - 1
            episodes[-1].rewards.append(reward)
            episodes[-1].terminated = over
            buffer.add(np.zeros(1), reward, over, frame(number))
        number += 1
    return buffer, episodes


def by_hand(episode: Episode, step: int, n: int) -> tuple[float, float, int]:
    """R, Gamma and the frame to bootstrap from, of the window that begins at `step`."""
    value, discount, at = 0.0, 1.0, step
    while at < len(episode.rewards) and at < step + n:
        value += discount * episode.rewards[at]
        discount *= DISCOUNT
        at += 1
    if episode.terminated and at == len(episode.rewards):
        discount = 0.0
    return value, discount, episode.first + at


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.integers(1, 40), st.integers(1, 5))
def test_targets_out_of_a_buffer_are_those_of_a_loop(
    lengths: list[int], capacity: int, n: int
) -> None:
    """Small capacities wrap around, and grow the ring where episodes are short."""
    buffer, episodes = filled(lengths, capacity)
    if not len(buffer):
        return
    batch = buffer.sample(100, torch.Generator().manual_seed(0), range(2, n + 1))
    value, discount, last = n_step(batch, n, DISCOUNT)
    assert value.shape == discount.shape == (100, 1) and value.dtype == torch.float32
    newest = [stacks.whole()[:, -3:, 0, 0].long() for stacks in (batch.obs, last)]
    numbers = [(pixels[:, 0] + 256 * pixels[:, 1]).tolist() for pixels in newest]
    for row, (begin, end) in enumerate(zip(*numbers, strict=True)):
        episode = next(e for e in reversed(episodes) if e.first <= begin)
        expected = by_hand(episode, begin - episode.first, n)
        assert (value[row].item(), discount[row].item(), end) == expected


def test_the_cases_of_a_window_by_hand() -> None:
    """Inside; cut off by a truncation; ended by a termination; terminated at once."""
    reward = [torch.tensor([[1.0], [1.0], [1.0], [1.0]])] * 3
    terminated = [
        torch.tensor([[False], [False], [False], [True]]),
        torch.tensor([[False], [False], [True], [False]]),
        torch.tensor([[False], [True], [False], [True]]),
    ]
    valid = [
        torch.tensor([True, True, True, True]),
        torch.tensor([True, True, True, False]),
        torch.tensor([True, False, False, False]),
    ]
    value, discount = n_step_return(reward, terminated, valid, DISCOUNT)
    assert value.flatten().tolist() == [1.75, 1.5, 1.5, 1.0]
    assert discount.flatten().tolist() == [0.125, 0.25, 0.0, 0.0]


@pytest.mark.parametrize("rubbish", [float("nan"), float("inf"), 1e30])
def test_what_lies_past_the_end_of_an_episode_does_not_matter(rubbish: float) -> None:
    reward = [torch.ones(1, 1), torch.full((1, 1), rubbish)]
    terminated = [torch.zeros(1, 1, dtype=torch.bool), torch.ones(1, 1, dtype=torch.bool)]
    valid = [torch.tensor([True]), torch.tensor([False])]
    value, discount = n_step_return(reward, terminated, valid, DISCOUNT)
    assert (value.item(), discount.item()) == (1.0, 0.5)


def test_one_step_is_the_transition_itself() -> None:
    buffer, _ = filled([5, 3, 4], 40)
    batch = buffer.sample(20, torch.Generator().manual_seed(0))
    value, discount, last = n_step(batch, 1, DISCOUNT)
    assert torch.equal(value, batch.reward) and last is batch.next_obs
    assert torch.equal(discount, DISCOUNT * (~batch.terminated).float())
