"""Where the project, its configurations and its tests lie."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
TESTS = ROOT / "tests"
