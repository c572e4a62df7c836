"""What this process may use of its machine: CPU cores, and memory.

A machine's totals say little in a container, in a SLURM job or under `taskset`. Linux limits a
process by its control groups: the group that it is in, and every group above that one. Version 2
has one hierarchy; version 1, which older clusters still have, has one for each resource.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

Number = TypeVar("Number", int, float)

GROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
MEMORY = Path("/proc/meminfo")


def available_cores(groups: Path = GROUPS, membership: Path = MEMBERSHIP) -> int:
    """Cores that this process may use: by its affinity and by the CPU quotas of its groups.

    Args:
        groups: where control groups are mounted.
        membership: the file that names the groups of this process.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:  # macOS and Windows
        cores = os.cpu_count() or 1
    quotas = [
        *_limits(_cpu_quota, _ancestors("", groups, membership)),
        *_limits(_cpu_quota_version_1, _ancestors("cpu", groups, membership)),
    ]
    return max(1, min([cores, *(math.ceil(quota) for quota in quotas)]))


def available_memory(
    groups: Path = GROUPS, membership: Path = MEMBERSHIP, memory: Path = MEMORY
) -> int:
    """Bytes that this process can still allocate: of the machine and of its control groups.

    Args:
        groups: where control groups are mounted.
        membership: the file that names the groups of this process.
        memory: the kernel's account of the machine's memory.
    """
    machine = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):  # Linux also counts what caches would give back
        lines = [line.split() for line in memory.read_text().splitlines()]
        machine = next(int(line[1]) * 1024 for line in lines if line[0] == "MemAvailable:")
    return min(
        [
            machine,
            *_limits(group_memory, _ancestors("", groups, membership)),
            *_limits(_group_memory_version_1, _ancestors("memory", groups, membership)),
        ]
    )


def group_memory(group: Path) -> int:
    """Bytes that a group (version 2) leaves of its limit. `ValueError` if it has none."""
    return _left(group, "memory.max", "memory.current", "inactive_file")


def _group_memory_version_1(group: Path) -> int:
    return _left(group, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def _left(group: Path, limit: str, used: str, cache: str) -> int:
    """The limit less what is used; the kernel takes the file cache back when it needs to."""
    stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    numbers = (int((group / name).read_text()) for name in (limit, used))  # "max" is no limit
    return next(numbers) - next(numbers) + int(stat.get(cache, 0))


def _cpu_quota(group: Path) -> float:
    """Cores that a group (version 2) may use at a time. `ValueError` if it has no quota."""
    quota, period = (group / "cpu.max").read_text().split()
    return int(quota) / int(period)  # "max" is no limit


def _cpu_quota_version_1(group: Path) -> float:
    quota = int((group / "cpu.cfs_quota_us").read_text())
    if quota < 0:
        raise ValueError("the group has no quota")
    return quota / int((group / "cpu.cfs_period_us").read_text())


def _limits(read: Callable[[Path], Number], folders: Iterator[Path]) -> list[Number]:
    """What `read` finds in those folders that have a limit."""
    found = []
    for folder in folders:
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            found.append(read(folder))
    return found


def _ancestors(controller: str, groups: Path, membership: Path) -> Iterator[Path]:
    """The folder of this process's own group, and those of all groups above it.

    A line of `membership` reads `hierarchy:controllers:/path`; version 2's has no controllers. In a
    container the path may be the host's, which does not exist there: then only the folders that do
    exist say something, the mounted root among them, which is the container's own group.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            root = groups / controller
            own = root / path.lstrip("/")
            yield own
            for folder in own.parents:
                if not folder.is_relative_to(root):
                    break
                yield folder
