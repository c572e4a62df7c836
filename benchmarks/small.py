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

import numpy as np
import torch

from benchmarks.contenders import Sizes, build
from benchmarks.timing import interleave, ratio
from curl.agents.sac import SAC
from curl.augmentations.shift import Shift
from curl.checks import integer
from curl.data.replay import ReplayBuffer
from curl.errors import exits_with_one_line
from curl.hardware.device import choose_device, choose_precision, machine
from curl.hardware.processor import keep_freed_memory
from curl.objectives.infonce import InfoNCE

EDGE, HIDDEN = 44, 512  # of experiment=laptop; tests/benchmarks/test_benchmarks.py compares
STRIDES = (2, 2, 1, 1)


class Small:
    """The small agent and a replay buffer with noise."""

    def __init__(
        self, device: torch.device, precision: torch.dtype, transitions: int = 300
    ) -> None:
        self.generator = torch.Generator(device).manual_seed(1)
        frames = np.random.default_rng(0).integers(
            0, 256, (transitions + 1, EDGE, EDGE, 3), dtype=np.uint8
        )
        self.replay = ReplayBuffer(
            capacity=2000, frame_size=EDGE, action_dim=1, device=device, target=device
        )
        self.replay.begin(frames[0])
        for frame in frames[1:]:
            self.replay.add(torch.zeros(1), 1.0, False, frame)
        torch.manual_seed(0)
        self.agent = SAC(
            channels=9,
            action_dim=1,
            query=Shift(size=EDGE, pad=2),
            key=Shift(size=EDGE, pad=2),
            objective=InfoNCE(latent_dim=50),
            generator=self.generator,
            precision=precision,
            strides=STRIDES,
            hidden_dim=HIDDEN,
            convolution_init="orthogonal",
        )

    def update(self, batch_size: int) -> None:
        """Sample, and learn from it once."""
        self.agent.update(self.replay.sample(batch_size, self.generator, self.agent.offsets))


def run(arguments: argparse.Namespace) -> int:
    device = choose_device(arguments.device)
    if arguments.allocator == "kept":
        keep_freed_memory()
    batch_size = integer("--batch", arguments.batch)
    plain = build("plain", Sizes(transitions=300), device)
    small = Small(device, choose_precision("auto", device))
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
    parser.add_argument(
        "--allocator",
        choices=("kept", "default"),
        default="kept",
        help="whether freed memory is kept, as a run does; of both; default: kept",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(exits_with_one_line(run, command_line()))
