"""Updates replayed from CUDA graphs against eager ones: `python -m benchmarks.captured`.

Two agents begin alike and learn from the same batches; one records its updates, the other does not.
Both differ only by what a GPU's own freedom makes (the order of sums in cuDNN), which a third
agent, eager as well, shows. On a CPU nothing is recorded, and all three agree bit for bit.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.contenders import Sizes
from benchmarks.timing import interleave, ratio
from curl.agents.sac import SAC
from curl.augmentations.crop import Crop
from curl.checks import choice, integer
from curl.data.replay import ReplayBuffer
from curl.errors import exits_with_one_line
from curl.hardware.device import choose_device, machine
from curl.learning.capture import WARM_UP
from curl.objectives.infonce import InfoNCE

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def make_agent(*, capture: bool, precision: torch.dtype, device: torch.device, sizes: Sizes) -> SAC:
    """An agent that is the same for the same arguments, `capture` aside."""
    torch.manual_seed(0)
    return SAC(
        channels=3 * sizes.stack,
        action_dim=sizes.action_dim,
        query=Crop(size=sizes.crop),
        key=Crop(size=sizes.crop),
        objective=InfoNCE(latent_dim=50),
        generator=torch.Generator(device).manual_seed(0),
        precision=precision,
        hidden_dim=sizes.hidden,
        capture=capture,
    )


def make_replay(device: torch.device, sizes: Sizes) -> ReplayBuffer:
    """Transitions of random frames, actions and rewards."""
    source = np.random.default_rng(0)
    shape = (sizes.frame, sizes.frame, 3)
    replay = ReplayBuffer(
        capacity=sizes.transitions,
        frame_size=sizes.frame,
        action_dim=sizes.action_dim,
        frame_stack=sizes.stack,
        device=device,
    )
    replay.begin(source.integers(0, 256, shape, np.uint8))
    for _ in range(sizes.transitions):
        action = torch.as_tensor(source.uniform(-1, 1, sizes.action_dim).astype(np.float32))
        frame = source.integers(0, 256, shape, np.uint8)
        replay.add(action, float(source.uniform()), False, frame)
    return replay


def numbers(agent: SAC) -> Tensor:
    """Every weight of an agent, one float64 vector."""
    modules = [getattr(agent, name) for name in ("trunk", "critic", "actor", "target_critic")]
    weights = [weight for module in modules for weight in module.state_dict().values()]
    return torch.cat([weight.detach().double().flatten().cpu() for weight in weights])


def compare(
    precision: str,
    *,
    device: torch.device,
    batch_size: int,
    updates: int,
    sizes: Sizes,
    seconds: float = 10.0,
) -> dict[str, Any]:
    """How far recorded updates drift from eager ones, and what either takes.

    Differences are relative: of a metric the worst of all updates, of the weights after the last
    update their root mean square over that of the weights. Times are taken for `seconds`.
    """
    kinds = {"captured": True, "eager": False, "eager again": False}
    dtype = PRECISIONS[precision]
    agents = {
        name: make_agent(capture=capture, precision=dtype, device=device, sizes=sizes)
        for name, capture in kinds.items()
    }
    worst = dict.fromkeys(("captured", "eager again"), 0.0)
    replay, source = make_replay(device, sizes), torch.Generator(device).manual_seed(1)
    batch = replay.sample(batch_size, source)
    for _ in range(updates):
        metrics = {name: agent.update(batch) for name, agent in agents.items()}
        batch = replay.sample(batch_size, source)
        for name in worst:
            for key, value in metrics["eager"].items():
                there, here = float(value), float(metrics[name][key])
                worst[name] = max(worst[name], abs(here - there) / max(abs(there), 1e-3))
    weights = {name: numbers(agent) for name, agent in agents.items()}
    scale = weights["eager"].square().mean().sqrt()
    drift = {
        name: float((weights[name] - weights["eager"]).square().mean().sqrt() / scale)
        for name in worst
    }
    timings = interleave(
        {n: functools.partial(agents[n].update, batch) for n in ("captured", "eager")},
        device=device,
        seconds=seconds,
        rounds=(3, 20),
        period=2,
    )
    found = {
        "precision": precision,
        "updates": updates,
        "metrics_differ_by": worst,
        "weights_differ_by": drift,
        "finite": all(map(math.isfinite, (*worst.values(), *drift.values()))),
        "eager_over_captured": ratio(timings["eager"], timings["captured"]),
    }
    return found | {f"{name}_ms": timing.summary() for name, timing in timings.items()}


def run(arguments: argparse.Namespace) -> int:
    for precision in arguments.precisions:
        choice("--precisions", precision, tuple(PRECISIONS))
    logging.getLogger("curl").setLevel(logging.WARNING)
    device = choose_device(arguments.device)
    if arguments.tiny:
        torch.set_num_threads(1)
    least = 2 * WARM_UP + 2  # so that both phases are replayed at least once
    results = [
        compare(
            precision,
            device=device,
            batch_size=integer("--batch", arguments.batch),
            updates=integer("--updates", arguments.updates, at_least=least),
            sizes=Sizes(frame=24, crop=20, hidden=16, transitions=50)
            if arguments.tiny
            else Sizes(transitions=1000),
        )
        for precision in arguments.precisions
    ]
    values = {"machine": machine(device), "batch": arguments.batch, "results": results}
    text = json.dumps(values, indent=1)
    print(text)
    if arguments.json is not None:
        arguments.json.write_text(text + "\n")
    return 0


def command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.captured", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--updates", type=int, default=40)
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--tiny", action="store_true", help="tiny frames and networks")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(exits_with_one_line(run, command_line()))
