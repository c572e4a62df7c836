"""What each shift costs per frame: `python -m benchmarks.shifts --task cartpole_swingup`.

Every file of configs/shift is measured, or those that are named. Each has an environment of its
own in one process, and they take turns, so that a slow moment of the machine hits all alike. A
frame is drawn without stepping the environment. `ratio` compares it, round by round, with the frame
of the environment as it is; `episode` is the first frame of an episode less a later one, which is
what a shift prepares once per episode. Shifts that make no sense on the task are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import yaml
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.tables import number
from benchmarks.timing import interleave, ratio
from curl.files import write_json
from curl.hardware.device import choose_opengl

CONFIGS = Path(__file__).parents[1] / "configs"
PLAIN = "none"
EPISODES = 15
CPU = torch.device("cpu")


def environment(task: str, shift: str, size: int) -> gym.Env[np.ndarray, np.ndarray]:
    """The environment of a task under a shift, as runs on a CPU draw it."""
    from curl.data.environment import environment_settings, make_env  # after OpenGL is chosen

    config = {
        "task": yaml.safe_load((CONFIGS / "task" / f"{task}.yaml").read_text()),
        "shift": yaml.safe_load((CONFIGS / "shift" / f"{shift}.yaml").read_text()),
        "render_size": size,
        "shadow_size": "auto",
    }
    return make_env(**environment_settings(config, software=True))


def first_frame(env: gym.Env[Any, Any], seed: int) -> float:
    """Seconds that the first frame of an episode takes beyond a later one."""
    frames = env.get_wrapper_attr("render")
    began = time.perf_counter()
    env.reset(seed=seed)
    first = time.perf_counter() - began
    began = time.perf_counter()
    frames()
    return first - (time.perf_counter() - began)


def measure(task: str, names: list[str], size: int, seconds: float) -> dict[str, dict[str, float]]:
    """Shift -> milliseconds per frame, its ratio to the plain frame, and those per episode."""
    with contextlib.ExitStack() as stack:
        draw: dict[str, Callable[[], object]] = {}
        envs: dict[str, gym.Env[Any, Any]] = {}
        for name in names:
            try:
                env = stack.enter_context(contextlib.closing(environment(task, name, size)))
            except ValueError as error:
                if not str(error).startswith("shift."):
                    raise
                print(f"left out: {error}", file=sys.stderr)
                continue
            envs[name], draw[name] = env, env.get_wrapper_attr("render")
        first: dict[str, list[float]] = {name: [] for name in envs}
        for seed in range(EPISODES):
            for name, env in envs.items():
                first[name].append(first_frame(env, seed))
        once = {name: float(np.median(values)) for name, values in first.items()}
        timings = interleave(draw, device=CPU, seconds=seconds, rounds=(5, 100))
    return {
        name: {
            "frame_ms": 1000 * timing.median,
            **{f"ratio_{key}": value for key, value in ratio(timing, timings[PLAIN]).items()},
            "episode_ms": 1000 * (once[name] - once[PLAIN]),
        }
        for name, timing in timings.items()
    }


def main() -> int:
    everything = sorted(path.stem for path in (CONFIGS / "shift").glob("*.yaml"))
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shifts")
    parser.add_argument("--task", default="cartpole_swingup", help="a file of configs/task")
    parser.add_argument("--shifts", nargs="*", default=everything, choices=everything)
    parser.add_argument("--size", type=int, default=100, help="edge of a frame, pixels")
    parser.add_argument("--seconds", type=float, default=20.0, help="for all of them together")
    parser.add_argument("--json", type=Path, help="also write the numbers there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of GLFW, which looks for a display
    backend = choose_opengl("auto", CPU)
    names = [PLAIN, *(name for name in options.shifts if name != PLAIN)]
    rows = measure(options.task, names, options.size, options.seconds)
    found = {"task": options.task, "size": options.size, "opengl": backend, "shifts": rows}
    if options.json is not None:
        write_json(options.json, found)
    table = Table(box=box.SIMPLE, title=f"{options.task}, {options.size} pixels, {backend}")
    for column in ("shift", "ms per frame", "ratio", "ms per episode"):
        table.add_column(column, justify="left" if column == "shift" else "right")
    for name, row in rows.items():
        cells = (row["frame_ms"], row["ratio_median"], row["episode_ms"])
        table.add_row(name, *(number(cell) for cell in cells))
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
