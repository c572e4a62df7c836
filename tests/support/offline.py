"""Tiny runs of the offline loop in the environment of grey frames, in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from curl.run.checkpoint import read_state
from curl.run.folder import RunFolder
from support.configuration import composed
from support.programs import SETTINGS

OFFLINE: dict[str, Any] = {
    **SETTINGS,
    "task.env_id": "Sound-v0",
    "task.action_repeat": 1,
    "loop": "offline",
    "env_steps": "null",
    "updates": 12,
    "eval_every": 6,
    "checkpoint_every": 4,
    "log_every": 2,
}


def config(folder: Path, **changes: Any) -> dict[str, Any]:
    settings = OFFLINE | {key.replace("__", "."): value for key, value in changes.items()}
    found = composed(f"run_dir={folder}", *(f"{key}={value}" for key, value in settings.items()))
    return {key: value for key, value in found.items() if key != "experiment"}


def newest(folder: Path) -> dict[str, Any]:
    """The newest state file of a run."""
    return read_state(RunFolder(folder).states()[-1])
