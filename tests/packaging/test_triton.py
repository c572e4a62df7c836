"""Triton and Mesa in one process: frames are drawn, then an optimiser is made, and nothing dies.

Triton brings one LLVM and Mesa another. A process that loads Mesa's first dies of a segmentation
fault when PyTorch imports Triton, which it does when the first optimiser is made.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import torch

from curl.hardware.device import OpenGLError, choose_opengl
from support.paths import ROOT, TESTS

try:
    BACKEND = choose_opengl("auto", torch.device("cpu"))
except OpenGLError:
    BACKEND = ""
ENVIRONMENT = os.environ | {
    "MUJOCO_GL": BACKEND,
    "CUDA_VISIBLE_DEVICES": "",
    "WANDB_MODE": "disabled",
    "OMP_NUM_THREADS": "1",
    "COLUMNS": "1000",
}
needs_triton = pytest.mark.skipif(
    not BACKEND or importlib.util.find_spec("triton") is None,
    reason="needs Triton (x86-64 Linux: it is in the dev extra) and OpenGL",
)

DRAW_WITHOUT_CURL = """
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><geom size='1'/></worldbody></mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 64, 64)
renderer.update_scene(data)
assert renderer.render().std() > 0
"""
MAKE_ENV = """
from curl.data.environment import make_env
env = make_env(env_id="dm_control/cartpole-swingup-v0", action_repeat=8, render_size=40)
assert env.reset(seed=0)[0].std() > 0
env.step(env.action_space.sample())
"""
OPTIMISE = """
import sys
import torch
weight = torch.nn.Parameter(torch.ones(3))
optimiser = torch.optim.Adam([weight], lr=0.1)
weight.grad = torch.ones(3)
optimiser.step()
assert (weight < 1).all()
print("triton:", sys.modules.get("triton") is not None)
"""
TINY = [
    "task.action_repeat=50",
    "env_steps=2500",
    "initial_steps=25",
    "eval_every=1000",
    "eval_episodes=1",
    "checkpoint_every=1000",
    "batch_size=8",
    "agent.hidden_dim=16",
    "threads=1",
    "render_size=40",
    "augmentation.query.size=36",
    "augmentation.key.size=36",
    "replay.capacity=60",
    "video=False",
]


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=ENVIRONMENT | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def succeeds(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    done = run(*arguments, **environment)
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny run of train.py, which draws and then makes its optimisers."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    succeeds("train.py", *TINY, f"run_dir={folder}")
    return folder


@needs_triton
def test_a_users_script_draws_and_then_makes_an_optimiser() -> None:
    assert "triton: True" in succeeds("-c", MAKE_ENV + OPTIMISE).stdout


@needs_triton
def test_train_draws_and_then_learns(finished: Path) -> None:
    assert '"critic_loss"' in (finished / "metrics.jsonl").read_text()


@needs_triton
@pytest.mark.parametrize("processes", [1, 2])
def test_eval_draws_beside_the_networks(finished: Path, processes: int, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    options = ["--episodes", "2", "--processes", str(processes), "--out", out]
    succeeds("eval.py", finished, *options)
    assert out.exists()


@needs_triton
def test_views_and_benchmarks_draw_and_then_make_an_optimiser(tmp_path: Path) -> None:
    sheet = tmp_path / "views.png"
    draw = (
        f"from curl.command.views import main; main(['--views', '1', '--out', {str(sheet)!r}])\n"
        "from benchmarks.speed import cartpole; cartpole(256).reset(seed=0)\n"
    )
    succeeds("-c", draw + OPTIMISE)
    assert sheet.exists()


@needs_triton
@pytest.mark.slow
def test_training_evaluates_in_processes_of_their_own(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    processes = ["eval_episodes=2", "eval_processes=2"]
    succeeds("train.py", *TINY, *processes, f"run_dir={folder}")
    assert '"evaluation"' in (folder / "metrics.jsonl").read_text()


@needs_triton
def test_who_drew_before_importing_curl_goes_on_without_triton() -> None:
    done = succeeds("-c", DRAW_WITHOUT_CURL + MAKE_ENV + OPTIMISE)
    if "triton: True" in done.stdout:
        pytest.skip("the driver that drew brings no LLVM, so there is nothing to avoid")
    assert done.stderr.count("Triton is not used in this process") == 1


@pytest.mark.parametrize("fault", ["import not_there", "raise OSError('no such library')"])
def test_a_broken_triton_is_left_out(tmp_path: Path, fault: str) -> None:
    (tmp_path / "triton.py").write_text(fault + "\n")
    done = succeeds("-c", "import curl" + OPTIMISE, PYTHONPATH=str(tmp_path))
    assert "triton: False" in done.stdout
    assert done.stderr.count("Triton is not used in this process: it cannot be imported") == 1


def test_without_triton_nothing_is_said() -> None:
    absent = "import sys; sys.modules['triton'] = None\nimport curl"
    done = succeeds("-c", absent + OPTIMISE)
    assert "triton: False" in done.stdout
    assert "Triton" not in done.stderr


@needs_triton
def test_importing_curl_brings_triton_but_neither_torch_nor_cuda() -> None:
    done = succeeds(
        "-c",
        "import curl, sys\n"
        "print([name for name in ('triton', 'torch', 'mujoco') if name in sys.modules])\n"
        "print('libcuda' in open('/proc/self/maps').read())",
    )
    assert done.stdout.splitlines() == ["['triton']", "False"]


def test_no_file_of_ours_can_draw_without_curl() -> None:
    """Who imports a simulator imports a module of ours too, so Triton comes first there."""
    simulators = {"gymnasium", "mujoco", "dm_control", "shimmy"}
    folders = ("curl", "benchmarks", "tests")
    files = [*ROOT.glob("*.py"), *(p for name in folders for p in (ROOT / name).rglob("*.py"))]
    for path in files:
        roots = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                roots |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                roots.add(node.module.split(".")[0])
        inside = path.is_relative_to(ROOT / "curl")
        ours = inside or bool(roots & {"curl", "train"}) or path.is_relative_to(TESTS)
        assert ours or not roots & simulators, f"{path} may draw without curl"


def test_triton_is_a_development_dependency_of_the_version_that_torch_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [r for r in project["optional-dependencies"]["dev"] if r.startswith("triton")]
    assert wanted == ["triton; sys_platform == 'linux' and platform_machine == 'x86_64'"]
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))
    own = re.findall(r"^triton==([\w.]+)", "\n".join(metadata.requires("torch") or []), re.M)
    assert set(own) <= {pins["triton"]}  # PyTorch's CPU wheels ask for none


def opengl_check(python: Path | str) -> subprocess.CompletedProcess[str]:
    command = ["sh", str(ROOT / ".ci/opengl"), str(python)]
    return subprocess.run(
        command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False
    )


@needs_triton
def test_the_machines_check_draws_and_then_makes_an_optimiser() -> None:
    done = opengl_check(sys.executable)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("last", ["kill -SEGV $$", "exit 3"])
def test_the_machines_check_reports_a_python_that_loads_opengl_and_dies(
    tmp_path: Path, last: str
) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exit 0\n{last}\n')
    python.chmod(0o755)
    done = opengl_check(python)
    assert done.returncode == 1
    assert "drawing a frame and then making an optimiser failed" in done.stderr
