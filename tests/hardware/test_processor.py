"""Threads follow the load of the machine, and freed memory is kept for the next tensors."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from curl.hardware import processor
from curl.hardware.processor import Threads, own_cores, used_seconds


class Machine:
    """A machine of four cores that a test moves through time."""

    def __init__(self) -> None:
        self.now, self.everyone, self.own = 0.0, 0.0, 0.0

    def passes(self, seconds: float, *, own: float, others: float) -> None:
        """`own` and `others` are cores in use."""
        self.now += seconds
        self.own += own * seconds
        self.everyone += (own + others) * seconds

    def read(self) -> tuple[float, float]:
        return self.everyone, self.own

    def clock(self) -> float:
        return self.now


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    monkeypatch.setattr(processor, "available_cores", lambda: 4)
    yield Machine()
    torch.set_num_threads(before)


def automatic(machine: Machine) -> Threads:
    return Threads(0, read=machine.read, clock=machine.clock)


@pytest.mark.parametrize(
    ("others", "threads"), [(0, 4), (0.4, 4), (0.9, 3), (1.4, 3), (2, 2), (3, 1), (9, 1)]
)
def test_others_are_left_the_cores_they_use(machine: Machine, others: float, threads: int) -> None:
    chosen = automatic(machine)
    assert chosen.number == torch.get_num_threads() == 4
    machine.passes(10, own=4 - min(others, 4), others=others)
    chosen.adapt()
    assert chosen.number == torch.get_num_threads() == threads


def test_threads_come_back_when_the_others_have_gone(machine: Machine) -> None:
    chosen = automatic(machine)
    machine.passes(10, own=1, others=3)
    chosen.adapt()
    machine.passes(10, own=1, others=0)
    chosen.adapt()
    assert chosen.number == 4


def test_own_threads_are_not_mistaken_for_others(machine: Machine) -> None:
    chosen = automatic(machine)
    machine.passes(10, own=4, others=0)
    chosen.adapt()
    assert chosen.number == 4


def test_a_short_look_changes_nothing(machine: Machine) -> None:
    chosen = automatic(machine)
    machine.passes(0.5, own=0, others=4)
    chosen.adapt()
    assert chosen.number == 4
    machine.passes(0.6, own=0, others=4)
    chosen.adapt()  # both looks together are long enough
    assert chosen.number == 1


def test_a_fixed_number_stays(machine: Machine) -> None:
    chosen = Threads(3, read=machine.read, clock=machine.clock)
    machine.passes(10, own=0, others=4)
    chosen.adapt()
    assert chosen.number == torch.get_num_threads() == 3


def test_a_system_that_does_not_tell_keeps_all_threads(machine: Machine) -> None:
    chosen = Threads(0, read=lambda: None, clock=machine.clock)
    machine.passes(10, own=0, others=4)
    chosen.adapt()
    assert chosen.number == 4


def test_the_first_change_is_announced(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    chosen = automatic(machine)
    with caplog.at_level("INFO", logger="curl"):
        for others in (2, 0, 2):
            machine.passes(10, own=1, others=others)
            chosen.adapt()
    assert caplog.messages == [
        "2 CPU threads instead of 4: other processes use 2.0 cores; "
        "threads=4 would keep the number fixed"
    ]


def test_proc_stat_counts_the_cores_of_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """User, nice, system, interrupts and stolen time are in use; idle and waiting are not."""
    stat = tmp_path / "stat"
    stat.write_text(
        "cpu  1 1 1 1 1 1 1 1 1 1\n"
        "cpu0 100 20 30 5000 600 7 8 9 0 0\n"
        "cpu1 999 999 999 999 999 999 999 999 0 0\n"
        "cpu10 1000 0 0 0 0 0 0 0 0 0\n"
        "intr 5\n"
    )
    monkeypatch.setattr(processor, "own_cores", lambda: [0, 10])
    found = used_seconds(stat)
    assert found is not None
    assert found[0] == pytest.approx((100 + 20 + 30 + 7 + 8 + 9 + 1000) / os.sysconf("SC_CLK_TCK"))
    assert used_seconds(tmp_path / "absent") is None


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity on this system")
def test_cores_are_counted_by_affinity() -> None:
    cores = sorted(os.sched_getaffinity(0))
    assert own_cores() == cores
    program = f"import os; os.sched_setaffinity(0, [{cores[-1]}]); "
    program += "from curl.hardware.processor import Threads; print(Threads(0).number)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "1", done.stderr


FAULTS = """
import resource, torch
from curl.hardware.processor import keep_freed_memory
torch.set_num_threads(1)
if {keep}:
    assert keep_freed_memory()
for round in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [torch.zeros(48 << 20, dtype=torch.uint8) for _ in range(3)]
    del held
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's settings")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    """144 MB are 36,864 pages; without the settings each round faults them in again."""
    faults = {}
    for keep in (False, True):
        program = FAULTS.format(keep=keep)
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        faults[keep] = int(done.stdout)
    assert faults[True] < 100
    assert faults[False] > 20 * max(faults[True], 1)
