"""V-D4RL: every pixel, action, reward and end comes over; a wrong file is named in one line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curl.data import vd4rl
from curl.data.episode import Episode
from curl.data.layout import DatasetError
from support.datasets import assert_same_episodes
from support.vd4rl import LAYOUTS, write_folder, write_hdf5, write_npz

EDGE, ACTIONS = 8, 2
LENGTHS = [7, 1, 12, 3, 9]
ENDS = ["truncated", "terminated", "truncated", "", "truncated"]


def random_episode(seed: int, steps: int, ends: str = "truncated") -> Episode:
    generator = np.random.default_rng(seed)
    return Episode(
        generator.integers(256, size=(steps + 1, EDGE, EDGE, 3), dtype=np.uint8),
        generator.uniform(-1, 1, (steps, ACTIONS)).astype(np.float32),
        generator.normal(size=steps).astype(np.float32),
        terminated=ends == "terminated",
        truncated=ends == "truncated",
    )


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    kinds = enumerate(zip(LENGTHS, ENDS, strict=True))
    return [random_episode(number, steps, ends) for number, (steps, ends) in kinds]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_episodes_are_what_the_files_hold(
    layout: str, episodes: list[Episode], tmp_path: Path
) -> None:
    folder = tmp_path / "px"
    write_folder(folder, layout, episodes)
    source = vd4rl.find(folder)
    assert_same_episodes(list(source.episodes()), episodes)
    assert (source.edge, source.action_dim, len(source.spans)) == (EDGE, ACTIONS, 5)
    assert source.frames == sum(LENGTHS) + 5 and source.frame_bytes == source.frames * 3 * EDGE**2
    assert source.size == sum(path.stat().st_size for path in folder.iterdir())
    assert f"{folder}: 5 episodes, 32 transitions, 2 action components, 37 frames" in str(source)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_looking_through_a_folder_reads_no_frames(
    layout: str, episodes: list[Episode], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "px", layout, episodes)
    wanted: list[str] = []
    read = vd4rl._read

    def noted(path: Path, keys: Any, *rows: int) -> Any:
        wanted.extend(keys)
        return read(path, keys, *rows)

    monkeypatch.setattr(vd4rl, "_read", noted)
    found = vd4rl.find(tmp_path / "px").episodes()
    assert set(wanted) <= {"step_type"}
    next(found)
    assert wanted.count(vd4rl.FRAMES[layout]) == 1, "one episode at a time"


def test_files_are_taken_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (10, 9, 100, 1):
        write_hdf5(tmp_path / f"{number}.hdf5", [random_episode(number, 2)])
    found = list(vd4rl.find(tmp_path).episodes())
    assert_same_episodes(found, [random_episode(number, 2) for number in (1, 9, 10, 100)])


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_other_precisions_become_float32(kind: Any, tmp_path: Path) -> None:
    one = random_episode(0, 3)
    action = np.concatenate([np.zeros((1, ACTIONS)), one.actions]).astype(kind)
    reward = np.concatenate([[0], one.rewards]).astype(kind)
    write_npz(tmp_path / "a.npz", one, action=action, reward=reward, is_last=None)
    (found,) = vd4rl.find(tmp_path).episodes()
    assert np.array_equal(found.actions, action[1:].astype(np.float32))
    assert np.array_equal(found.rewards, reward[1:].astype(np.float32))
    assert found.truncated and not found.terminated


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def garbled_inside(path: Path) -> None:
    """The list of contents is sound, and what it leads to is not."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 3
    content[middle : middle + 40] = bytes(40)
    path.write_bytes(content)


def npz(**changes: Any) -> Callable[[Path], None]:
    return lambda path: write_npz(path, random_episode(5, 4), **changes)


def hdf5(**changes: Any) -> Callable[[Path], None]:
    return lambda path: write_hdf5(path, [random_episode(5, 2), random_episode(6, 1)], **changes)


def with_value(axes: int, row: int, value: float) -> np.ndarray:
    found = np.zeros((5, ACTIONS)[:axes], np.float32)
    found[row] = value
    return found


