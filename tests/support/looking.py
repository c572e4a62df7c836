"""A tiny run in the environment of grey frames, to be evaluated on several looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from curl.command.looks import with_looks
from curl.run.start import train
from support import faulty  # noqa: F401  registers environments
from support.configuration import composed
from support.programs import SETTINGS

ENVIRONMENT: dict[str, Any] = {"task.env_id": "Sound-v0", "task.action_repeat": 1}
ENVIRONMENT |= {"env_steps": 40, "eval_every": 20, "checkpoint_every": 20}


def config(folder: Path, **changes: Any) -> dict[str, Any]:
    settings = SETTINGS | ENVIRONMENT
    settings |= {key.replace("__", "."): value for key, value in changes.items()}
    found = composed(f"run_dir={folder}", *(f"{key}={value}" for key, value in settings.items()))
    return with_looks({key: value for key, value in found.items() if key != "experiment"})


def trained(folder: Path, **changes: Any) -> Path:
    """A run that has ended, with two checkpoints."""
    assert train(config(folder, **changes)) == 0
    return folder
