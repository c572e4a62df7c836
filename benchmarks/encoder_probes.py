"""What can be read from the pretrained encoders: `python -m benchmarks.encoder_probes`.

Measures the probes of curl/run/probes.py on each finished run of the first stage of
benchmarks.pretraining, and on encoders that were never trained (`none`), and keeps them in
results/pretraining/probes.json for the page.

    exit code 0   all are measured
              2   the command line cannot be followed
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.cells import ROOT, Table, compose_all, shown
from benchmarks.pretraining import OBJECTIVES, PRETRAIN, REPLAY, TASK, Stage, stages
from benchmarks.pretraining_page import PROBES
from curl.agents.base import Agent
from curl.data import dataset
from curl.data.seeding import seed_everything
from curl.errors import exits_with_one_line
from curl.files import write_json
from curl.hardware.device import choose_opengl, load_renderer, renders_in_software
from curl.run.build import build_agent
from curl.run.folder import RunFolder
from curl.run.guard import Watchdog
from curl.run.policy import load

CPU = torch.device("cpu")


def untrained(config: Mapping[str, Any], action_dim: int) -> Agent:
    """The agent of a configuration as it begins."""
    generator = seed_everything(config["seed"], CPU)
    return build_agent(config, action_dim=action_dim, generator=generator)


def measure(seeds: Sequence[int], table: Table) -> dict[str, dict[str, dict[str, float]]]:
    """Objective -> seed -> name of the probe -> R^2."""
    backend = choose_opengl("auto", CPU)
    load_renderer(backend)
    from curl.data.environment import environment_settings
    from curl.run.probes import Probes

    recorded = dataset.read(REPLAY)
    objectives = [name for name in OBJECTIVES if name != "none"]
    cells = stages((PRETRAIN,), objectives, ("finetune",), seeds, table.runs)[PRETRAIN]
    fresh = [Stage("imitate", "none", TASK, seed, table.runs) for seed in seeds]
    composed = compose_all([*fresh, *cells])
    replay = recorded.replay(frame_stack=composed[fresh[0]]["frame_stack"])
    software = renders_in_software(backend, CPU)
    settings = environment_settings(composed[fresh[0]], software)
    # One seed for all, so that all encoders are asked about the same transitions.
    probes = Probes(replay=replay, dataset=recorded, settings=settings, episodes=None, seed=0)
    watchdog = Watchdog(timeout=300, on_hang=lambda cause: sys.exit(cause))
    found: dict[str, dict[str, dict[str, float]]] = {}
    for cell in [*fresh, *cells]:
        folder = table.folder(cell)
        if cell.objective == "none":
            agent = untrained(composed[cell], recorded.origin.action_dim)
        elif table.look(cell, composed[cell]).state == "finished" and RunFolder(folder).states():
            agent = load(folder, device="cpu").agent
        else:
            continue
        r2 = {name: round(value, 4) for name, value in probes(agent, watchdog).items()}
        found.setdefault(cell.objective, {})[str(cell.seed)] = r2
        print(f"{cell.objective}, seed {cell.seed}: {r2}", flush=True)
    return found


def drive(arguments: argparse.Namespace) -> int:
    table = Table(results=arguments.results.resolve(), runs=arguments.runs.resolve())
    found = measure(arguments.seeds, table)
    path = table.results / PROBES
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, found)
    print(shown(path))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.encoder_probes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=[1, 2, 3], help="default: 1 2 3")
    add("--results", type=Path, default=ROOT / "results/pretraining", help="folder of the curves")
    add("--runs", type=Path, default=ROOT / "runs/pretraining", help="folder of the run folders")
    return exits_with_one_line(drive, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
