"""The small agent's update against plain's at the paper's sizes: `python -m benchmarks.small`.

Both take batches of the same size, in one process and in turns. The small agent is the one of
`experiment=laptop`. It sees smaller frames than the paper's agent, so this says what a laptop
gains, and not how good the code is; for that there is benchmarks.speed.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.contenders import Ours, Sizes, build, fill
from benchmarks.timing import add_allocator, interleave, ratio, use_allocator
from curl.augmentations.shift import Shift
from curl.checks import integer
from curl.errors import exits_with_one_line
from curl.hardware.device import choose_device, choose_precision, machine

# As experiment=laptop has them; tests/benchmarks/test_benchmarks.py compares.
EDGE, HIDDEN, STRIDES, PAD = 44, 512, (2, 2, 1, 1), 2


def build_small(device: torch.device, precision: torch.dtype) -> Ours:
    """The small agent, with a replay buffer full of random frames."""
    sizes = Sizes(frame=EDGE, crop=EDGE, hidden=HIDDEN, transitions=300)
    keywords = {"precision": precision, "strides": STRIDES, "convolution_init": "orthogonal"}
    torch.manual_seed(0)
    small = Ours(sizes, device, keywords, view=Shift(size=EDGE, pad=PAD))
    fill(small, sizes)
    return small


def run(arguments: argparse.Namespace) -> int:
    device = choose_device(arguments.device)
    use_allocator(arguments.allocator)
    batch_size = integer("--batch", arguments.batch)
    plain = build("plain", Sizes(transitions=300), device)
    small = build_small(device, choose_precision("auto", device))
    timings = interleave(
        {
            "plain, the paper's sizes": functools.partial(plain.update, batch_size),
            "the small agent": functools.partial(small.update, batch_size),
        },
        device=device,
        seconds=arguments.seconds,
        rounds=(3, 30),
        period=2,
    )
    slow, fast = timings.values()
    values = {
        "machine": machine(device),
        "batch": batch_size,
        "milliseconds": {name: timing.summary() for name, timing in timings.items()},
        "times_as_fast": ratio(slow, fast),
    }
    for name, timing in timings.items():
        print(f"{name}: {1000 * timing.median:.1f} ms per update with sampling")
    print(
        "the small agent is {median:.1f} [{q1:.1f}, {q3:.1f}] times as fast".format_map(
            values["times_as_fast"]
        )
    )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(values, indent=1) + "\n")
    return 0


def command_line(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.small", description=__doc__)
    parser.add_argument("--batch", type=int, default=128, help="of both; default: 128")
    parser.add_argument("--seconds", type=float, default=60.0, help="of measuring; default: 60")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:<number>")
    add_allocator(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(exits_with_one_line(run, command_line()))
