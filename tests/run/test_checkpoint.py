"""Checkpoints: complete or absent, and a damaged one is never taken for a sound one."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import pickle
import shutil
import stat
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curl.run import checkpoint
from curl.run.checkpoint import CheckpointError, Checkpoints, load_file, save_file

WEIGHTS = torch.linspace(1, 2, 32)

fuzz = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def state(number: int = 0) -> dict[str, Any]:
    return {
        "agent": {"weight": WEIGHTS + number},
        "config": {"seed": number},
        "counters": {"agent_steps": number},
    }


def export(first: int, last: int) -> dict[str, Any]:
    return {"first": first, "frames": torch.arange(first, last)}


def save(checkpoints: Checkpoints, env_steps: int, frames: tuple[int, int] | None = None) -> Path:
    return checkpoints.save(env_steps, state(env_steps), frames=frames, export=export)


def found(folder: Path) -> tuple[int, list[int]] | None:
    """Env steps of the checkpoint that a new process loads, and the frames it comes with."""
    loaded = Checkpoints(folder).load()
    if loaded is None:
        return None
    content, segments = loaded
    steps = content["config"]["seed"]
    assert content["agent"].keys() == {"weight"}
    assert torch.equal(content["agent"]["weight"], WEIGHTS + steps)
    assert content["counters"] == {"agent_steps": steps}
    frames = [s["frames"] for s in segments]
    return steps, torch.cat(frames).tolist() if frames else []


def names(folder: Path) -> set[str]:
    return {path.name for path in (folder / "checkpoints").iterdir()}


def flip(path: Path, position: int, mask: int = 0xFF) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= mask
    path.write_bytes(content)


# -- saving and loading ----------------------------------------------------------------------------


def test_the_newest_checkpoint_comes_back_with_its_frames(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 10, (0, 4))
    save(checkpoints, 20, (0, 7))
    assert found(tmp_path) == (20, list(range(7)))


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path).load() is None


def test_frames_are_written_once(tmp_path: Path) -> None:
    """Each checkpoint writes what the ones before it did not, also after a resumption."""
    asked: list[tuple[int, int]] = []

    def watched(first: int, last: int) -> dict[str, Any]:
        asked.append((first, last))
        return export(first, last)

    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(10, state(10), frames=(0, 4), export=watched)
    checkpoints.save(20, state(20), frames=(0, 7), export=watched)
    checkpoints.save(20, state(20), frames=(0, 7), export=watched)
    resumed = Checkpoints(tmp_path)
    resumed.load()
    resumed.save(30, state(30), frames=(2, 9), export=watched)
    resumed.save(40, state(40), frames=(20, 22), export=watched)
    assert asked == [(0, 4), (4, 7), (7, 9), (20, 22)]
    assert found(tmp_path) == (40, [20, 21])


def test_frame_files_are_read_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole replay buffer, beside the one it goes into, would need its memory twice."""
    checkpoints, read = Checkpoints(tmp_path), list[str]()
    for number in range(1, 4):
        save(checkpoints, 10 * number, (0, 4 * number))
    load = torch.load

    def noting(path: Path, **keywords: Any) -> Any:
        read.append(path.name)
        return load(path, **keywords)

    monkeypatch.setattr(torch, "load", noting)
    loaded = Checkpoints(tmp_path).load()
    assert loaded is not None and read == ["state-30.pt"]
    for number, _ in enumerate(loaded[1], 1):
        assert len(read) == 1 + number
    assert read[1:] == ["frames-0-4.pt", "frames-4-8.pt", "frames-8-12.pt"]


def test_a_checkpoint_without_frames_asks_for_none(tmp_path: Path) -> None:
    """`save_replay` may be switched off for a resumed run: old frames would leave a gap."""
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 10, (0, 4))
    save(checkpoints, 20)
    assert found(tmp_path) == (20, [])


def test_steps_order_checkpoints_as_numbers(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 900)
    save(checkpoints, 1000)
    (checkpoints.folder / "state-notes.pt").touch()
    assert [path.name for path in checkpoints.states()] == ["state-900.pt", "state-1000.pt"]
    assert found(tmp_path) == (1000, [])


