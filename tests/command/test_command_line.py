"""What a user types: refused in one line with code 2, before any folder is made.

Most command lines run in this process; a few as processes, where signals and pipes matter.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.plugins import Plugins
from hydra.errors import HydraException

from curl import errors
from curl.command import compare, status, train, views
from curl.command.parser import COMMANDS
from curl.hardware.device import OpenGLError, choose_opengl, find_opengl
from support.faulty_runs import arguments as tiny_run
from support.paths import ROOT
from support.programs import ENVIRONMENT, SETTINGS, rows
from support.typed import Typed, assert_refused

SINGLE = [
    # the words of Hydra's grammar
    (["foo"], "cannot read 'foo': write key=value"),
    (["=1"], "cannot read '=1': write key=value"),
    (["seed==1"], "cannot read 'seed==1'"),
    (["task=["], "cannot read 'task=['"),
    (["++x"], "cannot read '++x'"),
    (["task=walker_walk,cheetah_run"], "holds several values: give -m to sweep over them"),
    (["seed=${nope}"], "seed: Interpolation key 'nope' not found"),
    (["run_dir=${oc.env:NOPE_NOPE}"], "Environment variable 'NOPE_NOPE' not found"),
    # names of groups and keys
    (["task=nope"], "unknown task 'nope'; known: acrobot_swingup, "),
    (["task=cartpole_swingdown"], "unknown task 'cartpole_swingdown'; did you mean cartpole_sw"),
    (["augmentation=crap"], "unknown augmentation 'crap'; did you mean crop"),
    (["objective=infonse"], "unknown objective 'infonse'; did you mean infonce"),
    (["agent=nope"], "unknown agent 'nope'"),
    (["experiment=nope"], "unknown experiment 'nope'; known: "),
    (["hydra/launcher=nope"], "unknown hydra/launcher 'nope'"),
    (["hydra.nope=1"], "unknown key 'hydra.nope'"),
    (["tsk=walker_walk"], "unknown key 'tsk'; did you mean task"),
    (["env_stepz=5"], "unknown key 'env_stepz'; did you mean env_steps"),
    (["task.actionrepeat=5"], "unknown key 'task.actionrepeat'; did you mean task.action_repeat"),
    (["+env_stepz=5"], "unknown key 'env_stepz'; did you mean env_steps?"),
    (["+task.nope=1"], "unknown key 'task.nope'"),
    (["+augmentation.nope=1"], "unknown key 'augmentation.nope'"),
    (["+augmentation.query.pad=1"], "unknown key 'augmentation.query.pad'"),
    (["+objective.margin=1"], "unknown key 'objective.margin'"),
    (["+replay.nope=1"], "unknown key 'replay.nope'"),
    (["+logger.nope=1"], "unknown key 'logger.nope'"),
    (["~task.action_repeat"], "task.action_repeat is missing (env steps per agent step)"),
    (["~batch_size"], "batch_size is missing (transitions per update)"),
    (["--config-name=nope"], "Cannot find primary config 'nope'"),
    (["--config-dir=/nope"], "Additional config directory '/nope' not found"),
    (["--cfg=job", "env_stepz=5"], "unknown key 'env_stepz'"),
    (["--cfg=job", "-m"], "Only one of --run, --multirun, --cfg"),
    # values
    (["seed="], "seed must be an integer >= 0, got ''"),
    (["seed=-1"], "seed must be an integer >= 0, got -1"),
    (["env_steps=abc"], "env_steps must be an integer >= 1 or null, got 'abc'"),
    (["env_steps=1e5"], "env_steps must be an integer >= 1 or null, got 100000.0 (write 100000)"),
    (["threads=-1"], "threads must be an integer >= 0, got -1"),
    (["video=1"], "video must be true or false, got 1"),
    (["task=null"], "Config group override must be a string"),
    (["logger=5"], "logger must be a group of settings"),
    (["device=gpu"], "device must be auto, cpu, cuda or cuda:<number>, got 'gpu'"),
    (["device=cuda:9"], "device=cuda:9 does not exist"),
    (["precision=float16"], "precision must be one of auto, float32, bfloat16, got 'float16'"),
    (["opengl=elg"], "(did you mean 'egl'?)"),
    (["agent.discount=1.5"], "agent.discount must lie in [0, 1], got 1.5"),
    (["agent.hidden_dim=1.5"], "agent.hidden_dim must be an integer, got 1.5"),
    (["objective=triplet", "objective.mining=x"], "objective.mining must be one of semi_hard"),
    # relations
    (["render_size=50"], "augmentation.query cannot draw views of frames of render_size=50"),
    (["augmentation=translate", "render_size=120"], "render_size=120"),
    (["augmentation.key.size=60"], "augmentation.query: 84 pixels, augmentation.key: 60 pixels"),
    (["augmentation.query.size=8", "augmentation.key.size=8"], "agent: "),
    (["agent.joint=true", "agent.contrastive_every=2"], "agent.joint=true needs"),
]


@pytest.mark.parametrize(("arguments", "reason"), SINGLE, ids=lambda value: str(value)[:40])
def test_a_bad_command_line_is_refused(
    typed: Typed, tmp_path: Path, arguments: list[str], reason: str
) -> None:
    assert_refused(typed, tmp_path, *arguments, reason=reason)


SWEEPS = [
    (["task=nope"], "unknown task 'nope'"),
    (["task=cheetah_run,nope"], "unknown task 'nope'"),
    (["env_stepz=5"], "unknown key 'env_stepz'; did you mean env_steps"),
    (["env_stepz=5,6"], "unknown key 'env_stepz'; did you mean env_steps"),
    (["seed=1,x"], "seed must be an integer >= 0, got 'x' (in the run of seed=x"),
    (["seed=1,2", "env_steps=abc"], "env_steps must be an integer >= 1 or null, got 'abc'"),
    (["seed=1,2", "+task.nope=1"], "unknown key 'task.nope'"),
    (["seed=1,2", "~task.action_repeat"], "task.action_repeat is missing"),
    (["seed=1,2", "device=cuda:9"], "device=cuda:9 does not exist"),
    (["augmentation=crop,translate", "render_size=120"], "(in the run of augmentation=transl"),
    (["seed==1,2"], "cannot read 'seed==1,2'"),
    (["seed=range(x)"], "seed=range(x)"),
    (["hydra/launcher=nope"], "unknown hydra/launcher 'nope'"),
    (["seed=1,2", "run_dir=${nope}"], "Interpolation key 'nope' not found"),
    (["batch_size=64,128"], "two runs would share"),
    (["experiment=nope"], "unknown experiment 'nope'"),
]


@pytest.mark.parametrize(("arguments", "reason"), SWEEPS, ids=lambda value: str(value)[:40])
def test_a_bad_sweep_is_refused_before_its_first_run(
    typed: Typed, tmp_path: Path, arguments: list[str], reason: str
) -> None:
    assert_refused(typed, tmp_path, "-m", *arguments, reason=reason)


@pytest.mark.parametrize("arguments", [[], ["-m", "seed=1,2"]])
def test_tensorboard_without_its_package_is_refused(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # it cannot be found
    refusal = "logger.tensorboard=true needs an extra: pip install -e '.[tensorboard]' -c "
    assert_refused(typed, tmp_path, *arguments, "logger.tensorboard=true", reason=refusal)


def test_on_a_cluster_the_machine_of_the_sweep_does_not_matter(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A login node has no GPU and no OpenGL; what is wrong anywhere is refused all the same."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="extra slurm")
    sweep = ["-m", "hydra/launcher=submitit_slurm", "seed=1,2", "device=cuda:9"]
    announced: list[str] = []

    def announce(folder: Path, _: Any) -> None:
        announced.append(str(folder))
        raise SystemExit(77)  # the runs themselves are not begun

    monkeypatch.setattr(train.sweep, "announce", announce)
    assert typed(*sweep)[0] == 77 and announced
    assert_refused(typed, tmp_path, *sweep, "env_steps=0", reason="env_steps must be a whole")


def test_a_launcher_that_fails_is_no_bad_input(
    typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As submitit's does when a job was killed: code 1, as for any run of a sweep that fails."""

    class Launcher:
        def launch(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("job 7 has produced no output\nits log: nothing")

    monkeypatch.setattr(Plugins, "instantiate_launcher", lambda *_, **__: Launcher())
    code, _, errors = typed("-m", "seed=1,2")
    assert (code, errors) == (1, "error: job 7 has produced no output its log: nothing\n")


def test_what_is_shown_is_no_run(typed: Typed, tmp_path: Path) -> None:
    code, shown, errors = typed("--cfg", "job", "seed=7")
    assert (code, errors) == (0, "") and "seed: 7" in shown and not list(tmp_path.iterdir())


def test_a_failing_part_of_this_program_is_a_traceback(
    typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line is for what users get wrong; a fault of the code has to be seen whole."""

    def broken(*_: Any, **__: Any) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(train, "train", broken)
    with pytest.raises(ZeroDivisionError):
        typed("seed=1")


def test_tracebacks_can_be_had(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CURL_TRACEBACK", "1")
    for arguments, error in ((["env_stepz=5"], HydraException), (["seed=x"], ValueError)):
        with pytest.raises(error):
            typed(*arguments)


# -- what is refused leaves nothing and loses nothing ----------------------------------------------


def test_an_environment_that_cannot_be_made_leaves_no_folder(typed: Typed, tmp_path: Path) -> None:
    tiny = [f"{key}={value}" for key, value in SETTINGS.items()]
    for name, reason in (("CartPole-v1", "continuous"), ("Nope-v0", "unknown environment")):
        assert_refused(typed, tmp_path, *tiny, f"task.env_id={name}", reason=reason)


def test_a_replay_buffer_that_does_not_fit_leaves_no_folder(typed: Typed, tmp_path: Path) -> None:
    tiny = [f"{key}={value}" for key, value in SETTINGS.items()]
    assert_refused(
        typed, tmp_path, *tiny, "replay.capacity=1000000000", reason="lower replay.capacity"
    )


def test_a_refused_command_changes_nothing_in_the_folder_of_a_run(
    typed: Typed, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "state-1.pt").write_text("tensors")
    (folder / "config.yaml").write_text("seed: 1\n")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for change in ("seed=x", "seed=1"):
        code, _, errors = typed(f"run_dir={folder}", change)
        assert code == 2 and errors.count("\n") == 1
    assert "holds a run of other settings: " in errors and "(there: no such setting)" in errors
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


# -- OpenGL ----------------------------------------------------------------------------------------


@pytest.mark.skipif("DISPLAY" in os.environ, reason="there is a display")
def test_glfw_without_a_display_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    with pytest.raises(OpenGLError, match=r"opengl=glfw needs a display .* use egl or osmesa"):
        choose_opengl("auto", torch.device("cpu"))
    monkeypatch.delenv("MUJOCO_GL")
    with pytest.raises(OpenGLError, match="opengl=glfw needs a display"):
        find_opengl("glfw")


def start(program: list[str], folder: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *program],
        cwd=folder,
        env=ENVIRONMENT | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"MUJOCO_GL": "egl", "MUJOCO_EGL_DEVICE_ID": "99"}, "MUJOCO_EGL_DEVICE_ID must be an"),
        ({"MUJOCO_GL": "egl", "PYOPENGL_PLATFORM": "osmesa"}, "PYOPENGL_PLATFORM"),
        ({"MUJOCO_GL": "glfw"}, "opengl=glfw needs a display"),
    ],
    ids=["device", "platform", "glfw"],
)
def test_a_backend_that_cannot_draw_is_refused_with_the_reason(
    tmp_path: Path, environment: dict[str, str], reason: str
) -> None:
    if environment["MUJOCO_GL"] == "egl" and ENVIRONMENT["MUJOCO_GL"] != "egl":
        pytest.skip("no EGL here")
    done = start([str(ROOT / "train.py")], tmp_path, **environment)
    _, errors = done.communicate(timeout=120)
    assert done.returncode == 2 and errors.count("\n") == 1, errors
    assert errors.startswith("error: opengl=") and reason in errors
    assert not list(tmp_path.iterdir())


# -- Ctrl-C and closed pipes -----------------------------------------------------------------------

PROGRAMS = {
    "train.py": [str(ROOT / "train.py")],
    "sweep": [str(ROOT / "train.py"), "-m", "seed=1,2"],
    "eval.py": [str(ROOT / "eval.py"), "runs"],
    "eval.py compare": [str(ROOT / "eval.py"), "compare", "runs"],
} | {name: ["-m", "curl", name] for name in COMMANDS}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_ctrl_c_during_the_slow_imports_is_no_traceback(program: list[str], tmp_path: Path) -> None:
    """A Triton that takes a minute to import: every program begins with it."""
    slow = tmp_path / "packages" / "triton.py"
    slow.parent.mkdir()
    slow.write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    path = os.pathsep.join([str(slow.parent), str(ROOT)])
    process = start(program, tmp_path, PYTHONPATH=path)
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, "")


def interrupted(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


def test_ctrl_c_while_the_environment_is_built_leaves_nothing(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("curl.data.environment.make_env", interrupted)
    code, _, errors = typed("render_size=100")
    assert (code, errors) == (130, "interrupted\n") and not list(tmp_path.iterdir())


def test_ctrl_c_while_a_sweep_is_checked_starts_no_run(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep has its own handler by then."""

    def check(*arguments: Any, **options: Any) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(train.sweep, "refuse_impossible", check)
    code, _, errors = typed("-m", "seed=1,2,3")
    assert code == 130 and "Traceback" not in errors and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("module", "inner"),
    [
        (compare, "curl.study.compare.compare"),
        (status, "curl.command.status.find"),
        (views, "curl.command.views.observe"),
    ],
)
def test_ctrl_c_in_the_other_programs_is_no_traceback(
    module: Any,
    inner: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(inner, interrupted)
    arguments = ["runs"] if module is not views else []
    assert errors.exits_with_one_line(module.main, arguments) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("name", [name for name in PROGRAMS if name != "sweep"])
def test_a_reader_that_leaves_is_no_error(name: str, tmp_path: Path) -> None:
    """As `| head` does."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, *PROGRAMS[name], "--help"],
        cwd=tmp_path,
        env=ENVIRONMENT | {"PYTHONPATH": str(ROOT)},
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )
    os.close(write)
    assert done.stderr == "" and done.returncode in (0, 141)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_behind_stdout_is_one_line(tmp_path: Path) -> None:
    program = "from curl.errors import program; program(lambda: print('x' * 9) or 0)"
    options: dict[str, Any] = {"cwd": ROOT, "stderr": subprocess.PIPE, "text": True}
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", program], stdout=full, check=False, **options)
    assert done.returncode == 2
    assert done.stderr == "error: [Errno 28] No space left on device\n"
    command = ["sh", "-c", 'exec "$0" -c "$1" >&-', sys.executable, program]
    done = subprocess.run(command, check=False, **options)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_run_goes_on_when_nobody_reads_what_it_prints(tmp_path: Path) -> None:
    """As in `train.py | head -1`, and `2>&1` with it: nothing of the run is lost."""
    process = subprocess.Popen(
        tiny_run(tmp_path), env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=120) == 0
    assert rows(tmp_path)[-1]["env_steps"] == 60
    assert (tmp_path / "checkpoints" / "state-60.pt").exists()


def test_a_broken_pipe_of_something_else_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Of an evaluation process, say: stdout is read all the while."""

    def job() -> int:
        raise BrokenPipeError("a worker has left")

    read, write = os.pipe()
    before = os.dup(1)
    os.dup2(write, 1)
    try:
        assert not errors.nobody_reads()
        assert errors.exits_with_one_line(job) == 2
        os.close(read)
        assert errors.nobody_reads()
        assert errors.exits_with_one_line(job) == 141
    finally:
        os.dup2(before, 1)
        os.close(before), os.close(write)
    assert capsys.readouterr().err == "error: a worker has left\n"


def test_an_interrupted_command_runs_to_its_end_as_before(
    monkeypatch: pytest.MonkeyPatch, handlers: Any
) -> None:
    """What ignored Ctrl-C, as under nohup, goes on ignoring it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with pytest.raises(SystemExit):
        errors.program(lambda: 0)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    signal.signal(signal.SIGINT, lambda *_: None)
    with pytest.raises(SystemExit):
        errors.program(lambda: 0)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
