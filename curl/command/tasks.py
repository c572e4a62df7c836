"""The tasks of configs/task, for commands that are not told by a whole configuration."""

from __future__ import annotations

from typing import Any

import yaml

from curl.checks import choice
from curl.command import CONFIGS


def task_settings(name: str) -> dict[str, Any]:
    """What `configs/task/<name>.yaml` says; `ValueError` if there is none."""
    choice("task", name, sorted(path.stem for path in CONFIGS.glob("task/*.yaml")))
    return yaml.safe_load((CONFIGS / "task" / f"{name}.yaml").read_text(encoding="utf-8"))
