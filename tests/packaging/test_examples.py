"""Every example is listed, and runs at a small size."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.paths import ROOT
from support.programs import ENVIRONMENT, rows

EXAMPLES = ROOT / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
LISTED = (EXAMPLES / "README.md").read_text()
TINY = shlex.split(
    "env_steps=60 initial_steps=5 eval_every=30 eval_episodes=1 checkpoint_every=30 log_every=2 "
    "batch_size=8 agent.hidden_dim=16 threads=1 render_size=40 augmentation.query.size=36 "
    "replay.capacity=60 device=cpu video=false logger.wandb=disabled"
)


def run(*command: str, folder: Path, path: Path = ROOT) -> str:
    """Standard output of a program that must succeed, with `path` on PYTHONPATH."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=ENVIRONMENT | {"PYTHONPATH": os.pathsep.join([str(path), str(ROOT)])},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def kinds_of_rows(folder: Path) -> set[str]:
    return {row["kind"] for row in rows(folder)}


def test_the_list_names_every_example_and_nothing_else() -> None:
    links = re.findall(r"^\| \[[^\]]+\]\(([\w./]+)\)", LISTED, re.MULTILINE)
    assert all((EXAMPLES / link).is_file() for link in links)
    examples = {p.name for p in EXAMPLES.iterdir() if not p.name.startswith((".", "__"))}
    assert {link.split("/")[0] for link in links} == examples - {"README.md"}


def test_training_from_python(tmp_path: Path) -> None:
    example = str(EXAMPLES / "train_from_python.py")
    shown = run(example, *TINY, "task.action_repeat=50", "env_steps=2000", folder=tmp_path)
    (folder,) = (tmp_path / "runs").glob("*/*/seed_1")
    assert f"the run is in {folder.relative_to(tmp_path)}" in shown or str(folder) in shown
    assert re.search(r"^return \d+\.\d after 2,000 env steps of training$", shown, re.MULTILINE)
    assert "evaluation" in kinds_of_rows(folder)


def test_a_custom_environment_is_installed_and_trained_on(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    package, installed = tmp_path / "package", tmp_path / "installed"
    shutil.copytree(EXAMPLES / "custom_environment", package)  # building leaves files behind
    install = "-m pip install --no-deps --no-build-isolation --no-index --quiet --target"
    run(*install.split(), str(installed), str(package), folder=tmp_path)
    settings = "experiment=laptop task=pendulum task.name=dot task.env_id=dot_world:Dot-v0"
    settings += " task.action_repeat=2 +task.kwargs.speed=0.05"
    command = ["-m", "curl", "train", *settings.split(), *TINY, f"run_dir={tmp_path / 'run'}"]
    run(*command, folder=tmp_path, path=installed)
    assert kinds_of_rows(tmp_path / "run") == {"train", "evaluation"}


@pytest.fixture
def with_augmentation(tmp_path: Path) -> Path:
    """A copy of the project with the files of the example in their places."""
    for name in ("curl", "configs", "tests", "benchmarks", "pyproject.toml", "train.py", "eval.py"):
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, tmp_path / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy2(source, tmp_path / name)
    shutil.copytree(EXAMPLES / "new_augmentation", tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_a_new_augmentation_is_two_files(with_augmentation: Path) -> None:
    here, settings = with_augmentation, ["task=pendulum", "augmentation=invert", *TINY]
    run("-m", "curl", "train", *settings, "run_dir=run", folder=here, path=here)
    assert kinds_of_rows(here / "run") >= {"train", "evaluation"}


@pytest.mark.slow
def test_the_contract_tests_check_the_new_augmentation(with_augmentation: Path) -> None:
    here = with_augmentation
    tests = ["-m", "pytest", "-p", "no:cacheprovider", "tests/contracts", "-k", "invert"]
    passed = re.search(r"(\d+) passed", run(*tests, folder=here, path=here))
    assert passed and int(passed[1]) > 10


# -- notebooks -------------------------------------------------------------------------------------


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_prints_what_it_shows(path: Path, tmp_path: Path) -> None:
    """Its code is plain Python: no magic, and numbers that repeat."""
    cells = [each for each in json.loads(path.read_text())["cells"] if each["cell_type"] == "code"]
    program = tmp_path / "notebook.py"
    program.write_text("\n\n".join(map(source, cells)))
    printed = [
        "".join(output["text"])
        for each in cells
        for output in each["outputs"]
        if output["output_type"] == "stream"
    ]
    assert run(str(program), folder=EXAMPLES) == "".join(printed) != ""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_was_executed_in_order_and_is_small(path: Path) -> None:
    cells = [each for each in json.loads(path.read_text())["cells"] if each["cell_type"] == "code"]
    assert [each["execution_count"] for each in cells] == list(range(1, len(cells) + 1))
    outputs = [output for each in cells for output in each["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"stream", "execute_result"}
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert path.stat().st_size < 200_000
