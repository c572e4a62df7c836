"""`python -m curl record` and `dataset`, from a run to the tables and the contact sheet."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from curl.command import dataset as shows
from curl.command import record
from curl.data import dataset as datasets
from curl.data.episode import Episode, episodes_of
from curl.data.layout import local_names
from curl.data.seeding import Stream, episode_seed
from curl.data.writing import write
from curl.run.recording import POLICIES, saved_replay
from support import faulty
from support.datasets import episode, origin, train_into_an_episode
from support.paths import ROOT, TESTS
from support.typed import Typed

NAME = "sound/test-v0"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose third episode of 20 steps is going on."""
    folder = tmp_path_factory.mktemp("made") / "run"
    train_into_an_episode(folder)
    return folder


@pytest.fixture(autouse=True)
def root(recordings: Path) -> Path:
    """Datasets of the test."""
    return recordings


@pytest.fixture
def typed(commanded: Typed) -> Typed:
    """Runs `python -m curl ARGUMENTS` in this process; its code, stdout, and errors on stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code, out, errors = commanded(*arguments)
        lines = [line for line in errors.splitlines() if not line.startswith("INFO ")]
        lines = [line for line in lines if not line.startswith("WARNING  the first frame of")]
        return code, out, "\n".join(lines)

    return run


# -- recording -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", POLICIES)
@pytest.mark.parametrize("source", ["run", "state"])
def test_a_recorded_agent_fills_a_replay_buffer(
    made: Path, typed: Typed, root: Path, how: str, source: str
) -> None:
    run = made if source == "run" else made / "checkpoints" / "state-40.pt"
    options = ["--dataset", NAME, "--policy", how, "--episodes", 2, "--device", "cpu"]
    code, printed, said = typed("record", run, *options, "--seed", 3)
    assert (code, said) == (0, "")
    assert printed.startswith(f"{NAME}: 2 episodes, 40 transitions, ")
    assert printed.splitlines()[1] == str(root / NAME)
    found = datasets.read(NAME)
    assert found.origin.policy == how and found.origin.seed == 3
    assert found.origin.env_steps == (50 if source == "run" else 40)
    seeds = [one.seed for one in found.episodes()]
    assert seeds == [episode_seed(3, Stream.RECORDING, i) for i in range(2)]
    assert len(found.replay()) == 40


def test_the_replay_buffer_of_a_run_becomes_a_dataset(made: Path, typed: Typed) -> None:
    code, printed, said = typed("record", made, "--dataset", NAME, "--replay")
    assert (code, said) == (0, "")
    assert printed.startswith(f"{NAME}: 3 episodes, 37 transitions, ")
    buffer, over, facts = saved_replay(made)
    found = datasets.read(NAME)
    assert found.origin == facts
    for one, other in zip(found.episodes(), episodes_of(buffer, over=over), strict=True):
        assert np.array_equal(one.frames, other.frames)
        assert np.array_equal(one.actions, other.actions)
        assert np.array_equal(one.rewards, other.rewards)
        ends = (one.terminated, one.truncated, one.skipped)
        assert ends == (other.terminated, other.truncated, other.skipped)
    assert len(found.replay()) == len(buffer) == 35


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("replay", [False, True])
def test_a_signal_ends_a_recording_that_leaves_nothing(
    made: Path,
    typed: Typed,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    replay: bool,
) -> None:
    name = "saved_replay" if replay else "origin_of_policy"
    wrapped = getattr(record, name)

    def asked(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), number)
        return wrapped(*arguments, **options)

    monkeypatch.setattr(record, name, asked)
    options = ["--replay"] if replay else ["--device", "cpu"]
    code, printed, said = typed("record", made, "--dataset", NAME, *options)
    assert (code, printed) == (128 + number, "")
    assert said == "stopping; no dataset is written; a second signal stops at once"
    assert not [path for path in root.rglob("*") if path.is_file()]
    assert not list(root.glob(".recording-*"))


def test_a_dataset_is_not_overwritten(made: Path, typed: Typed) -> None:
    write(NAME, [episode(0, 3, 8)], origin(8))
    for option in ("--replay", "--policy=mean"):
        code, printed, said = typed("record", made, "--dataset", NAME, option)
        assert (code, printed) == (2, "")
        assert said.startswith(f"error: the dataset {NAME} exists already in ")
    assert len(datasets.read(NAME)) == 1


def test_an_environment_that_fails_leaves_nothing(
    made: Path, typed: Typed, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faulty.Sound, "fail", lambda self: float("nan"))
    code, printed, said = typed("record", made, "--dataset", NAME, "--device", "cpu")
    assert (code, printed, said) == (2, "", "error: the environment returned the reward nan")
    assert not list(root.iterdir())


def test_an_environment_that_raises_leaves_nothing(
    made: Path, typed: Typed, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: faulty.Sound) -> float:
        raise ArithmeticError("the joint broke")

    monkeypatch.setattr(faulty.Sound, "fail", fail)
    code, printed, said = typed("record", made, "--dataset", NAME, "--device", "cpu")
    cause = "the environment's step raised ArithmeticError: the joint broke"
    assert (code, printed, said) == (2, "", f"error: {cause}")
    assert not list(root.iterdir())


CAUSE = "the environment has not answered for 1 s"


@pytest.mark.parametrize("where", ["fail", "reset", "close"])
def test_an_environment_that_hangs_leaves_nothing(
    made: Path, typed: Typed, root: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    recorded = where == "close"  # the dataset is complete by then
    sound, calls = getattr(faulty.Sound, where), itertools.count()

    def hanging(env: faulty.Sound, **options: Any) -> Any:
        if where == "reset" and next(calls) == 0:
            return sound(env, **options)  # when the environment is built
        return time.sleep(3600)

    monkeypatch.setattr(faulty.Sound, where, hanging)
    options = ["--dataset", NAME, "--device", "cpu", "--episodes", 1, "--env-timeout", 1]
    code, printed, said = typed("record", made, *options)
    assert (code, printed, said) == (3, "", f"error: {CAUSE}")
    assert local_names() == ([NAME] if recorded else [])
    assert not list(root.glob(".*"))


def test_an_environment_that_hangs_in_c_ends_the_process_and_leaves_nothing(
    made: Path, root: Path
) -> None:
    program = (
        "import sys; from support import faulty; from curl.command import main; "
        "faulty.Sound.fail = faulty.hang_deaf; sys.exit(main.main(sys.argv[1:]))"
    )
    options = ["--dataset", NAME, "--device", "cpu", "--env-timeout", "1"]
    ended = subprocess.run(
        [sys.executable, "-c", program, "record", str(made), *options],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(TESTS)])},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (ended.returncode, ended.stdout) == (3, "")
    assert ended.stderr.splitlines()[-1] == f"error: {CAUSE}"
    assert root.is_dir() and not list(root.iterdir())


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--env-timeout", 0], "error: --env-timeout must lie in (0, inf), got 0.0"),
        (["--env-timeout", 5, "--replay"], "does not go with --env-timeout"),
    ],
)
def test_a_wrong_timeout_is_refused(
    made: Path, typed: Typed, options: list[Any], line: str
) -> None:
    code, printed, said = typed("record", made, "--dataset", NAME, *options)
    assert (code, printed) == (2, "") and line in said


def test_a_damaged_run_is_refused(made: Path, typed: Typed, tmp_path: Path, root: Path) -> None:
    run = Path(shutil.copytree(made, tmp_path / "run"))
    for path in (run / "checkpoints").glob("*.pt"):
        path.write_bytes(b"garbled")
    for option in ("--replay", "--policy=random"):
        code, printed, said = typed("record", run, "--dataset", NAME, option)
        assert (code, printed) == (2, "") and "all 2 are damaged" in said.splitlines()[-1]
        assert [line for line in said.splitlines() if line.startswith("error: ")]
    assert not root.exists()


# -- showing ---------------------------------------------------------------------------------------


def some_dataset() -> list[Episode]:
    ends = ["", "terminated", "truncated", "terminated", ""]
    lengths = [4, 9, 2, 20, 5]
    kinds = enumerate(zip(lengths, ends, strict=True))
    return [episode(i, n, 8, ends=end, skipped=3 if i == 0 else 0) for i, (n, end) in kinds]


def test_a_dataset_is_shown(typed: Typed, root: Path) -> None:
    episodes = some_dataset()
    write(NAME, episodes, origin(8))
    code, printed, said = typed("dataset", NAME)
    assert (code, said) == (0, "")
    lines = [line.split() for line in printed.splitlines()]
    assert ["dataset", NAME] in lines and ["folder", str(root / NAME)] in lines
    assert "5 (2 terminated, 1 truncated, 2 unfinished)" in printed
    assert ["transitions", "40"] in lines and "45 of 8 x 8 pixels" in printed
    assert "Sound-v0, action repeat 1" in printed and "mean, seed 0" in printed
    assert "runs/sound/checkpoints/state-5.pt, 5 env steps" in printed
    returns = np.array([one.rewards.sum(dtype=np.float64) for one in episodes[1:4]])
    values = [returns.mean(), returns.std(ddof=1), returns.min(), returns.max()]
    assert [*(f"{value:.1f}" for value in values), "3"] in lines
    actions = np.concatenate([one.actions for one in episodes])
    for i in range(2):
        column = actions[:, i]
        cells = [f"{value:.3f}" for value in (column.min(), column.mean(), column.max())]
        assert [str(i), *cells] in lines


def test_a_single_return_and_none_at_all(typed: Typed) -> None:
    write(NAME, [episode(0, 3, 8, ends="truncated")], origin(8))
    write("other-v0", [episode(0, 3, 8)], origin(8, policy="replay", seed=None))
    code, printed, _ = typed("dataset", NAME)
    assert code == 0 and "mean return" in printed and "#" in printed
    code, printed, _ = typed("dataset", "other-v0")
    assert code == 0 and "mean return" not in printed and "1 unfinished" in printed


def test_a_histogram_counts_every_value() -> None:
    rows = shows.histogram([0.0, 0.5, 9.0, 10.0, 10.0])
    assert len(rows) == shows.BINS and [int(count) for _, count, _ in rows] == [2, *[0] * 7, 0, 3]
    assert rows[0][0] == "0.0 to 1.0" and rows[-1][2] == "#" * shows.BAR
    assert sum(int(count) for _, count, _ in shows.histogram([3.0] * 4)) == 4


@pytest.mark.parametrize("count", [1, 2, 5, 6, 7, 100])
def test_what_is_shown_is_spread_evenly(count: int) -> None:
    numbers = shows.evenly(count, 6)
    assert numbers == sorted(set(numbers)) and len(numbers) == min(count, 6)
    assert numbers[0] == 0 and numbers[-1] == count - 1


def test_the_contact_sheet_shows_the_frames(typed: Typed, tmp_path: Path) -> None:
    write(NAME, some_dataset(), origin(8))
    found = shows.summarised(datasets.read(NAME))
    for number, (label, frames) in enumerate(found.shown):
        assert label.startswith(f"episode {number}\n")
        assert (frames[..., 0] == number).all()
        assert frames.shape[0] == min(shows.FRAMES, len(some_dataset()[number].frames))
    file = tmp_path / "new" / "sheet.png"
    code, printed, _ = typed("dataset", NAME, "--out", file)
    assert code == 0 and printed.splitlines()[-1] == str(file)
    with Image.open(file) as image:
        assert image.format == "PNG" and image.width > 600 and image.height > 400


def test_a_damaged_dataset_is_refused(typed: Typed, tmp_path: Path) -> None:
    made = write(NAME, some_dataset(), origin(8))
    data = made.folder / "data" / "main_data.hdf5"
    content = bytearray(data.read_bytes())
    content[-1] ^= 1
    data.write_bytes(content)
    code, printed, said = typed("dataset", NAME, "--out", tmp_path / "sheet.png")
    assert (code, printed) == (2, "")
    assert said.startswith(f"error: the dataset {NAME} cannot be read: ")
    assert said.count("\n") == 0 and not (tmp_path / "sheet.png").exists()
