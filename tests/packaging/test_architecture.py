"""Who imports whom: a module reaches only those below it, and foreign names stay in their place."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "curl").rglob("*.py"))
PROGRAMS = [path for path in (ROOT / "train.py", ROOT / "eval.py") if path.exists()]

# From the bottom up. A package is one entry: its own modules may import each other.
LAYERS = (
    ("checks", "summary", "tables", "schema", "version"),
    ("registry", "hardware"),
    ("errors", "data"),
    ("augmentations", "objectives"),
    ("learning",),
    ("agents",),
    ("run",),
    ("study",),
    ("command",),
    ("__main__",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def part(path: Path) -> str:
    """The module or package directly under curl/ that a file belongs to."""
    return path.relative_to(ROOT / "curl").parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Dotted names that a file imports, anywhere in it; `from curl import x` counts as curl.x."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively; write the whole name"
            assert node.module is not None
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= set(names) if node.module == "curl" else {node.module}
    return found


def users(package: str, files: list[Path]) -> set[str]:
    """The files that import `package`, relative to the repository."""
    using = [f for f in files if any(name.split(".")[0] == package for name in imports(f))]
    return {str(path.relative_to(ROOT)) for path in using}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [p for p in SOURCES if part(p) != "__init__"], ids=name_of)
def test_a_module_imports_only_what_lies_below_it(path: Path) -> None:
    own = part(path)
    assert own in LEVEL, f"say in LAYERS where curl.{own} belongs"
    for name in imports(path):
        if name.split(".")[0] == "curl":
            other = name.split(".")[1]
            assert other == own or LEVEL[other] < LEVEL[own], f"curl.{own} imports {name}"


def test_nothing_imports_the_programs_or_the_tests() -> None:
    for path in SOURCES:
        roots = {name.split(".")[0] for name in imports(path)}
        assert not roots & {"train", "eval", "tests", "benchmarks"}, path


def test_hydra_and_omegaconf_stay_in_the_commands() -> None:
    for foreign in ("hydra", "omegaconf"):
        using = users(foreign, SOURCES + PROGRAMS)
        assert all(name.startswith("curl/command/") for name in using), using


def test_wandb_stays_in_the_logger() -> None:
    assert users("wandb", SOURCES + PROGRAMS) == {"curl/run/logger.py"}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_every_file_opens_with_what_it_holds(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_training_starts_without_the_packages_that_only_some_runs_use() -> None:
    """A run without videos, wandb and plots needs none of their packages, not even to start."""
    # These draw, compare, or compute statistics; a run does none of it.
    aside = ("curl.command.views", "curl.command.compare", "curl.study")
    dotted = [name_of(path).removesuffix(".py").replace("/", ".") for path in SOURCES]
    modules = [name for name in dotted if not name.startswith(aside) and "__" not in name]
    assert "curl.command.train" in modules
    modules += ["curl.study.status"]
    optional = ("av", "wandb", "matplotlib", "hydra_plugins", "ray")
    program = f"""
import sys
import {", ".join(modules)}
sys.exit(", ".join(name for name in {optional} if name in sys.modules) or None)
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, f"imported at the start: {ended.stderr}"
