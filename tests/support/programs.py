"""train.py in a process of its own, with tiny settings, and what it wrote and said.

Runs are of 100 agent steps: 50 env steps each, so an episode has 20.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from curl.hardware.device import choose_opengl
from support.paths import ROOT

SETTINGS = {
    "task.action_repeat": 50,
    "env_steps": 5000,
    "initial_steps": 25,
    "eval_every": 2000,
    "eval_episodes": 1,
    "checkpoint_every": 2000,
    "log_every": 50,
    "batch_size": 8,
    "agent.hidden_dim": 16,
    "precision": "float32",
    "threads": 1,
    "render_size": 40,
    "augmentation.query.size": 36,
    "augmentation.key.size": 36,
    "replay.capacity": 60,  # so it wraps
    "video": False,
    "logger.wandb": "disabled",
}
ENVIRONMENT = os.environ | {
    "MUJOCO_GL": choose_opengl("auto", torch.device("cpu")),
    "CUDA_VISIBLE_DEVICES": "",
    "WANDB_MODE": "disabled",
    "COLUMNS": "1000",
}
CLOCK = ("wall_time", "updates_per_second", "env_steps_per_second")


def command(folder: Path, **changes: Any) -> list[str]:
    settings = SETTINGS | {key.replace("__", "."): value for key, value in changes.items()}
    overrides = [f"{key}={value}" for key, value in settings.items()]
    return [sys.executable, str(ROOT / "train.py"), f"run_dir={folder}", *overrides]


def run(arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments, env=ENVIRONMENT | environment, capture_output=True, text=True, timeout=300
    )


def train(folder: Path, **changes: Any) -> None:
    done = run(command(folder, **changes))
    assert done.returncode == 0, done.stderr


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def timeless(folder: Path) -> list[dict[str, Any]]:
    """The metrics without what the clock says."""
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in rows(folder)]


def assert_refused(done: subprocess.CompletedProcess[str], reason: str) -> None:
    """Exit code 2 and, log lines aside, one line that gives the reason."""
    lines = [line for line in done.stderr.splitlines() if not line.startswith(("INFO", "WARNING"))]
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    assert reason in lines[0]
    assert "Traceback" not in done.stdout
