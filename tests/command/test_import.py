"""`python -m curl import` and `join`: what was there is in the new dataset, or there is none."""

from __future__ import annotations

import itertools
import os
import signal
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from curl import files
from curl.data import dataset as datasets
from curl.data import vd4rl
from curl.data.dataset import Dataset
from curl.data.episode import Episode
from curl.data.layout import local_names
from curl.data.replay import ReplayBuffer
from curl.data.writing import write
from support.datasets import ACTIONS, episode, origin
from support.typed import Typed
from support.vd4rl import LAYOUTS, write_folder

NAME = "walker_walk/vd4rl_expert-v0"
EDGE = 8
TASK = ["--dataset", NAME, "--task", "walker_walk"]


@pytest.fixture(autouse=True)
def root(recordings: Path) -> Path:
    """Datasets of the test."""
    return recordings


@pytest.fixture
def typed(commanded: Typed) -> Typed:
    """Runs `python -m curl ARGUMENTS` in this process; its code, stdout and stderr."""
    return commanded


def some_episodes() -> list[Episode]:
    ends = ["truncated", "terminated", "truncated", "truncated", ""]
    kinds = enumerate(zip([7, 1, 12, 3, 9], ends, strict=True))
    return [episode(number, steps, EDGE, ends=end) for number, (steps, end) in kinds]


def assert_replayed(buffer: ReplayBuffer, episodes: list[Episode]) -> None:
    """What the buffer draws are the transitions of the episodes, and no others."""
    numbers = torch.arange(buffer.first, buffer.last)
    after = buffer.arrivals[numbers % buffer.capacity]
    row = after % buffer.rows
    before, behind = buffer.stacks(after - 1), buffer.stacks(after)
    wanted = [(one, at) for one in episodes for at in range(1, len(one) + 1)]
    assert len(wanted) == len(buffer)
    for i, (one, at) in enumerate(wanted):
        for stacks, newest in ((before, at - 1), (behind, at)):
            places = [max(0, newest - back) for back in (2, 1, 0)]
            assert np.array_equal(stacks.frames[stacks.indices[i]].numpy(), one.frames[places])
        assert np.array_equal(buffer.action[row][i].numpy(), one.actions[at - 1])
        assert buffer.reward[row][i].item() == one.rewards[at - 1]
        assert buffer.terminated[row][i].item() == (one.terminated and at == len(one))


# -- importing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_becomes_a_dataset(layout: str, typed: Typed, tmp_path: Path, root: Path) -> None:
    write_folder(tmp_path / "px", layout, some_episodes())
    code, printed, said = typed("import", "px", *TASK)
    assert code == 0
    assert said.startswith(
        "INFO     px: 5 episodes, 32 transitions, 2 action components, 37 frames"
    )
    assert printed.startswith(f"{NAME}: 5 episodes, 32 transitions, ")
    assert printed.splitlines()[1] == str(root / NAME)
    found = datasets.read(NAME)
    assert_replayed(found.replay(), some_episodes())
    ends = [(one.terminated, one.truncated) for one in found.episodes()]
    assert ends == [(one.terminated, one.truncated) for one in some_episodes()]
    made = found.origin
    assert (made.environment, made.action_repeat) == ("dm_control/walker-walk-v0", 2)
    assert (made.render_size, made.frame_stack, made.action_dim) == (EDGE, 3, ACTIONS)
    assert (made.policy, made.seed, made.checkpoint, made.env_steps) == ("imported", *[None] * 3)
    assert made.imported == str(tmp_path / "px") and made.task["name"] == "walker_walk"
    code, printed, _ = typed("dataset", NAME)
    assert code == 0 and str(tmp_path / "px") in printed and "checkpoint" not in printed


def test_the_action_repeat_is_that_of_the_data(typed: Typed, tmp_path: Path) -> None:
    """V-D4RL repeats twice where the paper repeats four times."""
    write_folder(tmp_path / "px", ".npz", some_episodes())
    for number, (option, repeat) in enumerate([([], 2), (["--action-repeat", 4], 4)]):
        name = f"cheetah_run/expert-v{number}"
        code, *_ = typed("import", "px", "--dataset", name, "--task", "cheetah_run", *option)
        found = datasets.read(name).origin
        assert (code, found.action_repeat, found.task["action_repeat"]) == (0, repeat, repeat)


