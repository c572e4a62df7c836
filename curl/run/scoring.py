"""Score a saved run: returns of new episodes, their statistics, and evaluation.json.

It imports MuJoCo's renderer, so import it after `choose_opengl`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from curl.data.environment import environment_settings
from curl.data.seeding import seed_everything
from curl.files import write_json
from curl.hardware.device import renders_in_software
from curl.run.checkpoint import refuse_foreign_content
from curl.run.evaluation import Evaluator
from curl.run.folder import RunFolder
from curl.run.policy import load
from curl.summary import mean_interval, sample_std


@torch.no_grad()
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
        backend: what draws, as `choose_opengl` returned it.
        stop: asked before every step; see `Evaluator`.

    Returns:
        What is written to evaluation.json in the folder of the run: the returns of all episodes,
        and what `summary` makes of them. `failures` lists the files that could not be written.

    Raises:
        CheckpointError: there is no such run, or it has no sound checkpoint of ours.
        InterruptedError: `stop` said so.
    """
    policy = load(run, device=device, seed=seed)
    with refuse_foreign_content(run):
        settings = environment_settings(policy.config, renders_in_software(backend, device))
    folder = RunFolder.of(run)
    file = folder.evaluation_video(policy.clock.now, seed) if video else None
    if file is not None:
        with contextlib.suppress(OSError):  # of an earlier evaluation, which this one replaces
            file.unlink(missing_ok=True)
    seed_everything(seed, device)  # some environments draw from the global generators
    evaluator = Evaluator(
        settings=settings,
        episodes=episodes,
        frame_stack=policy.frame_stack,
        device=device,
        processes=processes,
    )
    try:
        returns = evaluator(policy.agent, seed=seed, video=file, stop=stop)
    finally:
        evaluator.close()
    result: dict[str, Any] = {
        "run": str(run),
        "file": str(folder.evaluation),
        "task": str(policy.config["task"]["name"]),
        "axis": policy.clock.axis,
        **policy.clock.counts(),
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


def summary(returns: Sequence[float]) -> dict[str, Any]:
    """Mean, sample standard deviation and 95 % t-interval of the mean (None for one episode)."""
    return {
        "mean": float(np.mean(returns)),
        "std": sample_std(returns),
        "interval": mean_interval(returns),
    }
