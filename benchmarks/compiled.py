"""Does `torch.compile` help the small agent? `python -m benchmarks.compiled trunk`, or `learn`.

`trunk` compiles the forward passes of trunk, actor and critics; `learn` compiles a whole update.
Both are compared with the eager update in the same process, in CPU time on one thread. It needs a
C++ compiler.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch

from benchmarks.small import build_small
from curl.agents.sac import SAC
from curl.data.batch import Batch
from curl.hardware.processor import keep_freed_memory

BATCH = 64  # as experiment=laptop has it
NETWORKS = ("trunk", "target_trunk", "actor", "critic", "target_critic")
ROUNDS, UPDATES = 12, 10


def make() -> tuple[SAC, Batch]:
    """The small agent and a batch of noise."""
    small = build_small(torch.device("cpu"), torch.bfloat16)
    return small.agent, small.replay.sample(BATCH, small.generator, small.agent.offsets)


def compile_parts(agent: Any, what: str) -> None:
    """Compile the networks of `agent`, or its whole update."""
    if what == "learn":
        learn = torch.compile(agent.learn)
        agent._captured = lambda _, *tensors: learn(*tensors)
        return
    for name in NETWORKS:
        network = getattr(agent, name)
        network.forward = torch.compile(network.forward)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("trunk", "learn"))
    what = parser.parse_args().what
    torch.set_num_threads(1)
    keep_freed_memory()
    (eager, batch), (compiled, _) = make(), make()
    compile_parts(compiled, what)
    begun = time.perf_counter()
    for _ in range(6):  # compiles, and makes the optimisers' moments
        eager.update(batch)
        compiled.update(batch)
    print(f"compiled in {time.perf_counter() - begun:.0f} s")
    spent: dict[str, list[float]] = {"eager": [], "compiled": []}
    for _ in range(ROUNDS):
        for name, agent in (("eager", eager), ("compiled", compiled)):
            begun = time.process_time()
            for _ in range(UPDATES):
                agent.update(batch)
            spent[name].append((time.process_time() - begun) / UPDATES * 1e3)
    for name, times in spent.items():
        print(f"{name}: {statistics.median(times):.1f} ms of CPU time per update")


if __name__ == "__main__":
    main()
