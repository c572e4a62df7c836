"""Small runs of train.py in the environments of faulty.py, in processes of their own."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.programs import ENVIRONMENT, command

CRASH_DRIVER = Path(__file__).with_name("crash_driver.py")
SMALL = {"task__env_id": "Sound-v0", "task__action_repeat": 1, "env_steps": 60, "log_every": 1}
SMALL |= {"checkpoint_every": 20, "eval_every": 40, "env_timeout": 2}


def arguments(folder: Path, **changes: Any) -> list[str]:
    python, *rest = command(folder, **SMALL | changes)
    return [python, str(CRASH_DRIVER), "none", "0", *rest]


def run(
    folder: Path, before: Callable[[], None] | None = None, **changes: Any
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments(folder, **changes),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=before,
    )
