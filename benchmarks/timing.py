"""Paired, interleaved timing: A B C A B C ..., so that a slow moment of the machine hits all alike.

A sample is the mean of enough calls in a row to be worth timing; a ratio is taken round by round.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from curl.hardware.processor import keep_freed_memory

WARM_UP = {"cpu": 1, "cuda": 8}  # periods before timing begins: caches, cuDNN; capture needs 4


@dataclass(frozen=True)
class Timing:
    """Seconds a call, one sample a round; each sample is the mean of `calls` calls in a row."""

    samples: tuple[float, ...]
    calls: int
    warm_up: float
    """Seconds that the untimed calls before the first sample took, compilation included."""

    @property
    def median(self) -> float:
        return float(np.median(self.samples))

    def summary(self) -> dict[str, float | int]:
        """Milliseconds a call: the median, the quartiles, and how they came about."""
        low, middle, high = (1000 * q for q in quartiles(self.samples))
        summary = {"median_ms": middle, "q1_ms": low, "q3_ms": high, "warm_up_s": self.warm_up}
        return summary | {"samples": len(self.samples), "calls_per_sample": self.calls}


def quartiles(values: tuple[float, ...] | list[float]) -> tuple[float, float, float]:
    """First quartile, median, third quartile."""
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    return low, middle, high


def ratio(slow: Timing, fast: Timing) -> dict[str, float]:
    """How many times as long `slow` takes, round by round: median and quartiles."""
    ratios = [a / b for a, b in zip(slow.samples, fast.samples, strict=True)]
    low, middle, high = quartiles(ratios)
    return {"median": middle, "q1": low, "q3": high}


def interleave(
    functions: Mapping[str, Callable[[], object]],
    *,
    device: torch.device,
    seconds: float,
    rounds: tuple[int, int] = (3, 30),
    period: int = 1,
    least: float = 0.02,
) -> dict[str, Timing]:
    """Time `functions` in turn.

    Args:
        functions: called without arguments, over and over.
        device: where they compute; on CUDA, events and one synchronisation a sample.
        seconds: how long the rounds may take together, as far as `rounds` allows.
        rounds: fewest and most.
        period: calls after which a function repeats itself. An update does after 2: every other
            one trains the actor. All samples are whole periods.
        least: seconds that a sample takes at least.
    """
    calls, cost, warm_up = {}, 0.0, {}
    for name, function in functions.items():
        began = time.perf_counter()
        timed(function, period * WARM_UP[device.type], device)
        once = timed(function, period, device)
        warm_up[name] = time.perf_counter() - began
        periods = max(1, math.ceil(least / max(once, 1e-9)))
        calls[name] = period * periods
        cost += periods * once
    fewest, most = rounds
    count = min(most, max(fewest, int(seconds / cost)))
    samples: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(count):
        for name, function in functions.items():
            samples[name].append(timed(function, calls[name], device) / calls[name])
    return {name: Timing(tuple(samples[name]), calls[name], warm_up[name]) for name in functions}


def timed(function: Callable[[], object], calls: int, device: torch.device) -> float:
    """Seconds that `calls` calls in a row take, to the end of their last kernel."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            start.record()
            for _ in range(calls):
                function()
            end.record()
            torch.cuda.synchronize()
            return start.elapsed_time(end) / 1000
    began = time.perf_counter()
    for _ in range(calls):
        function()
    return time.perf_counter() - began


def add_allocator(parser: argparse.ArgumentParser) -> None:
    """The option that says what becomes of freed memory, for `use_allocator`."""
    parser.add_argument(
        "--allocator",
        choices=("kept", "default"),
        default="kept",
        help="whether freed memory is kept, as a run does, or given back, as glibc does; both "
        "sides have the same; default: kept",
    )


def use_allocator(name: str) -> None:
    """Keep freed memory if it is `kept`; call before the first tensor."""
    if name == "kept":
        keep_freed_memory()