BOTH = {
    "half a file": (cut, "cannot be imported"),
    "an empty file": (lambda path: path.write_bytes(b""), "cannot be imported"),
    "text": (lambda path: path.write_text("no data"), "cannot be imported"),
    "no actions": ({"action": None}, "lacks action; it has "),
    "no rewards": ({"reward": None}, "lacks reward"),
    "no discount": ({"discount": None}, "lacks discount"),
    "flat actions": (
        {"action": np.zeros(5)},
        r"action must be numbers \[5, A\], got float64 \[5\]",
    ),
    "more actions": ({"action": np.zeros((5, 3))}, "actions 3 components, and not 8 and 2 as in"),
    "fewer rewards": ({"reward": np.zeros(4)}, r"reward must be numbers \[5\], got float64 \[4\]"),
    "words": ({"reward": np.array([b"x"] * 5)}, "reward must be numbers"),
    "a NaN": ({"reward": with_value(1, 1, np.nan)}, "rewards of an episode must be finite, in its"),
    "an infinite one": ({"reward": with_value(1, 1, np.inf)}, "must be finite, in its rows 0 to"),
    "large actions": ({"action": with_value(2, 1, 1.1)}, r"must lie in \[-1, 1\], in its rows 0"),
    "small actions": ({"action": with_value(2, 1, -1.1)}, r"must lie in \[-1, 1\]"),
    "an early end": ({"discount": 1 - with_value(1, 1, 1.0)}, "goes on after a discount of 0"),
}
ONE = {
    ".npz": {
        "no frames": ({"image": None}, "lacks image"),
        "other frames": ({"image": np.zeros((5, 9, 9, 3), np.uint8)}, "its frames have 9 pixels"),
        "oblong": ({"image": np.zeros((5, 8, 9, 3), np.uint8)}, "image must be uint8"),
        "grey": ({"image": np.zeros((5, 8, 8, 1), np.uint8)}, "image must be uint8"),
        "floats": ({"image": np.zeros((5, 8, 8, 3), np.float32)}, "image must be uint8"),
        "garbled inside": (garbled_inside, "cannot be imported"),
        "objects": ({"reward": np.array([None] * 5)}, "reward must be numbers"),
        "a short mark": ({"is_last": np.zeros(4, bool)}, "is_last must be numbers"),
    },
    ".hdf5": {
        "no frames": ({"observation": None}, "lacks observation"),
        "no steps": ({"step_type": None}, "lacks step_type"),
        "other frames": ({"observation": np.zeros((5, 3, 9, 9), np.uint8)}, "have 9 pixels"),
        "an odd step": ({"step_type": np.array([0, 1, 3, 0, 2])}, "step_type must be 0, 1 or 2"),
        "a late start": ({"step_type": np.array([1, 1, 2, 0, 2])}, "in the middle of an episode"),
        "a last step": ({"step_type": np.array([0, 2, 1, 0, 2])}, "2, and the episode goes on"),
        "one row": ({"step_type": np.array([0, 0, 1, 1, 2])}, "from row 0 on has no transition"),
        "one row at the end": ({"step_type": np.array([0, 1, 1, 1, 0])}, "row 4 on has no trans"),
    },
}
CASES = {
    f"{layout}: {name}": (layout, *case)
    for layout in LAYOUTS
    for name, case in (BOTH | ONE[layout]).items()
}


@pytest.mark.parametrize(("layout", "damage", "said"), CASES.values(), ids=CASES)
def test_a_wrong_file_is_refused_in_one_line_that_names_it(
    layout: str, damage: Any, said: str, tmp_path: Path
) -> None:
    write_folder(tmp_path / "px", layout, [random_episode(1, 3), random_episode(2, 4)])
    path = tmp_path / "px" / f"wrong{layout}"  # behind the others
    sound = npz if layout == ".npz" else hdf5
    if callable(damage):
        sound()(path)
        damage(path)
    else:
        sound(**damage)(path)
    with pytest.raises(DatasetError, match=said) as caught:
        list(vd4rl.find(tmp_path / "px").episodes())
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_of_no_layout_or_both_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="there is no folder"):
        vd4rl.find(tmp_path / "missing")
    with pytest.raises(DatasetError, match=r"holds neither \.npz episodes and \.hdf5"):
        vd4rl.find(tmp_path)
    write_folder(tmp_path / "84px", ".hdf5", [random_episode(1, 3)])
    with pytest.raises(DatasetError, match=r"did you mean .*84px"):
        vd4rl.find(tmp_path)
    write_npz(tmp_path / "84px" / "one.npz", random_episode(1, 3))
    with pytest.raises(DatasetError, match="84px holds both"):
        vd4rl.find(tmp_path / "84px")