def test_two_checkpoints_are_kept_with_the_frames_they_need(tmp_path: Path) -> None:
    """A ring of 6 frames: the segments it has left, and nothing written aside."""
    checkpoints = Checkpoints(tmp_path)
    for number in range(1, 5):
        save(checkpoints, 10 * number, (max(0, 4 * number - 6), 4 * number))
        (checkpoints.folder / "frames-0-1.pt.aside").touch()
    save(checkpoints, 50, (14, 20))
    assert names(tmp_path) == {
        *("state-40.pt", "state-40.sha256"),
        *("state-50.pt", "state-50.sha256"),
        "frames-8-12.pt",
        "frames-12-16.pt",
        "frames-16-20.pt",
    }
    (checkpoints.folder / "state-50.pt").unlink()
    assert found(tmp_path) == (40, list(range(8, 16)))


def test_a_diagnostic_checkpoint_is_not_resumed_and_takes_no_frames_away(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 10, (0, 4))
    path = checkpoints.save(20, state(20), frames=(9, 12), export=export, kind="diagnostic")
    assert checkpoint.read_state(path)["counters"] == {"agent_steps": 20}
    assert found(tmp_path) == (10, [0, 1, 2, 3])
    save(checkpoints, 30, (9, 13))
    assert found(tmp_path) == (30, [9, 10, 11, 12])


