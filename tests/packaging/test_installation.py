"""`make` finds a Python that the project supports, or gives up in one line."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TOOLS = ("sh", "make", "touch", "dirname", "uname", "mkdir", "cp", "chmod", "cat")

# A Python that knows its version, makes a virtual environment if it has `venv`, and writes down
# every other command that it is given.
STUB = """#!/bin/sh
case "$*" in
  *version_info*) echo {version} ;;
  *ensurepip*) exit {without_venv} ;;
  "-m venv "*) mkdir -p .venv/bin; cp "$0" .venv/bin/python; cp "$0" .venv/bin/pip ;;
  *) echo "{name}: $*" >> commands.txt ;;
esac
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def make(tmp_path: Path) -> Run:
    """Run make in a copy of the project's build files, where only the given Pythons exist.

    Pythons map a name to (version, has venv); a version of None is a program that fails.
    """
    if shutil.which("make") is None:
        pytest.skip("needs make")
    project, path = tmp_path / "project", tmp_path / "bin"
    path.mkdir()
    shutil.copytree(ROOT / ".ci", project / ".ci")
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, project / name)
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found, f"{tool} is not on PATH"
        (path / tool).symlink_to(found)

    def run(
        target: str, pythons: Mapping[str, tuple[str | None, bool]], **variables: str
    ) -> subprocess.CompletedProcess[str]:
        for name, (version, has_venv) in pythons.items():
            stub = STUB.format(name=name, version=version, without_venv=int(not has_venv))
            (path / name).write_text("#!/bin/sh\nexit 1\n" if version is None else stub)
            (path / name).chmod(0o755)
        words = [f"{name}={value}" for name, value in variables.items()]
        return subprocess.run(
            ["make", target, *words],
            cwd=project,
            env={"PATH": str(path), "HOME": os.environ.get("HOME", "/")},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


@pytest.mark.parametrize(
    ("pythons", "chosen"),
    [
        ({"python3": ("3.11", True)}, "python3"),
        ({"python3": ("3.13", True), "python3.12": ("3.12", True)}, "python3.12"),
        ({"python3": ("3.14", True), "python3.11": ("3.11", True)}, "python3.11"),
        ({"python3.12": ("3.12", True), "python3.11": ("3.11", True)}, "python3.12"),
        ({"python3.12": ("3.12", False), "python3.11": ("3.11", True)}, "python3.11"),
        ({"python3.12": (None, True), "python3": ("3.12", True)}, "python3"),
        ({"python3.12": ("3.9", True), "python3": ("3.11", True)}, "python3"),
    ],
)
def test_setup_takes_the_first_python_that_can_be_used(
    make: Run, tmp_path: Path, pythons: Mapping[str, tuple[str | None, bool]], chosen: str
) -> None:
    done = make("setup", pythons)
    assert done.returncode == 0, done.stderr
    first, *rest = (tmp_path / "project" / "commands.txt").read_text().splitlines()
    assert first == f"{chosen}: -m pip install -e .[dev] -c constraints.txt"
    assert rest, "OpenGL is checked after the installation"


@pytest.mark.parametrize(
    ("pythons", "faults"),
    [
        ({}, ["python3.12 (not found)", "python3.11 (not found)", "python3 (not found)"]),
        ({"python3": ("3.13", True)}, ["python3 (is 3.13)"]),
        ({"python3": ("3.10", True)}, ["python3 (is 3.10)"]),
        ({"python3": (None, True)}, ["python3 (does not run)"]),
        (
            {"python3.11": ("3.11", False)},
            ["python3.11 (has no venv: sudo apt-get install -y python3.11-venv)"],
        ),
    ],
)
def test_without_one_make_gives_up_in_one_line(
    make: Run, pythons: Mapping[str, tuple[str | None, bool]], faults: list[str]
) -> None:
    done = make("train", pythons)
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert len(said) == 1
    assert said[0].startswith("error: Python 3.11 or 3.12 with venv is needed; tried python3.12 (")
    assert all(fault in said[0] for fault in faults)


def test_only_the_python_that_was_named_is_tried(make: Run) -> None:
    pythons = {"python3.12": ("3.12", True), "mine": ("3.13", True)}
    done = make("setup", pythons, PYTHON="mine")
    assert "tried mine (is 3.13);" in done.stderr
    done = make("setup", pythons, PYTHON="/nowhere/my python")
    assert "tried /nowhere/my python (not found);" in done.stderr


def test_every_place_names_the_same_versions() -> None:
    assert PROJECT["requires-python"] == ">=3.11,<3.13"
    (cases,) = re.findall(r"^ +(3\.\d+ \| 3\.\d+)\)$", (ROOT / ".ci/python").read_text(), re.M)
    assert cases == "3.11 | 3.12"
    for name in ("Dockerfile", "README.md", ".ci/run", ".ci/python"):
        text = (ROOT / name).read_text()
        assert "Python 3.11 or 3.12" in text, name
        assert not re.search(r"3\.11 or newer|>= ?3\.11(?!,)", text), name


def requirements(extra: str) -> dict[str, str]:
    """The packages of an extra -> what is required of each."""
    named = PROJECT["optional-dependencies"][extra]
    return {re.split(r"[\[<>=!~;, ]", line)[0]: line for line in named}


@pytest.mark.parametrize("extra", ["tensorboard", "onnx"])
def test_what_make_installs_lets_the_tests_of_an_extra_run(extra: str) -> None:
    """The tests of the other extras are skipped there: they need more than a small package."""
    assert requirements(extra).keys() <= requirements("dev").keys()


def test_constraints_name_every_package_that_an_extra_names() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.split("==")[0] for line in lines if not line.startswith("#")}
    named = {name for extra in PROJECT["optional-dependencies"] for name in requirements(extra)}
    assert named <= pinned, sorted(named - pinned)
