"""Comparison of runs, on synthetic run folders: what is said, what is refused, what is written."""

from __future__ import annotations

import copy
import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from curl.compare import compare, main
from curl.comparison.report import sections

STEPS = tuple(range(0, 100_001, 20_000))
TASKS = ("cartpole_swingup", "walker_walk")
CONFIG: dict[str, Any] = {
    "task": {"name": "cartpole_swingup", "env_id": "dm_control/some-task-v0", "action_repeat": 8},
    "agent": {"name": "sac", "label": "curl", "learning_rate": 0.001},
    "augmentation": {"label": "crop", "query": {"name": "crop"}, "key": {"name": "crop"}},
    "objective": {"name": "infonce"},
    "env_steps": 100_000,
    "batch_size": 128,
    "eval_every": 20_000,
    "eval_episodes": 3,
}


def make_run(
    root: Path,
    variant: str = "crop",
    task: str = "cartpole_swingup",
    seed: int = 1,
    *,
    final: float = 500.0,
    steps: Sequence[int] = STEPS,
    episodes: int = 3,
    **changes: Any,
) -> Path:
    """A run folder as train.py leaves it; its returns rise linearly to `final` at 100k env steps."""
    config = copy.deepcopy(CONFIG)
    config["task"] |= {"name": task, "action_repeat": 2 if task == "walker_walk" else 8}
    config["augmentation"]["label"] = config["augmentation"]["key"]["name"] = variant
    for key, value in changes.items():
        *groups, name = key.split("__")
        inner = config
        for group in groups:
            inner = inner[group]
        inner[name] = value
    config["label"] = f"curl-{variant}-{config['objective']['name']}"
    folder = root / task / config["label"] / f"seed_{seed}"
    config |= {"seed": seed, "run_dir": str(folder)}
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    rows: list[dict[str, Any]] = [{"kind": "train", "env_steps": 400, "critic_loss": 0.1}]
    for step in steps:
        centre = final * step / 100_000
        returns = [centre + offset for offset in np.linspace(-1, 1, episodes)]
        rows.append({"kind": "evaluation", "env_steps": step, "return_mean": centre})
        rows[-1]["returns"] = returns
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def make_grid(root: Path, levels: dict[str, float], *, seeds: int = 5, **options: Any) -> Path:
    """Runs of each variant on two tasks; seeds score 10 apart around the variant's level."""
    for variant, level in levels.items():
        for task in TASKS:
            for seed in range(1, seeds + 1):
                make_run(root, variant, task, seed, final=level + 10 * seed, **options)
    return root


def compared(*paths: Path, **options: Any) -> Any:
    return compare(paths, generator=np.random.default_rng(0), **options)


def refused(*paths: Path, **options: Any) -> str:
    """The one line with which a comparison is refused."""
    with pytest.raises(ValueError) as caught:
        compared(*paths, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)
