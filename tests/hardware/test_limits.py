"""Cores and memory that a process may use, on made-up control groups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from curl.hardware import limits
from curl.hardware.device import free_bytes

GIB = 2**30


class Machine:
    """A made-up /sys/fs/cgroup, /proc/self/cgroup and /proc/meminfo."""

    def __init__(self, folder: Path) -> None:
        self.groups, self.membership = folder / "cgroup", folder / "membership"
        self.meminfo = folder / "meminfo"
        self.meminfo.write_text("MemTotal: 99999999 kB\nMemAvailable: 67108864 kB\n")  # 64 GiB
        self.groups.mkdir()

    def write(self, group: str, **files: object) -> None:
        """Files of a group, `memory_max` for memory.max."""
        folder = self.groups / group
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name.replace("_", ".", 1)).write_text(f"{text}\n")

    def memory(self, group: str, limit: object, used: int, cache: int = 0) -> None:
        """Version 2."""
        stat = f"anon {used - cache}\ninactive_file {cache}"
        self.write(group, memory_max=limit, memory_current=used, memory_stat=stat)

    def available_memory(self) -> int:
        return limits.available_memory(self.groups, self.membership, self.meminfo)

    def available_cores(self) -> int:
        return limits.available_cores(self.groups, self.membership)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    return Machine(tmp_path)


def test_memory_is_limited_by_the_own_group_and_by_every_group_above(machine: Machine) -> None:
    machine.membership.write_text("0::/slurm/job_7/step_0\n")
    machine.memory("slurm/job_7/step_0", "max", 1 * GIB)
    assert machine.available_memory() == 64 * GIB
    machine.memory("slurm", 50 * GIB, 20 * GIB)
    assert machine.available_memory() == 30 * GIB
    machine.memory("slurm/job_7", 8 * GIB, 3 * GIB, cache=1 * GIB)  # the cache gives way
    assert machine.available_memory() == 6 * GIB
    machine.memory("slurm/job_7/step_0", 4 * GIB, 1 * GIB)
    assert machine.available_memory() == 3 * GIB
    machine.memory("other", 1 * GIB, 1 * GIB)
    assert machine.available_memory() == 3 * GIB


def test_a_container_that_sees_its_host_s_path_is_limited_by_what_is_mounted(
    machine: Machine,
) -> None:
    machine.membership.write_text("0::/docker/0123456789ab\n")
    machine.memory("", 2 * GIB, 1 * GIB)
    assert machine.available_memory() == 1 * GIB


def test_memory_in_version_1(machine: Machine) -> None:
    machine.membership.write_text("5:cpuset:/\n4:memory:/slurm/job_7\n0::/\n")
    stat = f"cache 5\ntotal_inactive_file {GIB}"
    unlimited = {"memory_limit_in_bytes": 2**63 - 4096, "memory_usage_in_bytes": 9 * GIB}
    machine.write("memory/slurm", **unlimited, memory_stat=stat)
    assert machine.available_memory() == 64 * GIB
    limited = {"memory_limit_in_bytes": 8 * GIB, "memory_usage_in_bytes": 5 * GIB}
    machine.write("memory/slurm/job_7", **limited, memory_stat=stat)
    assert machine.available_memory() == 4 * GIB


def test_without_control_groups_the_machine_s_memory_counts(machine: Machine) -> None:
    assert machine.available_memory() == 64 * GIB
    machine.meminfo.unlink()
    assert machine.available_memory() > 0
    assert free_bytes(torch.device("cpu")) > 0


def test_cores_are_those_of_the_affinity(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 128)
    assert machine.available_cores() == 16
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    assert machine.available_cores() == 2
    monkeypatch.delattr(os, "sched_getaffinity")  # macOS
    assert machine.available_cores() == 128


def test_cores_are_limited_by_the_quota_of_every_group(machine: Machine) -> None:
    machine.membership.write_text("0::/pod/container\n")
    machine.write("pod/container", cpu_max="max 100000")
    assert machine.available_cores() == 16
    machine.write("pod", cpu_max="350000 100000")  # three and a half cores
    assert machine.available_cores() == 4
    machine.write("pod/container", cpu_max="10000 100000")
    assert machine.available_cores() == 1


def test_cores_in_version_1(machine: Machine) -> None:
    machine.membership.write_text("3:cpu,cpuacct:/docker/x\n")
    folder = machine.groups / "cpu/docker/x"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    (folder / "cpu.cfs_quota_us").write_text("-1\n")
    assert machine.available_cores() == 16
    (folder / "cpu.cfs_quota_us").write_text("600000\n")
    assert machine.available_cores() == 6
