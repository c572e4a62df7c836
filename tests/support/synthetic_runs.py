"""Run folders as train.py leaves them, written without a run."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

STEPS = tuple(range(0, 100_001, 20_000))
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
    """A run folder as train.py leaves it; returns rise linearly to `final` at 100k env steps."""
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