# -- damage ----------------------------------------------------------------------------------------


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A run folder with checkpoints 10 (frames 0 to 3) and 20 (frames 0 to 6)."""
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 10, (0, 4))
    save(checkpoints, 20, (0, 7))
    return tmp_path


@pytest.mark.usefixtures("fault")
@pytest.mark.parametrize("name", ["state-20.pt", "frames-4-7.pt", "state-20.sha256"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "overwritten", "missing"])
def test_the_checkpoint_before_a_damaged_one_is_used(
    two: Path, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "curl")
    path = two / "checkpoints" / name
    if damage == "truncated":
        os.truncate(path, path.stat().st_size // 2)
    elif damage == "empty":
        os.truncate(path, 0)
    elif damage == "overwritten":
        path.write_bytes(b"\xff" * path.stat().st_size)
    else:
        path.unlink()
    assert found(two) == (10, [0, 1, 2, 3])
    if (damage, name) != ("missing", "state-20.pt"):  # then there was one checkpoint
        assert path.stem in caplog.text and "trying the checkpoint before it" in caplog.text


def test_after_a_damaged_checkpoint_the_run_goes_on_saving(two: Path) -> None:
    flip(two / "checkpoints" / "frames-4-7.pt", 200)
    checkpoints = Checkpoints(two)
    checkpoints.load()
    save(checkpoints, 20, (0, 6))
    assert found(two) == (20, list(range(6)))


@pytest.mark.usefixtures("fault")
def test_damage_to_all_checkpoints_is_an_error(two: Path) -> None:
    for path in (two / "checkpoints").glob("state-*.pt"):
        os.truncate(path, 100)
    with pytest.raises(CheckpointError, match="all 2 checkpoints"):
        Checkpoints(two).load()


def test_a_state_of_a_newer_format_is_left_alone(two: Path) -> None:
    """It is not damaged; to go on from an older one would begin another history."""
    path = two / "checkpoints" / "state-20.pt"
    newer = {"format": 2, **state(20), "segments": []}
    save_file(path, newer, checksum=path.with_suffix(".sha256"))
    before = names(two)
    with pytest.raises(CheckpointError, match=r"state-20.* format 2, .*: resume with that version"):
        Checkpoints(two).load()
    assert names(two) == before
    assert Checkpoints(two).newest_state()["config"] == {"seed": 10}  # to evaluate


@pytest.mark.usefixtures("fault")
@pytest.mark.parametrize("lost", ["all", "frames-0-4.pt"])
def test_frames_that_went_away_are_written_again(tmp_path: Path, lost: str) -> None:
    """As when a network drive comes back empty while the run goes on."""
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 10, (0, 4))
    save(checkpoints, 20, (0, 7))
    if lost == "all":
        shutil.rmtree(checkpoints.folder)
    else:
        (checkpoints.folder / lost).unlink()
    save(checkpoints, 30, (0, 9))
    assert found(tmp_path) == (30, list(range(9)))


@fuzz
@given(st.sampled_from(["state-20.pt", "frames-4-7.pt"]), st.floats(0, 1, exclude_max=True))
def test_a_truncated_checkpoint_is_passed_over(
    two: Path, tally: Counter[str], name: str, part: float
) -> None:
    tally["bad inputs"] += 1
    folder = fresh(two)
    path = folder / "checkpoints" / name
    os.truncate(path, int(part * path.stat().st_size))
    assert found(folder) == (10, [0, 1, 2, 3])


@fuzz
@given(
    st.sampled_from(["state-20.pt", "frames-4-7.pt"]),
    st.floats(0, 1, exclude_max=True),
    st.integers(1, 255),
)
def test_a_flipped_byte_is_noticed(
    two: Path, tally: Counter[str], name: str, place: float, mask: int
) -> None:
    tally["bad inputs"] += 1
    folder = fresh(two)
    path = folder / "checkpoints" / name
    flip(path, int(place * path.stat().st_size), mask)
    assert found(folder) == (10, [0, 1, 2, 3])


def test_a_flipped_byte_in_the_weights_is_noticed(two: Path) -> None:
    """The zip format's own checksums do not see it: PyTorch does not compare them."""
    path = two / "checkpoints" / "state-20.pt"
    weights = (WEIGHTS + 20).numpy().tobytes()
    flip(path, path.read_bytes().index(weights) + 50)
    assert found(two) == (10, [0, 1, 2, 3])


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_no_flipped_byte_in_a_copied_state_raises_anything_else(
    two: Path, tally: Counter[str]
) -> None:
    """Every byte in turn, without the checksum: the unpickler meets whatever they say."""
    path = two / "checkpoints" / "state-20.pt"
    path.with_suffix(".sha256").unlink()
    content = path.read_bytes()
    wrong = []
    tally["bad inputs"] += len(content)
    for position in range(len(content)):
        path.write_bytes(content)
        flip(path, position, 0x01)
        try:
            checkpoint.read_state(path)
        except CheckpointError:
            pass
        except Exception as error:
            wrong.append(f"byte {position}: {type(error).__name__} {error}"[:80])
    assert not wrong, f"{len(wrong)} of {len(content)}: {wrong[:5]}"


@pytest.mark.parametrize(
    "segments",
    [
        *(7, [7], ["file"], [{"file": "x"}], [None], {}),
        [{"file": 7, "first": 0, "last": 1, "sha256": ""}],
        [{"file": "x", "first": "0", "last": 1, "sha256": ""}],
        [{"file": "x", "first": 0, "last": None, "sha256": ""}],
    ],
    ids=lambda value: repr(value),
)
def test_a_list_of_frame_files_that_is_none_is_refused(tmp_path: Path, segments: Any) -> None:
    path = tmp_path / "state-1.pt"
    save_file(path, {"format": 1, **state(), "segments": segments})
    with pytest.raises(CheckpointError):
        checkpoint.read_state(path)


COPIES = itertools.count()


def fresh(run: Path) -> Path:
    """A copy of a run folder to damage."""
    folder = run / f"copy-{next(COPIES)}"
    shutil.copytree(run / "checkpoints", folder / "checkpoints")
    return folder


# -- files that are no checkpoints of ours ---------------------------------------------------------


