"""Stacks and batches of several stores read as those of one do; a mixture is half and half."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from curl import augmentations
from curl.data.batch import FrameStacks, join
from curl.data.mixture import Mixture
from curl.data.replay import ReplayBuffer
from support.replays import EDGE, filled_replay

COUNTS = [3, 1, 2, 2]  # stacks of each part; the last two have one store


def parts() -> list[FrameStacks]:
    generator = torch.Generator().manual_seed(0)
    stores = [torch.randint(256, (9, EDGE, EDGE, 3), generator=generator).byte() for _ in range(3)]
    return [
        FrameStacks(store, torch.randint(9, (count, 3), generator=generator))
        for store, count in zip([*stores, stores[-1]], COUNTS, strict=True)
    ]


def copied(many: list[FrameStacks]) -> FrameStacks:
    """The same stacks in one store."""
    indices, stores, begin = [], [], 0
    for stacks in many:
        indices.append(stacks.indices + begin)
        stores.append(stacks.frames)
        begin += len(stacks.frames)
    return FrameStacks(torch.cat(stores), torch.cat(indices))


@given(begin=st.integers(-9, 9), end=st.none() | st.integers(-9, 9))
def test_slices_of_joined_stacks(begin: int, end: int | None) -> None:
    joined, one = join(parts()), copied(parts())
    ours, theirs = joined[begin:end], one[begin:end]
    assert len(ours) == len(theirs)
    if len(theirs):
        assert torch.equal(ours.whole(), theirs.whole())
        assert torch.equal(ours.first_frames().whole(), theirs.first_frames().whole())


@pytest.mark.parametrize("name", ["crop", "shift", "translate", "gaussian", "none"])
def test_views_of_joined_stacks(name: str) -> None:
    settings = {"crop": {"size": 16}, "shift": {"size": EDGE, "pad": 2}, "none": {"size": EDGE}}
    settings |= {"translate": {"size": 30}, "gaussian": {"size": 16, "sigma": 0.1}}
    augmentation = augmentations.make(name, **settings[name])
    views = [
        augmentation(stacks, torch.Generator().manual_seed(1))
        for stacks in (join(parts()), copied(parts()))
    ]
    assert torch.equal(*views) and views[0].shape[0] == sum(COUNTS)
    assert views[0].is_contiguous(memory_format=torch.channels_last)
    seen = [augmentation.evaluate(stacks) for stacks in (join(parts()), copied(parts()))]
    assert torch.equal(*seen)


def test_a_join_copies_no_frame() -> None:
    many = parts()
    joined = join(many)
    assert joined.frames is many[0].frames
    assert joined.rest is not None and joined.rest.rest is not None
    last = joined.rest.rest
    assert last.frames is many[2].frames and len(last) == 4 and last.rest is None
    assert join([joined[:1], joined]).frames is many[0].frames


def shifted_replay(by: int) -> ReplayBuffer:
    """A replay buffer whose rewards tell it from others."""
    replay = filled_replay()
    replay.reward += by
    return replay


@pytest.mark.parametrize(("batch_size", "recorded"), [(1, 0), (2, 1), (7, 3), (8, 4)])
def test_half_of_a_batch_is_recorded(batch_size: int, recorded: int) -> None:
    """Rewards and pixels agree, at every offset, on the buffer that a transition comes from."""
    mixture = Mixture(filled_replay(), shifted_replay(by=1000))
    batch = mixture.sample(batch_size, torch.Generator().manual_seed(0), offsets=(2, 3))
    from_prior = (batch.reward > 500).flatten().tolist()
    assert from_prior == [False] * (batch_size - recorded) + [True] * recorded
    everyone = torch.ones(batch_size, dtype=torch.bool)
    seen = [(batch.next_obs, batch.reward, everyone)]
    seen += [(later.obs, later.reward, later.valid) for later in batch.future.values()]
    for obs, reward, inside in seen:
        shown = obs.whole()[:, -1, 0, 0]  # a frame shows its number, which is its reward, too
        assert len(shown) == batch_size
        assert torch.equal(shown[inside].float(), reward.flatten()[inside] % 1000)
