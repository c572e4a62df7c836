"""Ours against plain, in one process: `python -m benchmarks.speed [--quick] [--json FILE]`.

Both sides take turns, so every ratio is between neighbours in time. On CUDA both keep PyTorch's
default of TF32 for float32 convolutions, as users of plain code do (`train.py` switches it off for
itself). How to read the numbers: benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from rich.console import Console

from benchmarks.contenders import (
    ACTION_REPEAT,
    TASK,
    VARIANTS,
    Contender,
    Loop,
    Sizes,
    Steps,
    build,
    headline,
    peak_memory,
    replay_bytes,
    variants,
)
from benchmarks.floor import Machine, floor, measure_machine
from benchmarks.tables import RATIOS, show
from benchmarks.timing import Timing, add_allocator, interleave, ratio, use_allocator
from curl.errors import exits_with_one_line
from curl.hardware.device import (
    OpenGLError,
    choose_device,
    choose_opengl,
    machine,
    make_current,
    renders_in_software,
)

OTHER_SHADOWS = "plain, own shadows"

MakeEnv = Callable[[int | None], gym.Env[Any, Any]]
"""Shadow map size (None: the model's own) -> an environment."""


@dataclass(frozen=True)
class Settings:
    """What to measure, and for how long."""

    device: torch.device
    batches: tuple[int, ...] = (128, 512)
    variants: tuple[str, ...] = ()
    """Names from `VARIANTS` besides `train.py`'s choice."""
    sizes: Sizes = field(default_factory=Sizes)
    seconds: float = 45.0
    """Of updates, and of whole runs, a batch size; everything else takes a tenth of it."""
    rounds: tuple[int, int] = (5, 30)
    make_env: MakeEnv | None = None
    software: bool = True
    """Whether the CPU renders: ours then draws a smaller shadow map."""
    other_shadows: bool = True
    """Time also a whole run of plain with the model's own shadow map."""
    memory: bool = True
    gemm: tuple[int, int] = (2048, 256)
    """Edge of the matrix product and mebibytes of the copy that measure the machine."""


class Report:
    """Collects measurements; `values` is what goes into the JSON file."""

    def __init__(self, settings: Settings, say: Callable[[str], None]) -> None:
        self.settings, self.say = settings, say
        self.main = headline(settings.device)
        self.names = list(dict.fromkeys(("plain", *settings.variants, self.main)))
        about = machine(settings.device)
        self.values: dict[str, Any] = {
            "device": f"{settings.device.type}: {about['processor'] or platform.processor()}",
            "torch_version": about["torch"],
            "python_version": about["python"],
            "threads": about["threads"],
            "precision": self.main.split()[0],
            "variant": self.main,
            "batch": settings.batches[0],
            **{f"{what}_speedup": None for what in RATIOS},
            "run_speedup_other_shadows": None,
            "environment": None,
            "measurements": [],
            "speedups": [],
            "floor": [],
            "memory": [],
        }

    def time(
        self,
        what: str,
        functions: Mapping[str, Callable[[], object]],
        *,
        share: float = 0.1,
        batch: int | None = None,
        period: int = 1,
    ) -> dict[str, Timing]:
        """Interleave `functions` for a `share` of the settings' seconds, and record them."""
        self.say(f"{what}{f', batch {batch}' if batch else ''}: {', '.join(functions)}")
        settings = self.settings
        timings = interleave(
            functions,
            device=settings.device,
            seconds=share * settings.seconds,
            rounds=settings.rounds,
            period=period,
        )
        for name, timing in timings.items():
            row = {"what": what, "batch": batch, "contender": name, **timing.summary()}
            if what == "run":
                row["env_steps_per_second"] = ACTION_REPEAT / timing.median
            self.values["measurements"].append(row)
        slow = [name for name in timings if name.startswith("plain")]
        for fast in (name for name in timings if name not in slow):
            for name in slow:
                key = {"what": what, "batch": batch, "contender": fast, "against": name}
                self.values["speedups"].append(key | ratio(timings[name], timings[fast]))
        return timings

    def headlines(self) -> None:
        """The ratios of `train.py`'s own variant at the first batch size, by name."""
        for row in self.values["speedups"]:
            mine = row["contender"] in (self.main, "ours")
            if mine and row["batch"] in (None, self.settings.batches[0]):
                other = row["against"] == OTHER_SHADOWS
                self.values[f"{row['what']}_speedup{'_other_shadows' * other}"] = row["median"]


def measure(settings: Settings, say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Measure everything; the values of the JSON file."""
    report = Report(settings, say)
    device, sizes = settings.device, settings.sizes
    say("arithmetic and bandwidth of this machine")
    best = measure_machine(device, edge=settings.gemm[0], mebibytes=settings.gemm[1])
    report.values["machine"] = {
        "float32_tflops": best.flops[torch.float32] / 1e12,
        "bfloat16_tflops": best.flops[torch.bfloat16] / 1e12,
        "copy_gb_per_s": best.bandwidth / 1e9,
    }
    with contextlib.ExitStack() as stack:
        envs = environments(report, stack)
        for batch in settings.batches:  # anew for each: captured graphs have one batch size
            contenders = {name: build(name, sizes, device) for name in report.names}
            learning(report, contenders, batch, best)
            if batch == settings.batches[0]:
                report.time("act", {name: c.act for name, c in contenders.items()})
            if envs:
                running(report, contenders, envs, batch)
    if settings.memory:
        for batch in settings.batches:
            for name in ("plain", report.main):
                say(f"memory, batch {batch}: {name}")
                peak = peak_memory(name, batch, sizes, device)
                report.values["memory"].append({"batch": batch, "contender": name, **peak})
    stored = replay_bytes(sizes)
    report.values["replay_bytes_100k"] = stored["ours"]
    report.values["replay_bytes_100k_plain"] = stored["plain"]
    report.headlines()
    return report.values


def learning(report: Report, contenders: dict[str, Contender], batch: int, best: Machine) -> None:
    """Updates with sampling, sampling with its crops alone, and the floor of an update."""
    updates = {n: calls(c.update, batch) for n, c in contenders.items()}
    timings = report.time("update", updates, share=1, batch=batch, period=2)
    samples = {n: calls(c.sample, batch) for n, c in contenders.items()}
    report.time("sample", samples, batch=batch)
    for name, timing in timings.items():
        if name != "plain":
            keywords = VARIANTS[name]
            joint = keywords.get("joint", False)
            shapes = report.settings.sizes.shapes
            row = floor(best, shapes, batch, keywords["precision"], joint=joint)
            row["time_over_floor"] = 1000 * timing.median / row["floor_ms"]
            report.values["floor"].append({"batch": batch, "contender": name, **row})


def environments(report: Report, stack: contextlib.ExitStack) -> dict[str, gym.Env[Any, Any]]:
    """One environment for each side of a whole run; times their steps, and rendering alone."""
    settings = report.settings
    make_env = settings.make_env
    if make_env is None:
        return {}
    small = 256 if settings.software else None
    report.values["environment"] = {
        "task": TASK,
        "action_repeat": ACTION_REPEAT,
        "render_size": settings.sizes.frame,
        "drawn_by": "CPU" if settings.software else "GPU",
        "shadow_size": {"ours": small, "plain": None, "plain in runs": small},
    }

    def fresh(shadow_size: int | None) -> gym.Env[Any, Any]:
        env = make_env(shadow_size)
        stack.callback(env.close)
        return env

    both = {"plain": fresh(None), "ours": fresh(small)}
    report.time("step", {name: Steps(env) for name, env in both.items()})
    report.time("render", {name: env.unwrapped.render for name, env in both.items()})
    envs = {name: fresh(small) for name in report.names}
    if settings.other_shadows and settings.software:
        envs[OTHER_SHADOWS] = fresh(None)
    return envs


def running(
    report: Report,
    contenders: dict[str, Contender],
    envs: dict[str, gym.Env[Any, Any]],
    batch: int,
) -> None:
    """Whole runs; plain drives the same environment as ours, and its own if asked for."""
    if OTHER_SHADOWS in envs:
        sizes, device = report.settings.sizes, report.settings.device
        contenders = contenders | {OTHER_SHADOWS: build("plain", sizes, device)}
    loops = {name: Loop(c, envs[name], batch) for name, c in contenders.items()}
    report.time("run", loops, share=1, batch=batch, period=2)


def calls(function: Callable[[int], object], batch: int) -> Callable[[], object]:
    return lambda: function(batch)


def command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under a minute: few rounds of 128")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    parser.add_argument("--batch", type=int, nargs="+", help="batch sizes; default: 128 512")
    parser.add_argument(
        "--variants",
        nargs="*",
        choices=VARIANTS,
        help="of ours, besides train.py's choice; default: all, with --quick none",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:<number>")
    add_allocator(parser)
    arguments = parser.parse_args()
    if min(arguments.batch or [1]) < 1:
        parser.error("--batch must be integers >= 1")
    if arguments.json is not None and not arguments.json.resolve().parent.is_dir():
        parser.error(f"--json: there is no folder {arguments.json.resolve().parent}")
    return arguments


def run(arguments: argparse.Namespace) -> int:
    console = Console(stderr=True)
    logging.getLogger("curl").setLevel(logging.WARNING)  # one line a replay buffer is too many
    device = choose_device(arguments.device)
    make_current(device)
    use_allocator(arguments.allocator)
    wanted = arguments.variants
    if wanted is None:
        wanted = [] if arguments.quick else list(VARIANTS)
    names = [name for name in wanted if name in variants(device)]
    for name in set(wanted) - set(names):
        console.print(f"skipped: {name} (of no use on {device}, or not known to SAC)")
    options: dict[str, Any] = {}
    try:
        backend = choose_opengl("auto", device)
        options["software"] = renders_in_software(backend, device)
        options["make_env"] = cartpole
    except OpenGLError as error:
        console.print(f"without environments: {error}", markup=False)
    if arguments.quick:
        options |= {"seconds": 8.0, "rounds": (3, 20), "other_shadows": False}
    settings = Settings(
        device=device,
        batches=tuple(arguments.batch or ([128] if arguments.quick else [128, 512])),
        variants=tuple(names),
        sizes=Sizes(transitions=1000 if arguments.quick else 2000),
        **options,
    )
    values = measure(settings, console.print)
    show(values, Console())
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(values, indent=1) + "\n")
    return 0


def cartpole(shadow_size: int | None) -> gym.Env[Any, Any]:
    from curl.data.environment import make_env  # imports MuJoCo, which wants its backend chosen

    return make_env(env_id=TASK, action_repeat=ACTION_REPEAT, shadow_size=shadow_size)


if __name__ == "__main__":
    raise SystemExit(exits_with_one_line(run, command_line()))
