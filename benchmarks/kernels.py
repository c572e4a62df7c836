"""Triton's kernels against PyTorch on a GPU: `python -m benchmarks.kernels [--json FILE]`.

Each kernel of `curl/hardware/triton_kernels.py` takes turns with the PyTorch code that it stands in
for, at the sizes of the paper's agent; then updates and actions do, with the kernels and without.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.captured import make_agent, make_replay
from benchmarks.contenders import Sizes
from benchmarks.timing import interleave, ratio
from curl.agents.sac import SAC
from curl.data import batch
from curl.errors import exits_with_one_line
from curl.files import write_json
from curl.hardware.device import choose_device, machine, make_current
from curl.hardware.kernels import kernels_on
from curl.learning import networks

BATCH = 512


@contextmanager
def without_kernels() -> Iterator[None]:
    """PyTorch computes within."""
    before = batch.kernels_on, networks.kernels_on
    batch.kernels_on = networks.kernels_on = lambda device: None
    try:
        yield
    finally:
        batch.kernels_on, networks.kernels_on = before


def in_pytorch(work: Callable[[], Any]) -> Callable[[], Any]:
    """The same work without Triton's kernels."""

    def plain() -> Any:
        with without_kernels():
            return work()

    return plain


def both(work: Callable[[], Any]) -> dict[str, Callable[[], Any]]:
    """The same work with Triton's kernels and with PyTorch."""
    return {"triton": work, "pytorch": in_pytorch(work)}


def contenders(device: torch.device, sizes: Sizes) -> dict[str, dict[str, Callable[[], Any]]]:
    """What is measured: name -> contenders."""
    kernels = kernels_on(device)
    if kernels is None:
        raise ValueError(f"Triton's kernels do not work on {device}: there is nothing to compare")
    replay, source = make_replay(device, sizes), torch.Generator(device).manual_seed(1)
    drawn = replay.sample(BATCH, source)
    span = sizes.frame - sizes.crop + 1
    top, left = (torch.randint(span, (BATCH,), generator=source, device=device) for _ in "xy")
    view = drawn.obs.window(top, left, sizes.crop)
    edge = (sizes.crop - 3) // 2 + 1
    gradient, y = (channels_last(BATCH, 32, edge, device, source) for _ in "gy")

    def back() -> Tensor:
        return torch.ops.aten.threshold_backward(gradient, y, 0).sum((0, 2, 3))

    ours, theirs = (  # what an agent has recorded is recorded for good
        make_agent(capture=True, precision=torch.bfloat16, device=device, sizes=sizes)
        for _ in range(2)
    )

    def each(work: Callable[[SAC], Any]) -> dict[str, Callable[[], Any]]:
        return {"triton": lambda: work(ours), "pytorch": in_pytorch(lambda: work(theirs))}

    return {
        "window": both(lambda: drawn.obs.window(top, left, sizes.crop)),
        "scaling": both(lambda: networks.with_more_channels(view, torch.bfloat16)),
        "back through ReLU and bias": {
            "triton": lambda: kernels.rectified_gradient(gradient, y),
            "pytorch": back,
        },
        "update with sampling": each(lambda agent: agent.update(replay.sample(BATCH, source))),
        "acting": each(lambda agent: agent.act(replay.latest(), deterministic=False)[0].cpu()),
    }


def channels_last(
    count: int, channels: int, edge: int, device: torch.device, source: torch.Generator
) -> Tensor:
    """Noise in bfloat16, [count, channels, edge, edge]."""
    shape = (count, channels, edge, edge)
    noise = torch.randn(shape, generator=source, device=device, dtype=torch.bfloat16)
    return noise.contiguous(memory_format=torch.channels_last)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda or cuda:<number>")
    parser.add_argument("--json", type=Path, help="write the numbers there")
    arguments = parser.parse_args()

    def job() -> int:
        device = choose_device(arguments.device)
        make_current(device)
        found: dict[str, Any] = {"machine": machine(device), "batch": BATCH, "results": {}}
        for name, work in contenders(device, Sizes()).items():
            times = interleave(work, device=device, seconds=4, rounds=(5, 20), period=2)
            row = {who: time.summary() for who, time in times.items()}
            row["times_as_fast"] = ratio(times["pytorch"], times["triton"])
            found["results"][name] = row
            ours, theirs = (row[who]["median_ms"] for who in ("triton", "pytorch"))
            gain = row["times_as_fast"]["median"]
            print(f"{name:28} Triton {ours:.3f} ms, PyTorch {theirs:.3f} ms, ratio {gain:.2f}")
        if arguments.json:
            write_json(arguments.json, found)
        return 0

    return exits_with_one_line(job)


if __name__ == "__main__":
    raise SystemExit(main())