class Trap:
    """Unpickles by creating a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    path, sprung = tmp_path / "state-1.pt", tmp_path / "sprung"
    content = {"format": 1, "agent": Trap(sprung)}
    if zipped:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(CheckpointError):
        load_file(path)
    assert not sprung.exists()
    pickle.loads(pickle.dumps(content))  # the trap is a trap
    assert sprung.exists()


@pytest.mark.parametrize(
    "content",
    [
        {"format": 99, **state(), "segments": []},
        {**state(), "segments": []},
        {"format": 1, "segments": []},
        [1, 2],
        WEIGHTS,
    ],
    ids=["newer", "no format", "lacks parts", "list", "tensor"],
)
def test_what_is_no_state_of_this_format_is_refused(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "state-1.pt"
    save_file(path, content)
    with pytest.raises(CheckpointError, match=r"format|lacks"):
        checkpoint.read_state(path)


def test_a_checksum_of_another_file_is_refused(tmp_path: Path) -> None:
    one = save_file(tmp_path / "one.pt", WEIGHTS)
    save_file(tmp_path / "two.pt", WEIGHTS + 1)
    assert torch.equal(load_file(tmp_path / "one.pt", one), WEIGHTS)
    with pytest.raises(CheckpointError, match="checksum"):
        load_file(tmp_path / "two.pt", one)


# -- a failing disk --------------------------------------------------------------------------------


@pytest.mark.usefixtures("fault")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
@pytest.mark.parametrize("name", ["state-20.pt", "frames-4-7.pt"])
@pytest.mark.parametrize("size", [1, 1_000_000])
def test_a_full_disk_leaves_the_earlier_checkpoint(tmp_path: Path, name: str, size: int) -> None:
    """The file written aside leads to /dev/full, which refuses a small flush and a large write."""
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 10, (0, 4))
    (checkpoints.folder / f"{name}.aside").symlink_to("/dev/full")
    large = state(20) | {"padding": torch.zeros(size)}
    with pytest.raises(OSError):
        checkpoints.save(20, large, frames=(0, 7), export=lambda first, last: torch.zeros(size))
    assert not list(checkpoints.folder.glob("*.aside")) and Path("/dev/full").exists()
    assert found(tmp_path) == (10, [0, 1, 2, 3])
    save(checkpoints, 20, (0, 7))
    assert found(tmp_path) == (20, list(range(7)))


@pytest.mark.usefixtures("fault")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
def test_a_disk_that_refuses_leaves_the_earlier_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 10, (0, 4))

    def fail(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched, pytest.raises(OSError, match=os.strerror(number)):
        patched.setattr(*((os, "fsync") if call == "fsync" else (Path, call)), fail)
        save(checkpoints, 20, (0, 7))
    assert names(tmp_path) == {"state-10.pt", "state-10.sha256", "frames-0-4.pt"}
    assert found(tmp_path) == (10, [0, 1, 2, 3])


@pytest.mark.usefixtures("fault")
def test_a_full_disk_leaves_an_earlier_checkpoint_of_the_same_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is stopped right after a checkpoint writes another one at the same step."""
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 10, (0, 4))

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space"):
        patched.setattr(os, "fsync", fail)
        save(checkpoints, 10, (0, 4))
    assert found(tmp_path) == (10, [0, 1, 2, 3])


@pytest.mark.usefixtures("fault")
def test_a_kill_between_state_and_checksum_leaves_the_earlier_checkpoint(two: Path) -> None:
    """A state file without its checksum is no checkpoint yet."""
    (two / "checkpoints" / "state-20.sha256").unlink()
    assert found(two) == (10, [0, 1, 2, 3])


@pytest.mark.usefixtures("fault")
def test_a_kill_between_frames_and_state_leaves_the_earlier_checkpoint(tmp_path: Path) -> None:
    """The state file comes last: frames without it are no checkpoint, and are written again."""
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 10, (0, 4))
    save_file(checkpoints.folder / "frames-4-7.pt", "of a run that was killed")
    assert found(tmp_path) == (10, [0, 1, 2, 3])
    resumed = Checkpoints(tmp_path)
    resumed.load()
    save(resumed, 20, (0, 7))
    assert found(tmp_path) == (20, list(range(7)))


class Killed(BaseException):
    """Ends a save where it stands, as SIGKILL does: nothing that catches errors sees it."""


