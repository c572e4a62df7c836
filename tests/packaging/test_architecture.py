"""Who imports whom: a module reaches only those below it, and foreign names stay in their place.

The tests mirror the package, and none imports another.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from support.paths import ROOT, TESTS

SOURCES = sorted((ROOT / "curl").rglob("*.py"))
PROGRAMS = [path for path in (ROOT / "train.py", ROOT / "eval.py") if path.exists()]

# From the bottom up. A package is one entry: its own modules may import each other.
LAYERS = (
    ("checks", "clips", "files", "pictures", "summary", "tables", "schema", "version"),
    ("registry", "hardware"),
    ("shifts",),
    ("errors", "data"),
    ("augmentations", "objectives"),
    ("learning",),
    ("agents",),
    ("run",),
    ("study",),
    ("inspection",),
    ("command",),
    ("__main__",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

# Folders of tests: one for each package of curl/ and one for the modules directly below it
# (ground). contracts/ holds what runs over every YAML file, benchmarks/ what tests benchmarks/, and
# packaging/ what tests the files around the code. support/ is what tests share, and holds no test.
STOREYS = {path.parent.name for path in (ROOT / "curl").glob("*/__init__.py")} | {"ground"}
FOLDERS = STOREYS | {"contracts", "benchmarks", "packaging"}
SUPPORT = "support"
TEST_FILES = sorted(TESTS.rglob("test_*.py"))


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


@pytest.mark.parametrize("mirror", ["wandb", "tensorboard"])
def test_a_mirror_of_the_metrics_stays_in_its_file(mirror: str) -> None:
    """Only the logger knows that there are mirrors."""
    assert users(mirror, SOURCES + PROGRAMS) == {f"curl/run/{mirror}.py"}
    dotted = f"curl.run.{mirror}"
    assert {name_of(path) for path in SOURCES + PROGRAMS if dotted in imports(path)} == {
        "curl/run/logger.py"
    }


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_every_file_opens_with_what_it_holds(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_training_starts_without_the_packages_that_only_some_runs_use() -> None:
    """A run without videos, wandb, plots and datasets needs none of their packages to start."""
    # These draw, compare, or compute statistics; a run does none of it.
    aside = ("curl.command.views", "curl.command.compare", "curl.study", "curl.inspection")
    dotted = [name_of(path).removesuffix(".py").replace("/", ".") for path in SOURCES]
    modules = [name for name in dotted if not name.startswith(aside) and "__" not in name]
    assert "curl.command.train" in modules
    modules += ["curl.study.status"]
    optional = (
        "av",
        "wandb",
        "tensorboard",
        "matplotlib",
        "minari",
        "h5py",
        "hydra_plugins",
        "ray",
        "onnx",
        "onnxruntime",
        "onnxscript",
    )
    program = f"""
import sys
import {", ".join(modules)}
sys.exit(", ".join(name for name in {optional} if name in sys.modules) or None)
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, f"imported at the start: {ended.stderr}"


# -- the tests -------------------------------------------------------------------------------------


def imported_tests(source: str) -> list[str]:
    """The test modules that a program imports, by whatever name, as they are written there."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            names += [f"{module}.{alias.name}" for alias in node.names]
    tests = {path.stem for path in TEST_FILES}
    return [name for name in names if not tests.isdisjoint(name.split("."))]


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=name_of)
def test_no_file_of_the_tests_imports_a_test(path: Path) -> None:
    found = imported_tests(path.read_text())
    assert not found, f"move what is shared into tests/{SUPPORT}"


@pytest.mark.parametrize(
    "source",
    [
        "import test_sac",
        "from test_sac import make_agent",
        "from agents import test_sac",
        "from agents.test_sac import make_agent",
        "import tests.agents.test_sac as shared",
        "from . import test_sac",
        "def test() -> None:\n    from .test_sac import make_agent",
    ],
)
def test_an_import_of_a_test_is_noticed(source: str) -> None:
    assert len(imported_tests(source)) == 1


def misplaced(path: Path) -> str | None:
    """What is wrong with the place of a file, which is given relative to tests/; None if nothing.

    A test that has the name of a module of curl/ lies in the folder of that module.
    """
    folder, stem = path.parent.as_posix(), path.stem
    if not stem.startswith("test_"):
        shared = path.name == "conftest.py" or folder == SUPPORT
        return None if shared else f"what is no test belongs in {SUPPORT}/"
    if folder not in FOLDERS:
        return f"tests belong in one of {', '.join(sorted(FOLDERS))}"
    name = stem.removeprefix("test_")
    homes = {"ground" if p.parent.name == "curl" else part(p) for p in SOURCES if p.stem == name}
    if folder in STOREYS and homes and folder not in homes:
        return f"curl has {name} in {', '.join(sorted(homes))}"
    return None


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=name_of)
def test_tests_lie_where_the_package_has_what_they_test(path: Path) -> None:
    assert misplaced(path.relative_to(TESTS)) is None


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("test_sac.py", "tests belong in one of "),
        ("misc/test_sac.py", "tests belong in one of "),
        ("agents/deep/test_sac.py", "tests belong in one of "),
        ("support/test_tape.py", "tests belong in one of "),
        ("agents/shared.py", "what is no test belongs in support/"),
        ("run/test_sac.py", "curl has sac in agents"),
        ("run/test_schema.py", "curl has schema in ground"),
    ],
)
def test_a_file_in_the_wrong_place_is_noticed(path: str, fault: str) -> None:
    assert (misplaced(Path(path)) or "").startswith(fault)


def test_every_storey_has_tests() -> None:
    assert {path.parent.name for path in TEST_FILES} == FOLDERS
