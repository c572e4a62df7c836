"""Evaluate checkpoints: `python eval.py RUN [RUN ...] --episodes 10 --video --seed 0`.

`python eval.py compare RUN [RUN ...]` compares the recorded metrics of many runs instead.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy import stats

from curl.checkpoint import CheckpointError, Checkpoints, env_steps_of, one_of_ours, read_state
from curl.checks import whole
from curl.cli import exits_with_one_line
from curl.hardware import (
    choose_device,
    choose_opengl,
    prepare_device,
    renders_in_software,
)
from curl.seeding import seed_everything
from train import build_agent


def evaluate_run(
    run: Path,
    *,
    episodes: int,
    seed: int,
    video: bool,
    device_name: str,
    opengl: str,
    processes: int,
) -> dict[str, Any]:
    """Evaluate a run's newest sound checkpoint, or the state file `run`.

    Returns:
        Returns of all episodes, their mean, standard deviation and the 95 % t-interval of the mean.
    """
    whole("episodes", episodes)
    whole("seed", seed, at_least=0)
    if not run.exists():
        raise CheckpointError(f"{run} does not exist")
    folder = run if run.is_dir() else run.parent.parent
    state = Checkpoints(run).newest_state() if run.is_dir() else read_state(run)
    device = choose_device(device_name)
    prepare_device(device)
    backend = choose_opengl(opengl, device)

    from curl.environment import environment_settings, make_env
    from curl.evaluation import Evaluator

    with one_of_ours(run):
        config = state["config"]
        task = str(config["task"]["name"])
        env_steps = int(env_steps_of(state))
        environment = environment_settings(config, renders_in_software(backend, device))
        with contextlib.closing(make_env(**environment)) as env:
            action_dim = int(env.action_space.shape[0])  # pyright: ignore[reportOptionalSubscript]
        generator = seed_everything(seed, device)
        agent = build_agent(config, action_dim=action_dim, generator=generator)
        agent.load(state["agent"])
    file = folder / "videos" / f"evaluation-{env_steps}-seed{seed}.mp4" if video else None
    evaluator = Evaluator(
        settings=environment,
        episodes=episodes,
        frame_stack=config["frame_stack"],
        device=device,
        processes=processes,
    )
    try:
        returns = evaluator(agent, seed=seed, video=file)
    finally:
        evaluator.close()
    result: dict[str, Any] = {
        "run": str(run),
        "file": str(folder / "evaluation.json"),
        "task": task,
        "env_steps": env_steps,
        "episodes": episodes,
        "seed": seed,
        **summary(returns),
        "returns": returns,
    }
    if file is not None and file.exists():
        result["video"] = str(file)
    aside = folder / "evaluation.json.aside"
    aside.write_text(json.dumps(result, indent=2) + "\n")
    aside.replace(folder / "evaluation.json")
    return result


def summary(returns: list[float]) -> dict[str, Any]:
    """Mean, sample standard deviation and 95 % t-interval of the mean (None for one episode)."""
    values = np.asarray(returns)
    mean = float(values.mean())
    if len(values) < 2:
        return {"mean": mean, "std": 0.0, "interval": None}
    std = float(values.std(ddof=1))
    half = float(stats.t.ppf(0.975, len(values) - 1)) * std / len(values) ** 0.5
    return {"mean": mean, "std": std, "interval": [mean - half, mean + half]}


def show(results: list[dict[str, Any]]) -> None:
    """A table, one row a checkpoint."""
    table = Table()
    table.add_column("run", overflow="fold")
    for column in ("env steps", "episodes", "mean return", "std", "95 % interval"):
        table.add_column(column, justify="right")
    for r in results:
        low, high = r["interval"] or (None, None)
        interval = "-" if low is None else f"[{low:.1f}, {high:.1f}]"
        row = (f"{r['env_steps']:,}", str(r["episodes"]), f"{r['mean']:.1f}", f"{r['std']:.1f}")
        table.add_row(r["run"], *row, interval)
    console = Console()
    console.print(table)
    for r in results:
        console.print(r["file"], r.get("video", ""), soft_wrap=True)


def evaluate_all(arguments: argparse.Namespace) -> int:
    torch.set_grad_enabled(False)
    results = [
        evaluate_run(
            run,
            episodes=arguments.episodes,
            seed=arguments.seed,
            video=arguments.video,
            device_name=arguments.device,
            opengl=arguments.opengl,
            processes=arguments.processes,
        )
        for run in arguments.runs
    ]
    show(results)
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(results, indent=2) + "\n")
    return 0


def main() -> int:
    if sys.argv[1:2] == ["compare"]:
        from curl import compare

        return exits_with_one_line(compare.main, sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="run folder or state file"
    )
    parser.add_argument("--episodes", type=int, default=10, help="episodes (default 10)")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the episodes: any whole number (default 0)"
    )
    parser.add_argument("--video", action="store_true", help="write an MP4 of the first episode")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:<number>")
    parser.add_argument("--opengl", default="auto", help="auto, egl, osmesa, glfw")
    parser.add_argument(
        "--processes", type=int, default=1, help="episodes side by side (default 1)"
    )
    parser.add_argument("--out", type=Path, help="write all results to this JSON file as well")
    parser.epilog = "`eval.py compare --help`: compare the metrics of many runs"
    return exits_with_one_line(evaluate_all, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
