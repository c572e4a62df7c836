"""Recorded episodes: what the environment gave and the agent did, in episodes of their own."""

from __future__ import annotations

import shutil
from collections import deque
from pathlib import Path

import numpy as np
import pytest

import curl
from curl.data.episode import episodes_of
from curl.data.seeding import Stream, episode_seed
from curl.run import recording
from curl.run.checkpoint import CheckpointError, read_state, save_file, sha256
from support import faulty  # noqa: F401  registers the environment
from support.datasets import train_into_an_episode

EPISODES = 3


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose ring has wrapped, and whose third episode of 20 steps is going on."""
    folder = tmp_path_factory.mktemp("made") / "run"
    train_into_an_episode(folder)
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(made, tmp_path / "run"))


def played(run: Path, how: str, seed: int = 5) -> list[recording.Episode]:
    policy = curl.load(run, device="cpu", seed=seed)
    env = curl.make_env(policy)
    found = list(recording.play(policy, env, episodes=EPISODES, seed=seed, how=how))
    env.close()
    return found


@pytest.mark.parametrize("how", recording.POLICIES)
def test_episodes_are_what_the_environment_gave(made: Path, how: str) -> None:
    """The same seeds and the same actions give the same frames, rewards and ends."""
    env = curl.make_env(made, device="cpu")
    found = played(made, how)
    assert len(found) == EPISODES
    for one in found:
        frame, _ = env.reset(seed=one.seed)
        assert np.array_equal(one.frames[0], frame)
        for at, action in enumerate(one.actions):
            frame, reward, terminated, truncated, _ = env.step(action)
            assert np.array_equal(one.frames[at + 1], frame)
            assert one.rewards[at] == np.float32(reward)
            over = at == len(one) - 1
            assert (terminated, truncated) == (over and one.terminated, over and one.truncated)
        assert (len(one), one.truncated, one.whole) == (20, True, True)
        assert len(np.unique(one.frames)) > 2, "the frames move"
    env.close()
    assert len({one.seed for one in found}) == EPISODES


def test_mean_actions_are_those_of_an_evaluation(made: Path) -> None:
    policy = curl.load(made, device="cpu")
    for one in played(made, "mean"):
        stack = deque([one.frames[0]] * policy.frame_stack, maxlen=policy.frame_stack)
        for at, action in enumerate(one.actions):
            assert np.array_equal(policy.predict(np.stack(stack)), action)
            stack.append(one.frames[at + 1])


def test_policies_and_seeds_differ_and_repeat(made: Path) -> None:
    found = {(how, s): played(made, how, s) for how in recording.POLICIES for s in (5, 6)}
    actions = [np.concatenate([one.actions for one in each]) for each in found.values()]
    assert not any(
        np.array_equal(one, other) for i, one in enumerate(actions) for other in actions[:i]
    )
    for (how, seed), each in found.items():
        for one, other in zip(each, played(made, how, seed), strict=True):
            assert np.array_equal(one.actions, other.actions)
            assert np.array_equal(one.frames, other.frames)
    random = np.concatenate([one.actions for one in found["random", 5]])
    assert abs(random.mean()) < 0.3 and abs(random.var() - 1 / 3) < 0.15


def test_no_episode_of_a_training_or_an_evaluation_is_recorded(made: Path) -> None:
    """Whatever the seeds: theirs are below 2**31."""
    config = read_state(max((made / "checkpoints").glob("state-*.pt")))["config"]
    for seed in (config["seed"], 0, 5):
        recorded = {one.seed for one in played(made, "random", seed)}
        for stream in (Stream.TRAINING, Stream.EVALUATION):
            assert not recorded & {episode_seed(seed, stream, i) for i in range(500)}
        assert all(2**31 <= each < 2**32 for each in recorded)


def test_a_recording_stops_when_it_is_asked_to(made: Path) -> None:
    policy = curl.load(made, device="cpu")
    env = curl.make_env(policy)
    with pytest.raises(InterruptedError):
        list(recording.play(policy, env, episodes=1, seed=0, stop=lambda: True))
    with pytest.raises(ValueError, match="policy must be one of mean, sample, random; got 'men'"):
        list(recording.play(policy, env, episodes=1, seed=0, how="men"))
    env.close()


def test_the_origin_names_the_checkpoint(made: Path) -> None:
    state = made / "checkpoints" / "state-50.pt"
    policy = curl.load(made, device="cpu")
    for path in (made, state):
        found = recording.origin_of_policy(path, policy, how="mean", seed=3)
        assert found.checkpoint == str(state) and found.checkpoint_sha256 == sha256(state)
    assert (found.environment, found.action_repeat, found.render_size) == ("Sound-v0", 1, 40)
    assert (found.frame_stack, found.action_dim, found.env_steps) == (3, 1, 50)
    assert (found.policy, found.seed, found.version) == ("mean", 3, curl.__version__)
    assert found.task == policy.config["task"]


# -- the saved replay buffer -----------------------------------------------------------------------


def test_the_saved_replay_buffer_holds_the_last_transitions(made: Path) -> None:
    """35 of 50: the end of the first episode, the second, and the third, which is going on."""
    before = sorted((path, path.stat().st_mtime_ns) for path in made.rglob("*"))
    buffer, over, origin = recording.saved_replay(made)
    assert len(buffer) == 35 and not over
    assert (origin.policy, origin.seed, origin.env_steps) == ("replay", None, 50)
    found = list(episodes_of(buffer, over=over))
    ends = [(len(one), one.skipped, one.terminated, one.truncated) for one in found]
    # The first transition that is drawn is the 16th; its stack shows the frames 13, 14 and 15.
    assert ends == [(7, 13, False, True), (20, 0, False, True), (10, 0, False, False)]
    assert sorted((path, path.stat().st_mtime_ns) for path in made.rglob("*")) == before


def test_stored_episodes_are_those_of_the_training(made: Path) -> None:
    buffer, over, _ = recording.saved_replay(made)
    env = curl.make_env(made, device="cpu")
    seed = read_state(made / "checkpoints" / "state-50.pt")["config"]["seed"]
    for number, one in list(enumerate(episodes_of(buffer, over=over)))[1:]:
        frame, _ = env.reset(seed=episode_seed(seed, Stream.TRAINING, number))
        assert np.array_equal(one.frames[0], frame)
        for at, action in enumerate(one.actions):
            frame, reward, *_ = env.step(action)
            assert np.array_equal(one.frames[at + 1], frame)
            assert one.rewards[at] == np.float32(reward)
    env.close()


def test_a_run_without_a_saved_buffer_is_refused(run: Path) -> None:
    state = run / "checkpoints" / "state-50.pt"
    content = read_state(state) | {"segments": []}
    save_file(state, content, checksum=state.with_suffix(".sha256"))
    with pytest.raises(CheckpointError, match="saved no replay buffer: save_replay was false"):
        recording.saved_replay(run)


def garble(folder: Path) -> None:
    for path in (folder / "checkpoints").glob("frames-*.pt"):
        path.write_bytes(b"garbled")


def lose(folder: Path) -> None:
    for path in (folder / "checkpoints").glob("frames-*.pt"):
        path.unlink()


def shrink(folder: Path) -> None:
    state = folder / "checkpoints" / "state-50.pt"
    content = read_state(state)
    content["config"]["replay"]["capacity"] = 5
    save_file(state, content, checksum=state.with_suffix(".sha256"))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (garble, "frames-.* is damaged"),
        (lose, "frames-.* is missing"),
        (shrink, "cannot be loaded: the saved replay buffer"),
        (shutil.rmtree, "does not exist"),
    ],
)
def test_a_damaged_buffer_is_refused_in_one_line(run: Path, damage: object, said: str) -> None:
    assert callable(damage)
    damage(run)
    with pytest.raises(CheckpointError, match=said) as caught:
        recording.saved_replay(run)
    assert "\n" not in str(caught.value)
