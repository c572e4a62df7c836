"""A real train.py is killed over and over, and its run still ends as an undisturbed one does.

Half the kills come at random moments, half before or after a flush or rename inside a checkpoint.
"""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.equality import assert_equal_runs
from support.faulty_runs import CRASH_DRIVER
from support.programs import ENVIRONMENT, command, train

RUNS, KILLS = 6, 6  # folders, kills in each
SETTINGS = {"env_steps": 10_000, "checkpoint_every": 1000, "eval_every": 3000}


def start(folder: Path, call: str = "none", number: int = 0) -> subprocess.Popen[bytes]:
    python, *arguments = command(folder, **SETTINGS)
    driver = [python, str(CRASH_DRIVER), call, str(number)]
    return subprocess.Popen(
        driver + arguments,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def end(process: subprocess.Popen[bytes], delay: float | None) -> int:
    """Its exit code; after `delay` seconds it is killed."""
    try:
        _, errors = process.communicate(timeout=300 if delay is None else delay)
    except subprocess.TimeoutExpired:
        process.kill()
        _, errors = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), errors.decode()
    assert b"Traceback" not in errors and b"damaged" not in errors, errors.decode()
    return process.returncode


def killed_often(
    folder: Path, seed: int, duration: float, undisturbed: Path, tally: list[str]
) -> None:
    """Resume after each of KILLS kills, and compare what comes out with `undisturbed`.

    `tally` gets "kills" for each, and "kills survived" once its run has ended as it should.
    """
    rng = random.Random(seed)
    kills = pending = runs = 0
    while kills < KILLS:
        here = folder / str(runs)
        if rng.random() < 0.5:
            process, delay = start(here), rng.uniform(0.1, 1) * duration
        else:
            call, sign = rng.choice(["fsync", "replace"]), rng.choice([1, -1])
            process, delay = start(here, call, sign * rng.randint(1, 12)), None
        if end(process, delay) == 0:  # it got to its end before the kill
            assert_equal_runs(here, undisturbed)
            tally += ["kills survived"] * pending
            pending, runs = 0, runs + 1
        else:
            tally.append("kills")
            kills, pending = kills + 1, pending + 1
    if pending:
        assert end(start(folder / str(runs)), None) == 0
        assert_equal_runs(folder / str(runs), undisturbed)
        tally += ["kills survived"] * pending


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A run, and the seconds it took."""
    folder, began = tmp_path_factory.mktemp("undisturbed"), time.monotonic()
    train(folder, **SETTINGS)
    return folder, time.monotonic() - began


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2, 3, -1, -2, -3])
def test_a_kill_at_each_rename_of_the_first_checkpoint(
    undisturbed: tuple[Path, float], tmp_path: Path, number: int, tally: Counter[str]
) -> None:
    assert end(start(tmp_path, "replace", number), None) == -signal.SIGKILL
    tally["faults"] += 1
    assert end(start(tmp_path), None) == 0
    assert_equal_runs(tmp_path, undisturbed[0])


@pytest.mark.slow
def test_the_crash_harness(
    undisturbed: tuple[Path, float], tmp_path: Path, tally: Counter[str]
) -> None:
    finished, duration = undisturbed
    seen, failures = list[str](), list[AssertionError]()

    def job(seed: int) -> None:
        killed_often(tmp_path / str(seed), seed, duration, finished, seen)

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(job, seed) for seed in range(RUNS)]:
            try:
                future.result()
            except AssertionError as error:
                failures.append(error)
    tally.update(seen)
    assert not failures, failures
    assert tally["kills"] == tally["kills survived"] == RUNS * KILLS
