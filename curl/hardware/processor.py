"""How a run uses the CPU: how many threads compute, and what happens to freed memory.

Two OpenMP threads that share a core with another process wait for each other most of the time: an
update then takes five to ten times as long as on one thread. So `threads: 0` counts the cores that
others leave free, and counts again while the run goes on.
"""

from __future__ import annotations

import ctypes
import logging
import math
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch

from curl.hardware.limits import available_cores

log = logging.getLogger("curl")

TOLERATED = 0.5  # cores; what others may use before a thread makes room for them
SHORTEST = 1.0  # seconds; a shorter look at /proc/stat says little, its unit is 10 ms

# Parameters of glibc's mallopt, from malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


class Threads:
    """PyTorch's number of CPU threads: a fixed one, or what other processes leave free.

    With a fixed number a run repeats bit for bit. The automatic number depends on what else the
    machine does, and with it the order of sums and their last bits. `OMP_NUM_THREADS` limits it.

    Args:
        number: threads; 0 follows the load.
        read: returns seconds of CPU time that all processes, and this one with its children,
            have used on this process's cores since some fixed moment, or None where the system
            does not say. Tests hand in their own.
        clock: seconds since some fixed moment.
    """

    def __init__(
        self,
        number: int,
        *,
        read: Callable[[], tuple[float, float] | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read, self._clock = read or used_seconds, clock
        self._most = min(available_cores(), torch.get_num_threads())
        self._automatic = number == 0
        self._mark = (clock(), self._read() if self._automatic else None)
        self._announced = False
        self.number = number or self._most
        torch.set_num_threads(self.number)

    def adapt(self) -> None:
        """Follow what others did since the last call, if that was long enough ago."""
        now, (then, before) = self._clock(), self._mark
        if not self._automatic or now - then < SHORTEST:
            return
        after = self._read()
        self._mark = (now, after)
        if before is None or after is None:
            return
        everyone, own = after[0] - before[0], after[1] - before[1]
        others = max(0.0, everyone - own) / (now - then)  # cores
        number = max(1, self._most - math.ceil(max(0.0, others - TOLERATED)))
        if number != self.number and not self._announced:
            self._announced = True  # once; the metrics carry the number from then on
            log.info(
                "%d CPU threads instead of %d: other processes use %.1f cores; "
                "threads=%d would keep the number fixed",
                number,
                self.number,
                others,
                self.number,
            )
        self.number = number
        torch.set_num_threads(number)


def own_cores() -> list[int]:
    """The numbers of the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def used_seconds(stat: Path = Path("/proc/stat")) -> tuple[float, float] | None:
    """CPU seconds used by all processes on this process's cores, and by this process's own.

    None where there is no /proc/stat. Linux counts there what every process of the machine does,
    outside of a container too.
    """
    try:
        lines = stat.read_text().splitlines()
    except OSError:
        return None
    names = {f"cpu{core}" for core in own_cores()}
    ticks = 0
    for line in lines:
        name, *fields = line.split()
        if name in names:  # user nice system idle iowait irq softirq steal guest guest_nice
            user, nice, system, _, _, irq, softirq, steal = (int(f) for f in fields[:8])
            ticks += user + nice + system + irq + softirq + steal
    own = os.times()
    mine = own.user + own.system + own.children_user + own.children_system
    return ticks / os.sysconf("SC_CLK_TCK"), mine


def keep_freed_memory() -> bool:
    """Have glibc keep the memory of freed tensors for the next ones; call before the first tensor.

    By default glibc hands every large block back to the system when it is freed, and the next
    tensor of that size is filled with zeros by the system again, page by page. An update allocates
    hundreds of megabytes that way. What the process has once used stays its own: `give_back` after
    something large and unique, such as a checkpoint.

    Returns:
        Whether it was done; only glibc has these settings.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    # No block has a mapping of its own, and the heap's end shrinks only beyond 2 GiB.
    return bool(libc.mallopt(M_MMAP_MAX, 0) and libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


def give_back() -> None:
    """Return memory that is free now to the system, where glibc is what there is."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
