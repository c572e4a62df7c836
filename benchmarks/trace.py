"""Where an update spends its time: `python -m benchmarks.trace [--plain] [--batch 128]`."""

from __future__ import annotations

import argparse
import logging

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.contenders import VARIANTS, Sizes, build, headline, variants
from benchmarks.timing import WARM_UP
from curl.errors import exits_with_one_line
from curl.hardware.device import choose_device, machine, make_current


def trace(
    name: str | None, *, device: torch.device, batch_size: int, updates: int, sizes: Sizes
) -> str:
    """A table of the 20 operations that take most time by themselves, over `updates` updates."""
    name = name or headline(device)
    if name != "plain" and name not in variants(device):
        known = ", ".join(variants(device))
        raise ValueError(f"variant {name!r} does not run on {device} here; these do: {known}")
    contender = build(name, sizes, device)
    for _ in range(2 * WARM_UP[device.type]):
        contender.update(batch_size)
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        for _ in range(updates):
            contender.update(batch_size)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    key = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    table = profiler.key_averages().table(sort_by=key, row_limit=20, max_name_column_width=48)
    where = ", ".join(f"{k} {v}" for k, v in machine(device).items())
    return (
        f"{updates} updates with sampling, {name}, batch {batch_size}, {device} ({where})\n{table}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trace", description=__doc__)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--plain", action="store_true", help="the plain side")
    which.add_argument("--variant", choices=VARIANTS, help="of ours; default: train.py's choice")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--updates", type=int, default=10)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()

    def job() -> int:
        logging.getLogger("curl").setLevel(logging.WARNING)
        name = "plain" if arguments.plain else arguments.variant
        device = choose_device(arguments.device)
        make_current(device)
        print(
            trace(
                name,
                device=device,
                batch_size=arguments.batch,
                updates=arguments.updates,
                sizes=Sizes(),
            )
        )
        return 0

    return exits_with_one_line(job)


if __name__ == "__main__":
    raise SystemExit(main())
