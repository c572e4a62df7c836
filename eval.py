"""Evaluate checkpoints: `python eval.py RUN [RUN ...] --episodes 10 --video --seed 0`.

`python eval.py compare RUN [RUN ...]` compares the recorded metrics of many runs instead.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # no traceback of the slow imports

import numpy as np
import torch
from rich.text import Text
from scipy import stats

from curl import schema
from curl.checks import whole
from curl.data.seeding import seed_everything
from curl.errors import BAD_INPUT, exits_with_one_line, program, refuse
from curl.hardware.device import (
    choose_device,
    choose_opengl,
    load_renderer,
    prepare_device,
    renders_in_software,
)
from curl.run.build import build_agent
from curl.run.checkpoint import (
    CheckpointError,
    Checkpoints,
    clock_of,
    read_state,
    refuse_foreign_content,
    sizes_of,
)
from curl.run.folder import RunFolder
from curl.run.guard import StopSignal, reason
from curl.summary import sample_std
from curl.tables import make_console, table


def evaluate_run(
    run: Path,
    *,
    episodes: int,
    seed: int,
    video: bool,
    device: torch.device,
    backend: str,
    processes: int,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Evaluate a run's newest sound checkpoint, or the state file `run`.

    Args:
        stop: asked before every step; see `Evaluator`.

    Returns:
        Returns of all episodes, their mean, sample standard deviation and the 95 % t-interval of
        the mean. `failures` lists the files that could not be written.
    """
    if not run.exists():
        raise CheckpointError(f"{run} does not exist")
    folder = RunFolder.of(run)
    state = Checkpoints(run).newest_state() if run.is_dir() else read_state(run)
    with settings_of(run):
        config = schema.checked(state["config"], schema.Policy)

    from curl.data.environment import environment_settings, make_env
    from curl.run.evaluation import Evaluator

    with refuse_foreign_content(run), settings_of(run):
        task = str(config["task"]["name"])
        clock = clock_of(state)
        environment = environment_settings(config, renders_in_software(backend, device))
        if (sizes := sizes_of(state)) is not None:
            action_dim = sizes.action_dim
        else:  # an older version saved the run
            with contextlib.closing(make_env(**environment)) as env:
                action_dim = int(env.action_space.shape[0])  # pyright: ignore[reportOptionalSubscript]
        generator = seed_everything(seed, device)
        agent = build_agent(config, action_dim=action_dim, generator=generator)
        agent.load(state["agent"])
    file = folder.evaluation_video(clock.now, seed) if video else None
    if file is not None:
        with contextlib.suppress(OSError):  # of an earlier evaluation, which this one replaces
            file.unlink(missing_ok=True)
    evaluator = Evaluator(
        settings=environment,
        episodes=episodes,
        frame_stack=config["frame_stack"],
        device=device,
        processes=processes,
    )
    try:
        returns = evaluator(agent, seed=seed, video=file, stop=stop)
    finally:
        evaluator.close()
    result: dict[str, Any] = {
        "run": str(run),
        "file": str(folder.evaluation),
        "task": task,
        "axis": clock.axis,
        **clock.counts(),
        "episodes": episodes,
        "seed": seed,
        **summary(returns),
        "returns": returns,
    }
    failures = []
    if file is not None and file.exists():
        result["video"] = str(file)
    elif file is not None:
        failures.append(f"{file} could not be written")
    try:
        write_json(folder.evaluation, result)
    except OSError as error:
        result["file"] = None
        failures.append(f"{folder.evaluation} could not be written: {error.strerror}")
    return result | ({"failures": failures} if failures else {})


@contextlib.contextmanager
def settings_of(run: Path) -> Iterator[None]:
    """Refusals of a saved setting say whose it is: another version may have saved it."""
    try:
        yield
    except schema.SettingsError as error:
        line = f"{run} has settings that this version does not take: {error}"
        raise CheckpointError(line) from None


def summary(returns: list[float]) -> dict[str, Any]:
    """Mean, sample standard deviation and 95 % t-interval of the mean (None for one episode)."""
    mean, std = float(np.mean(returns)), sample_std(returns)
    if std is None:
        return {"mean": mean, "std": None, "interval": None}
    half = float(stats.t.ppf(0.975, len(returns) - 1)) * std / len(returns) ** 0.5
    return {"mean": mean, "std": std, "interval": [mean - half, mean + half]}


def write_json(path: Path, content: Any) -> None:
    """Write aside, then rename; `OSError` if that cannot be done."""
    aside = path.with_name(path.name + ".aside")
    try:
        aside.write_text(json.dumps(content, indent=2) + "\n")
        aside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise


def show(results: list[dict[str, Any]]) -> None:
    """A table, one row a checkpoint, and the files that were written."""
    head = ("run", "env steps", "episodes", "mean return", "sample std", "95 % interval")
    rows = []
    for r in results:
        low, high = r["interval"] or (None, None)
        interval = "-" if low is None else f"[{low:.1f}, {high:.1f}]"
        std = "-" if r["std"] is None else f"{r['std']:.1f}"
        cells = (f"{r['env_steps']:,}", str(r["episodes"]), f"{r['mean']:.1f}", std, interval)
        rows.append((r["run"], *cells))
    console = make_console()
    console.print(table(head, rows, width=console.width, right=range(1, len(head))))
    for r in results:
        files = " ".join(f for f in (r["file"], r.get("video")) if f)
        console.print(Text(files), soft_wrap=True)


@torch.no_grad()
def evaluate_all(arguments: argparse.Namespace) -> int:
    """Evaluate each run; what fails is reported, and costs nothing of the others.

    Returns:
        The exit code: 0, or 2 if anything failed, or 128 + n after signal n.
    """
    whole("episodes", arguments.episodes)
    whole("processes", arguments.processes)
    whole("seed", arguments.seed, at_least=0)
    device = choose_device(arguments.device)
    prepare_device(device)
    backend = choose_opengl(arguments.opengl, device)
    load_renderer(backend)
    asked = StopSignal(
        lambda text: print(text, file=sys.stderr),
        what="stopping; results of the runs evaluated so far follow",
    )
    results: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    for run in arguments.runs:
        try:
            result = evaluate_run(
                run,
                episodes=arguments.episodes,
                seed=arguments.seed,
                video=arguments.video,
                device=device,
                backend=backend,
                processes=arguments.processes,
                stop=lambda: asked.number is not None,
            )
        except InterruptedError:
            break
        except Exception as error:
            if os.environ.get("CURL_TRACEBACK"):
                traceback.print_exc()
            expected = isinstance(error, (ValueError, OSError))
            text = str(error) if expected else reason(error)
            refuse(text if str(run) in text else f"{run}: {text}")
            failed.append({"run": str(run), "error": text})
            continue
        results.append(result)
        for failure in result.get("failures", ()):
            refuse(failure)
    if results:
        show(results)
    complete = not failed and not any("failures" in result for result in results)
    if arguments.out is not None:
        try:
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            write_json(arguments.out, [*results, *failed])
        except OSError as error:
            refuse(f"{arguments.out} could not be written: {error.strerror}")
            complete = False
    if asked.number is not None:
        return 128 + asked.number
    return 0 if complete else BAD_INPUT


def main() -> int:
    if sys.argv[1:2] == ["compare"]:
        from curl.study import compare

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
    program(main)