def refused(result: tuple[int, str, str]) -> str:
    """The one line of a refusal."""
    code, printed, said = result
    lines = [line for line in said.splitlines() if not line.startswith("INFO ")]
    assert (code, printed, len(lines)) == (2, "", 1)
    return lines[0]


def test_what_is_refused_leaves_nothing(
    typed: Typed, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "px", ".npz", some_episodes())
    cases: list[tuple[list[Any], str]] = [
        (["missing", *TASK], "there is no folder missing"),
        (["px", *TASK, "--action-repeat", 0], "--action-repeat must be an integer >= 1, got 0"),
        (["px", "--dataset", "x", "--task", "walker_walk"], "'x' is no name of a dataset"),
        (["px", "--dataset", NAME, "--task", "walker_wlak"], "did you mean 'walker_walk'"),
    ]
    for arguments, line in cases:
        assert line in refused(typed("import", *arguments))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: usage(10, 10, 7000))
    line = refused(typed("import", "px", *TASK))
    assert f"the dataset {NAME} needs 0.00 GB on the disk of " in line
    monkeypatch.undo()
    assert not root.exists()


def test_a_damaged_file_behind_sound_ones_leaves_nothing(
    typed: Typed, tmp_path: Path, root: Path
) -> None:
    write_folder(tmp_path / "px", ".hdf5", some_episodes())
    last = tmp_path / "px" / "2.hdf5"
    with vd4rl.refusing(last):
        import h5py

        with h5py.File(last, "a") as file:
            file["reward"][3] = np.nan
    line = refused(typed("import", "px", *TASK))
    assert line.startswith("error: px/2.hdf5 cannot be imported: the rewards of an episode must be")
    assert not [path for path in root.rglob("*") if path.is_file()] and not list(root.glob(".*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_an_import_that_leaves_nothing(
    typed: Typed, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    write_folder(tmp_path / "px", ".npz", some_episodes())
    read, counted = vd4rl._episode, itertools.count()

    def slowly(span: Any) -> Episode:
        if next(counted) == 2:
            os.kill(os.getpid(), number)
        return read(span)

    monkeypatch.setattr(vd4rl, "_episode", slowly)
    code, printed, said = typed("import", "px", *TASK)
    assert (code, printed) == (128 + number, "")
    assert said.endswith("stopping; no dataset is written; a second signal stops at once\n")
    assert not [path for path in root.rglob("*") if path.is_file()] and not list(root.glob(".*"))


# -- joining ---------------------------------------------------------------------------------------

MEDIUM, EXPERT, BOTH = "sound/medium-v0", "sound/expert-v0", "sound/medium_expert-v0"


def part(name: str, numbers: range, skipped: int = 0, edge: int = EDGE, **facts: Any) -> Dataset:
    firsts = [skipped, *[0] * len(numbers)]
    content = [
        episode(number, 5, edge, ends="truncated", skipped=first)
        for number, first in zip(numbers, firsts, strict=False)
    ]
    return write(name, content, origin(edge, **facts))


def test_joined_datasets_hold_all_episodes_in_order(typed: Typed, root: Path) -> None:
    parts = [part(MEDIUM, range(3), policy="sample"), part(EXPERT, range(10, 12), seed=9)]
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    code, printed, said = typed("join", MEDIUM, EXPERT, "--dataset", BOTH)
    assert (code, said) == (0, "")
    assert printed.startswith(f"{BOTH}: 5 episodes, 25 transitions, ")
    found = datasets.read(BOTH)
    wanted = [*parts[0].episodes(), *parts[1].episodes()]
    assert_replayed(found.replay(), wanted)
    assert [one.seed for one in found.episodes()] == [0, 1, 2, 10, 11]
    assert found.origin.parts == [one.origin for one in parts]
    assert (found.origin.policy, found.origin.checkpoint) == ("joined", None)
    assert found.origin.environment == "Sound-v0" and found.origin.frame_stack == 3
    assert all(path.read_bytes() == content for path, content in before.items())
    code, printed, _ = typed("dataset", BOTH)
    assert code == 0 and printed.count("runs/sound/checkpoints/state-5.pt, 5 env steps") == 2


def test_a_joined_dataset_can_be_joined_again(typed: Typed) -> None:
    for name, first in ((MEDIUM, 0), (EXPERT, 10), ("sound/random-v0", 20)):
        part(name, range(first, first + 2))
    assert typed("join", MEDIUM, EXPERT, "--dataset", BOTH)[0] == 0
    assert typed("join", BOTH, "sound/random-v0", "--dataset", "sound/all-v0")[0] == 0
    found = datasets.read("sound/all-v0")
    assert [one.seed for one in found.episodes()] == [0, 1, 10, 11, 20, 21]
    assert found.origin.parts[0] == datasets.read(BOTH).origin


@pytest.mark.parametrize(("order", "count"), [((MEDIUM, EXPERT), 5), ((EXPERT, MEDIUM), 4)])
def test_an_episode_without_its_beginning_is_kept_in_front_alone(
    typed: Typed, order: tuple[str, str], count: int
) -> None:
    part(MEDIUM, range(3), skipped=7)
    part(EXPERT, range(10, 12))
    code, _, said = typed("join", *order, "--dataset", BOTH)
    assert code == 0 and len(datasets.read(BOTH)) == count
    left_out = f"the first episode of {MEDIUM} lacks its beginning and is left out: 5 transitions"
    assert (left_out in said) == (count == 4)


DIFFERENT: dict[str, Any] = {
    "environment": "Other-v0",
    "action_repeat": 4,
    "frame size": {"edge": 9},
    "task.camera": {"task": {"name": "sound", "camera": 1}},
    "task.kwargs": {"task": {"name": "sound", "kwargs": {"a": 1}}},
    "task.max_episode_steps": {"task": {"name": "sound", "max_episode_steps": 7}},
}


@pytest.mark.parametrize("key", DIFFERENT)
def test_different_datasets_are_not_joined(key: str, typed: Typed, root: Path) -> None:
    part(MEDIUM, range(2))
    facts = DIFFERENT[key] if isinstance(DIFFERENT[key], dict) else {key: DIFFERENT[key]}
    part(EXPERT, range(2), **facts)
    line = refused(typed("join", MEDIUM, EXPERT, "--dataset", BOTH))
    named = "render_size" if key == "frame size" else key
    assert f"datasets that differ in {named} cannot be joined: it is " in line
    assert local_names() == [EXPERT, MEDIUM]


def test_other_refusals_of_a_join(typed: Typed) -> None:
    made = part(MEDIUM, range(2))
    cases = {
        (MEDIUM, "--dataset", BOTH): "at least two datasets are joined",
        (MEDIUM, EXPERT, "--dataset", BOTH): f"there is no dataset {EXPERT}",
        (MEDIUM, MEDIUM, "--dataset", MEDIUM): f"the dataset {MEDIUM} exists already",
    }
    for arguments, line in cases.items():
        assert line in refused(typed("join", *arguments))
    part(EXPERT, range(2))
    path = made.folder / "data" / "main_data.hdf5"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    line = refused(typed("join", EXPERT, MEDIUM, "--dataset", BOTH))
    assert f"the dataset {MEDIUM} cannot be read: its files are damaged" in line
    assert local_names() == [EXPERT, MEDIUM]


def test_actions_of_another_size_are_not_joined(typed: Typed) -> None:
    part(MEDIUM, range(2))
    calm = np.zeros((3, 4), np.float32)
    one = Episode(
        np.zeros((4, EDGE, EDGE, 3), np.uint8), calm, calm[:, 0], terminated=False, truncated=True
    )
    write(EXPERT, [one], origin(EDGE, action_dim=4))
    line = refused(typed("join", MEDIUM, EXPERT, "--dataset", BOTH))
    assert "differ in action_dim cannot be joined: it is 2 in sound/medium-v0, and 4 in" in line
