"""Datasets: what comes out of one is what went in, and what is damaged is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import minari
import numpy as np
import pytest
import torch
from minari.storage.datasets_root_dir import get_dataset_path

from curl import files
from curl.data import dataset as datasets
from curl.data import replay
from curl.data.batch import FrameStacks
from curl.data.dataset import Dataset
from curl.data.episode import Episode, episodes_of
from curl.data.layout import DatasetError, digests, local_names, place, require_free
from curl.data.replay import ReplayBuffer
from curl.data.writing import write
from support.datasets import ACTIONS, assert_same_episodes, episode, origin

EDGE = 8
NAME = "sound/test-v0"
LENGTHS = [7, 1, 12, 3, 9]
ENDS = ["truncated", "terminated", "terminated", "truncated", ""]


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Datasets of the test."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    return tmp_path / "datasets"


def some_episodes(edge: int = EDGE, skipped: int = 0) -> list[Episode]:
    firsts = [skipped, *[0] * len(LENGTHS)]
    kinds = enumerate(zip(LENGTHS, ENDS, firsts, strict=False))
    return [episode(i, n, edge, ends=end, skipped=first) for i, (n, end, first) in kinds]


@pytest.fixture
def made() -> Dataset:
    return write(NAME, some_episodes(), origin(EDGE))


# -- what goes in comes out ------------------------------------------------------------------------


def test_episodes_come_back_as_they_were(made: Dataset) -> None:
    found = datasets.read(NAME)
    assert_same_episodes(list(found.episodes()), some_episodes())
    assert found.origin == origin(EDGE) and found.lengths == LENGTHS
    assert (len(found), found.transitions) == (5, 32)
    assert found.size == sum(f.stat().st_size for f in (found.folder / "data").iterdir()) > 0


def test_frames_that_minari_would_compress_keep_every_pixel() -> None:
    noise = np.random.default_rng(0).integers(256, size=(4, 40, 40, 3), dtype=np.uint8)
    calm = np.zeros((3, ACTIONS), np.float32)
    one = Episode(noise, calm, np.zeros(3, np.float32), terminated=False, truncated=True)
    (found,) = write(NAME, [one], origin(40)).episodes()
    assert np.array_equal(found.frames, noise)


def test_minari_reads_what_was_written(made: Dataset) -> None:
    assert list(minari.list_local_datasets()) == [NAME] == local_names()
    found = minari.load_dataset(NAME)
    assert (found.total_episodes, found.total_steps) == (5, 32)
    for one, other in zip(found, some_episodes(), strict=True):
        assert np.array_equal(one.observations, other.frames)
        assert np.array_equal(one.actions, other.actions)
        assert np.array_equal(one.rewards, other.rewards)
        assert one.terminations.tolist() == [False] * (len(other) - 1) + [other.terminated]
        assert one.truncations.tolist() == [False] * (len(other) - 1) + [other.truncated]
        assert repr(one)


@pytest.mark.parametrize("chosen", ["somewhere", None])
def test_datasets_lie_where_minari_has_them(
    chosen: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MINARI_DATASETS_PATH")
    if chosen is not None:
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / chosen))
    here = place(NAME)
    assert not list(tmp_path.iterdir()), "looking for a dataset makes no folder"
    assert here == get_dataset_path(NAME)


def test_a_relative_place_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", "here")
    made = write(NAME, some_episodes(), origin(EDGE))
    assert made.folder == tmp_path / "here" / NAME and made.folder.is_dir()
    assert_same_episodes(list(made.episodes()), some_episodes())


# -- out of a replay buffer, and into one ----------------------------------------------------------


def shown(stacks: FrameStacks) -> list[list[tuple[int, int]]]:
    """For each stack the (episode, step) that its frames show, oldest first."""
    pixels = stacks.frames[stacks.indices].long()  # [B, S, H, W, 3]
    assert (pixels == pixels[:, :, :1, :1]).all()
    return [[(int(f[0]), int(f[1])) for f in stack] for stack in pixels[:, :, 0, 0]]


def transitions(buffer: ReplayBuffer) -> dict[tuple[int, int], Any]:
    """All that can be drawn: the (episode, step) of next_obs -> obs, action, reward and end."""
    numbers = torch.arange(buffer.first, buffer.last)
    after = buffer.arrivals[numbers % buffer.capacity]
    row = after % buffer.rows
    before, behind = shown(buffer.stacks(after - 1)), shown(buffer.stacks(after))
    values = zip(
        before,
        behind,
        buffer.action[row].tolist(),
        buffer.reward[row].tolist(),
        buffer.terminated[row].tolist(),
        strict=True,
    )
    return {each[1][-1]: each for each in values}


def filled(lengths: list[int], ends: list[str], capacity: int, stack: int) -> ReplayBuffer:
    buffer = ReplayBuffer(capacity=capacity, frame_size=EDGE, action_dim=ACTIONS, frame_stack=stack)
    for number, (steps, end) in enumerate(zip(lengths, ends, strict=True)):
        one = episode(number, max(steps, 1), EDGE, ends=end)
        buffer.begin(one.frames[0])
        for i in range(steps):
            over = one.terminated and i == steps - 1
            buffer.add(one.actions[i], float(one.rewards[i]), over, one.frames[i + 1])
    return buffer


@pytest.mark.parametrize("stack", [1, 2, 3, 4])
@pytest.mark.parametrize("capacity", [3, 8, 12, 13, 17, 20, 28, 40])
@pytest.mark.parametrize("last", [0, 1, 9])
def test_a_replay_buffer_survives_the_round_trip(stack: int, capacity: int, last: int) -> None:
    """Frames, actions, rewards, ends and episode starts, also where the ring has wrapped.

    The ring begins in the middle of an episode then. The rebuilt one draws what the ring drew. At
    the beginning of an episode the ring may hold some older transitions that it no longer draws,
    and these are drawn again.
    """
    lengths, ends = [*LENGTHS[:4], last], ENDS
    source = filled(lengths, ends, capacity, stack)
    facts = origin(EDGE, frame_stack=stack)
    found = list(episodes_of(source, over=False))
    loaded = write(NAME, found, facts).replay()
    wanted, held = transitions(source), transitions(loaded)
    assert len(wanted) == len(source) == min(capacity, sum(lengths))
    assert wanted.items() <= held.items()
    history = transitions(filled(lengths, ends, 1000, stack))
    extra = held.keys() - wanted.keys()
    assert len(extra) < stack and all(held[key] == history[key] for key in extra)
    again = list(episodes_of(loaded, over=False))
    for one, other in zip(again, found, strict=True):
        assert np.array_equal(one.frames, other.frames)
        assert np.array_equal(one.actions, other.actions)
        assert np.array_equal(one.rewards, other.rewards)
        assert (one.terminated, one.skipped) == (other.terminated, other.skipped)
        assert one.truncated == other.truncated or (one is again[-1] and not last)


def test_ends_are_those_of_the_run() -> None:
    """Episodes that were not terminated were truncated, but the one that was going on."""
    source = filled(LENGTHS, ENDS, 100, 3)
    for over, last in ((False, (False, False)), (True, (False, True))):
        found = list(episodes_of(source, over=over))
        ends = [(one.terminated, one.truncated) for one in found]
        assert ends == [(False, True), (True, False), (True, False), (False, True), last]
        assert all(one.seed is None and not one.skipped for one in found)
        assert [one.whole for one in found] == [True] * 4 + [over]
    assert list(episodes_of(filled([], [], 5, 3), over=True)) == []


@pytest.mark.parametrize("skipped", [0, 5])
@pytest.mark.parametrize("stack", [1, 2, 3])
def test_batches_are_what_the_episodes_say(stack: int, skipped: int) -> None:
    """Stacks and what comes later, also across the ends of episodes, against plain lists."""
    episodes = some_episodes(skipped=skipped)
    write(NAME, episodes, origin(EDGE))
    buffer = datasets.read(NAME).replay(frame_stack=stack)
    offsets = (1, 2, 3, 5)
    batch = buffer.sample(3000, torch.Generator().manual_seed(0), offsets)
    seen = set()
    for row, (obs, behind) in enumerate(zip(shown(batch.obs), shown(batch.next_obs), strict=True)):
        number, step = behind[-1]
        one, at = episodes[number], step - episodes[number].skipped  # frames[at] is next_obs
        seen.add((number, step))

        def stack_at(at: int, one: Episode = one) -> list[tuple[int, int]]:
            places = [max(i, 0) for i in range(at - stack + 1, at + 1)]
            return [(int(x), int(y)) for x, y in one.frames[places, 0, 0, :2]]

        assert obs == stack_at(at - 1) and behind == stack_at(at)
        if one.skipped:
            assert at >= stack, "a stack would reach back before the first known frame"
        assert batch.action[row].tolist() == one.actions[at - 1].tolist()
        assert batch.reward[row].item() == one.rewards[at - 1]
        assert batch.terminated[row].item() == (one.terminated and at == len(one))
        for offset in offsets:
            later, place = batch.future[offset], min(at - 1 + offset, len(one))
            assert shown(later.obs[row : row + 1])[0] == stack_at(place)
            reached = at - 1 + offset <= len(one)
            assert later.valid[row].item() == reached
            if reached:
                assert later.action[row].tolist() == one.actions[place - 1].tolist()
                assert later.reward[row].item() == one.rewards[place - 1]
                assert later.terminated[row].item() == (one.terminated and place == len(one))
    lost = min(stack - 1, LENGTHS[0]) if skipped else 0
    assert len(seen) == len(buffer) == sum(LENGTHS) - lost


def test_a_loaded_buffer_takes_more_transitions(made: Dataset) -> None:
    buffer = made.replay(capacity=40)
    before = transitions(buffer)
    more = episode(9, 20, EDGE)
    buffer.begin(more.frames[0])
    for i in range(8):
        buffer.add(more.actions[i], float(more.rewards[i]), False, more.frames[i + 1])
    assert len(buffer) == 40 and before.items() <= transitions(buffer).items()
    for i in range(8, 20):
        buffer.add(more.actions[i], float(more.rewards[i]), False, more.frames[i + 1])
    held = transitions(buffer)
    assert len(buffer) == len(held) == 40
    assert all(held[9, step][3] == [more.rewards[step - 1]] for step in range(1, 21))


@pytest.mark.parametrize("skipped", [0, 5])
@pytest.mark.parametrize("count", [1, 2, len(LENGTHS)])
def test_the_first_episodes_alone_fill_a_buffer(count: int, skipped: int) -> None:
    """It is the buffer of a dataset that has these episodes and no others."""
    episodes = some_episodes(skipped=skipped)
    made = write(NAME, episodes, origin(EDGE))
    fewer = write("sound/fewer-v0", episodes[:count], origin(EDGE))
    assert_same_episodes(list(made.episodes(count)), episodes[:count])
    buffer, wanted = made.replay(episodes=count), fewer.replay()
    assert transitions(buffer) == transitions(wanted) and buffer.counters() == wanted.counters()
    assert len(made.replay(episodes=count, capacity=40)) == len(buffer)


@pytest.mark.parametrize(
    ("count", "said"), [(6, "has 5 episodes, and 6 are wanted"), (0, "episodes"), (1.5, "episodes")]
)
def test_more_episodes_than_there_are_are_refused(made: Dataset, count: Any, said: str) -> None:
    for use in (lambda: list(made.episodes(count)), lambda: made.replay(episodes=count)):
        with pytest.raises(ValueError, match=said) as caught:
            use()
        assert "\n" not in str(caught.value)


def test_sizes_are_told_before_anything_is_allocated(
    made: Dataset, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(replay, "free_bytes", lambda device: 0)
    monkeypatch.setattr(ReplayBuffer, "_columns", lambda *_: pytest.fail("was allocated"))
    with caplog.at_level("INFO", "curl"), pytest.raises(MemoryError, match="GB are free"):
        made.replay()
    assert "dataset sound/test-v0: 5 episodes, 32 transitions, 0.00 GB on the disk" in caplog.text


# -- frames in a mapped file -----------------------------------------------------------------------


def files_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {p.name: (p.read_bytes(), p.stat().st_ino) for p in (folder / "cache").iterdir()}


def assert_same_batches(one: ReplayBuffer, other: ReplayBuffer) -> None:
    assert len(one) == len(other)
    corner = torch.arange(16) % 3
    for seed in range(3):
        batches = [
            each.sample(16, torch.Generator().manual_seed(seed), (1, 3)) for each in (one, other)
        ]
        for read in (
            lambda b: b.obs.whole(),
            lambda b: b.next_obs.window(corner, corner.flip(0), 5),
            lambda b: b.future[3].obs.whole(),
            lambda b: b.future[1].valid,
            lambda b: b.action,
            lambda b: b.reward,
            lambda b: b.terminated,
        ):
            assert torch.equal(read(batches[0]), read(batches[1]))


@pytest.mark.parametrize("count", [1, 3, None])
@pytest.mark.parametrize("skipped", [0, 5, 37, 100])
@pytest.mark.parametrize("stack", [1, 3])
def test_mapped_frames_give_the_same_batches(stack: int, skipped: int, count: int | None) -> None:
    made = write(NAME, some_episodes(skipped=skipped), origin(EDGE))
    wanted = made.replay(episodes=count, frame_stack=stack, mapped=False)
    assert not (made.folder / "cache").exists()
    found = made.replay(episodes=count, frame_stack=stack, mapped=True)
    assert_same_batches(found, wanted)
    assert transitions(found) == transitions(wanted)
    size = (made.transitions + len(made)) * 3 * EDGE**2
    assert (made.folder / "cache" / "frames.uint8").stat().st_size == size
    again = [list(episodes_of(each, over=False)) for each in (found, wanted)]
    assert_same_episodes(*again)


def test_what_exceeds_memory_is_mapped(
    made: Dataset, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = made.replay()
    monkeypatch.setattr(replay, "free_bytes", lambda device: 3000)  # not enough for the frames
    with caplog.at_level("INFO", "curl"):
        found = made.replay(target=torch.device("cpu"))
    assert_same_batches(found, wanted)
    path = made.folder / "cache" / "frames.uint8"
    lines = [line for line in caplog.messages if "mapped" in line]
    told = "dataset sound/test-v0: its 0.00 GB of frames are mapped from"
    assert lines == [f"{told} {path}, which has been written"]
    for more in ({"mapped": False}, {"capacity": 40}):
        with pytest.raises(MemoryError, match="GB are free"):
            made.replay(**more)


def test_a_mapped_buffer_takes_no_transitions(made: Dataset) -> None:
    buffer = made.replay(mapped=True)
    before, one = files_of(made.folder), episode(9, 3, EDGE)
    for add in (
        lambda: buffer.begin(one.frames[0]),
        lambda: buffer.add(one.actions[0], 1.0, False, one.frames[1]),
    ):
        with pytest.raises(ValueError, match="mapped dataset, and takes no others"):
            add()
    with pytest.raises(ValueError, match="leave capacity out"):
        made.replay(mapped=True, capacity=40)
    assert files_of(made.folder) == before


def test_mapped_frames_are_written_once(made: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    wanted = made.replay(mapped=True)
    before = files_of(made.folder)
    with caplog.at_level("INFO", "curl"):
        for count in (None, 2):
            datasets.read(NAME).replay(mapped=True, episodes=count)
    assert files_of(made.folder) == before and caplog.text.count("was there already") == 2
    assert_same_batches(datasets.read(NAME).replay(mapped=True), wanted)
    assert list(minari.list_local_datasets()) == [NAME] == local_names()
    assert minari.load_dataset(NAME).total_episodes == 5
    assert datasets.read(NAME).size == made.size


def flipped(cache: Path) -> None:
    content = bytearray((cache / "frames.uint8").read_bytes())
    content[100] ^= 1
    (cache / "frames.uint8").write_bytes(content)


def killed(cache: Path) -> None:
    """As by a process that was killed while it wrote."""
    (cache / "frames.uint8").rename(cache / "frames.uint8.aside")


def relabelled(key: str, value: Any) -> Callable[[Path], None]:
    def damage(cache: Path) -> None:
        label = json.loads((cache / "frames.json").read_text())
        (cache / "frames.json").write_text(json.dumps(label | {key: value}))

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        flipped,
        lambda cache: (cache / "frames.uint8").write_bytes(b""),
        lambda cache: (cache / "frames.uint8").unlink(),
        lambda cache: (cache / "frames.json").unlink(),
        lambda cache: (cache / "frames.json").write_text("[]"),
        lambda cache: (cache / "frames.json").write_text("{"),
        relabelled("made_of", {"main_data.hdf5": "0" * 64}),
        relabelled("sha256", "0" * 64),
        killed,
    ],
)
def test_a_stale_or_damaged_file_of_frames_is_written_anew(made: Dataset, damage: Any) -> None:
    made.replay(mapped=True)
    wanted, sound = made.replay(mapped=False), files_of(made.folder)
    damage(made.folder / "cache")  # in place, so no buffer may show the file any more
    found = datasets.read(NAME).replay(mapped=True)
    assert_same_batches(found, wanted)
    now = files_of(made.folder)
    assert {name: content for name, (content, _) in now.items()} == {
        name: content for name, (content, _) in sound.items()
    }


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("the disk is full")])
def test_an_interrupted_write_of_frames_leaves_nothing(
    made: Dataset, monkeypatch: pytest.MonkeyPatch, error: Any
) -> None:
    read = made.episodes

    def failing(first: int | None = None) -> Iterator[Episode]:
        for number, one in enumerate(read(first)):
            if number == 3:
                raise error
            yield one

    monkeypatch.setattr(made, "episodes", failing)
    with pytest.raises((KeyboardInterrupt, DatasetError)) as caught:
        made.replay(mapped=True)
    assert isinstance(error, type) or "cannot be mapped: the disk is full" in str(caught.value)
    assert not list((made.folder / "cache").iterdir())


def test_a_disk_without_room_for_the_frames_is_refused(
    made: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(DatasetError, match=r"cannot be mapped: .* needs 0.00 GB on the disk of"):
        made.replay(mapped=True)
    assert not list((made.folder / "cache").iterdir())


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x",
        "expert",
        "expert-v",
        "a/expert-v0",
        "../expert-v0",
        "/expert-v0",
        "e x-v0",
        "aa//expert-v0",
        "expert-v0/",
        "expert-v0\n",
        "hf://aa/expert-v0",
        "expert-v-1",
    ],
)
def test_what_is_no_name_is_refused(name: str, root: Path) -> None:
    for use in (datasets.read, require_free):
        with pytest.raises(DatasetError, match="is no name of a dataset: names are like"):
            use(name)
    assert not root.exists()


def test_a_missing_dataset_is_refused(made: Dataset) -> None:
    with pytest.raises(DatasetError, match=r"no dataset sound/tset-v0 .* did you mean sound/test-"):
        datasets.read("sound/tset-v0")


def test_a_dataset_is_not_overwritten(made: Dataset, root: Path) -> None:
    before = sorted(root.rglob("*"))
    with pytest.raises(DatasetError, match="the dataset sound/test-v0 exists already"):
        write(NAME, [], origin(EDGE))
    assert sorted(root.rglob("*")) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("full"), ArithmeticError("joint")])
def test_a_recording_that_fails_leaves_nothing(root: Path, error: Any) -> None:
    def failing() -> Iterator[Episode]:
        yield from some_episodes()
        raise error

    with pytest.raises(error if isinstance(error, type) else type(error)):
        write(NAME, failing(), origin(EDGE))
    assert not list(root.rglob("*"))


@pytest.mark.parametrize(
    ("episodes", "said"),
    [
        ([], "there is no episode to write"),
        ([episode(0, 3, EDGE), episode(1, 3, EDGE + 1)], "frames of 9 pixels"),
    ],
)
def test_what_cannot_be_written_is_refused(episodes: Any, said: str, root: Path) -> None:
    with pytest.raises(ValueError, match=said):
        write(NAME, episodes, origin(EDGE))
    assert not list(root.rglob("*"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"frames": np.zeros((4, EDGE, EDGE, 3), np.uint8)}, "frames of an episode of 2"),
        ({"frames": np.zeros((3, EDGE, EDGE + 1, 3), np.uint8)}, "frames of an episode"),
        ({"frames": np.zeros((3, 3, EDGE, EDGE), np.uint8)}, "frames of an episode"),
        ({"frames": np.zeros((3, EDGE, EDGE, 3), np.float32)}, "frames of an episode"),
        ({"actions": np.zeros((2, 2), np.float64)}, "the actions of an episode .* float32"),
        ({"actions": np.zeros(2, np.float32)}, "the actions of an episode"),
        ({"actions": np.full((2, 2), 1.5, np.float32)}, r"must lie in \[-1, 1\]"),
        ({"actions": np.full((2, 2), np.nan, np.float32)}, r"must lie in \[-1, 1\]"),
        ({"rewards": np.full(2, np.inf, np.float32)}, "rewards of an episode must be finite"),
        ({"rewards": np.zeros((2, 1), np.float32)}, "the rewards of an episode"),
        ({"rewards": np.zeros(0, np.float32)}, "at least one transition"),
    ],
)
def test_what_is_no_episode_is_refused(change: dict[str, Any], said: str) -> None:
    content = {
        "frames": np.zeros((3, EDGE, EDGE, 3), np.uint8),
        "actions": np.zeros((2, 2), np.float32),
        "rewards": np.zeros(2, np.float32),
        "terminated": False,
        "truncated": True,
    }
    Episode(**content)
    with pytest.raises(ValueError, match=said):
        Episode(**content | change)


def test_a_dataset_of_other_sizes_is_refused(made: Dataset) -> None:
    made.require(render_size=EDGE, action_dim=ACTIONS, action_repeat=1)
    with pytest.raises(DatasetError, match="sound/test-v0 has render_size=8, and not 84"):
        made.require(render_size=84)
    with pytest.raises(ValueError, match=r"32 transitions of .*capacity=31 would not hold them"):
        made.replay(capacity=31)


def metadata(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def damage(data: Path) -> None:
        content = json.loads((data / "metadata.json").read_text())
        change(content)
        (data / "metadata.json").write_text(json.dumps(content))

    return damage


def content(change: Callable[[Any], Any], *, known: bool = True) -> Callable[[Path], None]:
    """Change what the HDF5 file holds; `known`: and its checksum with it."""

    def damage(data: Path) -> None:
        with h5py.File(data / "main_data.hdf5", "a") as file:
            change(file)
        if known:
            metadata(lambda m: m["curl"].update(files=digests(data)))(data)

    return damage


def replaced(column: str, values: Any) -> Callable[[Any], None]:
    def change(file: Any) -> None:
        del file["episode_2"][column]
        file["episode_2"][column] = values

    return change


def test_a_dataset_of_an_older_version_is_read(made: Dataset) -> None:
    """Nothing could be imported or joined then."""
    metadata(lambda m: [m["curl"].pop(key) for key in ("imported", "parts")])(made.folder / "data")
    found = datasets.read(NAME)
    assert found.origin == made.origin and len(found.replay()) == 32


def cut(data: Path) -> None:
    path = data / "main_data.hdf5"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no metadata": (lambda data: (data / "metadata.json").unlink(), "metadata.json"),
    "garbled metadata": (lambda data: (data / "metadata.json").write_text("{"), "Expecting"),
    "no object": (lambda data: (data / "metadata.json").write_text("[]"), "not recorded by this"),
    "another program's": (metadata(lambda m: m.pop("curl")), "was not recorded by this program"),
    "no size": (metadata(lambda m: m["curl"].pop("render_size")), "curl.render_size"),
    "wrong size": (metadata(lambda m: m["curl"].update(render_size=9)), "observation space is Box"),
    "wrong type": (metadata(lambda m: m["curl"].update(frame_stack="3")), "curl.frame_stack"),
    "wrong actions": (metadata(lambda m: m["curl"].update(action_dim=3)), "action space is Box"),
    "no spaces": (metadata(lambda m: m.pop("action_space")), "what its frames and actions are"),
    "garbled space": (metadata(lambda m: m.update(action_space="{}")), "cannot be read"),
    "other format": (metadata(lambda m: m.update(data_format="csv")), "csv"),
    "too many episodes": (metadata(lambda m: m.update(total_episodes=6)), "episode_5"),
    "too few episodes": (metadata(lambda m: m.update(total_episodes=4)), "lengths of its episodes"),
    "no episodes": (metadata(lambda m: m.update(total_episodes=0)), "lengths of its episodes"),
    "no file": (lambda data: (data / "main_data.hdf5").unlink(), "No data found"),
    "half a file": (cut, "truncated file"),
    "no HDF5": (lambda data: (data / "main_data.hdf5").write_bytes(b"garbled"), "cannot be read"),
    "another length": (
        content(lambda file: file["episode_1"].attrs.update(total_steps=2)),
        "lengths of its episodes",
    ),
    "a late beginning": (
        content(lambda file: file["episode_1"].attrs.update(skipped_steps=2)),
        "only its first episode may lack its beginning",
    ),
    "a changed pixel": (
        content(
            lambda file: file["episode_1/observations"].write_direct(
                np.ones((2, EDGE, EDGE, 3), np.uint8)
            ),
            known=False,
        ),
        "damaged, or were changed",
    ),
    "no rewards": (content(lambda file: file["episode_2"].pop("rewards")), "rewards"),
    "other frames": (
        content(replaced("observations", np.zeros((13, 3, EDGE, EDGE), np.uint8))),
        r"frames of an episode of 12",
    ),
    "larger frames": (
        content(replaced("observations", np.zeros((13, 9, 9, 3), np.uint8))),
        r"frames of 9 pixels",
    ),
    "a missing reward": (content(replaced("rewards", np.zeros(11, np.float32))), "11"),
    "an early end": (
        content(replaced("terminations", np.ones(12, bool))),
        "terminations of one of its episodes",
    ),
    "large actions": (
        content(replaced("actions", np.full((12, ACTIONS), 2, np.float32))),
        r"must lie in \[-1, 1\]",
    ),
}


@pytest.mark.parametrize(("damage", "said"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_dataset_is_refused_in_one_line(made: Dataset, damage: Any, said: str) -> None:
    damage(made.folder / "data")
    with pytest.raises(DatasetError, match=said) as caught:
        datasets.read(NAME).replay()
    assert NAME in str(caught.value) and "\n" not in str(caught.value)