@pytest.mark.parametrize("step", [10, 20], ids=["the same step again", "a later step"])
def test_a_kill_at_any_point_of_a_save_leaves_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Before its n-th call that changes the disk, for every n: the old one is there, or the new."""
    calls = [(Path, "open"), (Path, "replace"), (Path, "unlink"), (os, "fsync"), (torch, "save")]

    def killing(original: Any, counter: Any, last: int) -> Any:
        def call(*args: Any, **keywords: Any) -> Any:
            if next(counter) == last:
                raise Killed
            return original(*args, **keywords)

        return call

    outcomes = []
    for last in itertools.count():
        folder, counter = tmp_path / str(last), itertools.count()
        checkpoints = Checkpoints(folder)
        save(checkpoints, 10, (0, 4))
        killed = False
        with monkeypatch.context() as patched:
            for owner, name in calls:
                patched.setattr(owner, name, killing(getattr(owner, name), counter, last))
            try:
                save(checkpoints, step, (0, 7))
            except Killed:
                killed = True
        outcomes.append(found(folder))
        if not killed:
            break
    assert len(outcomes) > 8
    assert set(map(str, outcomes)) == {str((10, list(range(4)))), str((step, list(range(7))))}
    assert outcomes[-1] == (step, list(range(7)))


# -- failed saves leave nothing behind -------------------------------------------------------------


def refuse_states(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    write = checkpoint.save_file

    def refusing(path: Path, content: Any, **more: Any) -> str:
        if not path.name.startswith("frames"):
            raise error
        return write(path, content, **more)

    monkeypatch.setattr(checkpoint, "save_file", refusing)


@pytest.mark.usefixtures("fault")
@pytest.mark.parametrize("kind", ["state", "diagnostic"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), MemoryError()], ids=str)
def test_frames_of_a_state_that_cannot_be_saved_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, error: Exception
) -> None:
    """Each attempt would leave another file of frames on a disk that is full already."""
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 10, (0, 4))
    before = names(tmp_path)
    with monkeypatch.context() as patched:
        refuse_states(patched, error)
        for newest in (7, 9, 12):
            with pytest.raises(type(error)):
                checkpoints.save(newest, state(), frames=(0, newest), export=export, kind=kind)
            assert names(tmp_path) == before
    save(checkpoints, 20, (0, 12))
    assert found(tmp_path) == (20, list(range(12)))


@pytest.mark.usefixtures("fault")
def test_frames_that_cannot_be_gathered_leave_nothing(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 10, (0, 4))
    before = names(tmp_path)

    def lacking(first: int, last: int) -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        checkpoints.save(20, state(20), frames=(0, 7), export=lacking)
    assert names(tmp_path) == before
    assert found(tmp_path) == (10, [0, 1, 2, 3])


def fail_folders(monkeypatch: pytest.MonkeyPatch, number: int, after: int = 0) -> None:
    """Flushing a folder fails with this error, from the `after`-th time on."""
    flush, times = os.fsync, itertools.count()

    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode) and next(times) >= after:
            raise OSError(number, os.strerror(number))
        flush(handle)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.usefixtures("fault")
@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_that_cannot_flush_folders_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    fail_folders(monkeypatch, number)
    checkpoints = Checkpoints(tmp_path)
    for step in (10, 20, 30):
        save(checkpoints, step, (0, step))
    assert len(checkpoints.states()) == 2
    assert found(tmp_path) == (30, list(range(30)))


@pytest.mark.usefixtures("fault")
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("after", [0, 1], ids=["of the frames", "of the state"])
def test_a_disk_that_fails_to_flush_a_folder_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, after: int
) -> None:
    """What is in place by then stays whole: the newest checkpoint or the one before it."""
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 10, (0, 4))
    with monkeypatch.context() as patched, pytest.raises(OSError, match=os.strerror(number)):
        fail_folders(patched, number, after)
        save(checkpoints, 20, (0, 7))
    assert found(tmp_path) == [(10, [0, 1, 2, 3]), (20, list(range(7)))][after]
    save(checkpoints, 30, (0, 9))
    assert found(tmp_path) == (30, list(range(9)))
