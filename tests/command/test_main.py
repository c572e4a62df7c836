"""`python -m curl`: every command in one shape, found from anywhere, refused in one line."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import curl
from curl.command import CONFIGS, main
from curl.command import eval as evaluate
from curl.command.parser import COMMANDS
from curl.errors import exits_with_one_line
from curl.version import VERSION
from support.paths import ROOT
from support.programs import ENVIRONMENT, SETTINGS, rows
from support.synthetic_runs import make_run

Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str]) -> Typed:
    """Runs `python -m curl ARGUMENTS` in this process; its code, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            code = exits_with_one_line(main.main, arguments)
        except SystemExit as exit:
            code = exit.code
        return code, *capsys.readouterr()  # pyright: ignore[reportReturnType]

    return run


# -- help ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [("--help",), ("-h",), ("help",)])
def test_the_help_names_every_command(typed: Typed, arguments: tuple[str, ...]) -> None:
    code, printed, said = typed(*arguments)
    assert (code, said) == (0, "")
    assert printed.startswith("usage: python -m curl COMMAND [ARGUMENT ...]\n")
    for name, summary in COMMANDS.items():
        assert any(line.split() == [name, *summary.split()] for line in printed.splitlines())


def test_no_command_is_no_success(typed: Typed) -> None:
    """As in a script whose variable is empty."""
    code, printed, _ = typed()
    assert code == 2 and printed.startswith("usage: ")


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("shape", [("{}", "--help"), ("{}", "-h"), ("help", "{}")])
def test_every_command_explains_itself(typed: Typed, name: str, shape: tuple[str, ...]) -> None:
    code, printed, said = typed(*(word.format(name) for word in shape))
    assert (code, said) == (0, "")
    assert printed.startswith(f"usage: python -m curl {name} [-h]")
    (others,) = [line for line in printed.splitlines() if line.startswith("other commands: ")]
    assert set(others.split(": ")[1].split(";")[0].split(", ")) == set(COMMANDS) - {name}
    assert "\nexamples:\n  python -m curl " in printed and "\nexit codes:\n  0 " in printed
    assert printed.endswith("`python -m curl COMMAND --help` explains each.\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained_in_a_sentence(name: str) -> None:
    for action in main.module(name).parser()._actions:
        text = str(action.help)
        assert text[0].isupper() and text.endswith("."), f"{action.option_strings}: {text}"


def test_the_same_options_mean_the_same() -> None:
    """An option that several commands have takes the same kind of value in all of them."""
    found: dict[str, set[Any]] = {}
    for name in COMMANDS:
        for action in main.module(name).parser()._actions:
            for option in action.option_strings or [action.dest]:
                kind = (action.type, action.metavar, type(action).__name__)
                found.setdefault(option, set()).add(kind)
    assert {"--seed", "--out", "--opengl", "--help", "runs"} <= set(found)
    assert all(len(kinds) == 1 for kinds in found.values()), found


def test_the_help_of_train_names_every_choice(typed: Typed) -> None:
    _, printed, _ = typed("train", "--help")
    words = printed.replace(",", " ").split()
    for path in CONFIGS.glob("[!h]*/*.yaml"):
        assert path.stem in words and f"{path.parent.name}=" in words


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_are_understood(name: str) -> None:
    """The options in every help exist."""
    command = main.module(name).parser()
    examples = [
        line.removeprefix(f"  {command.prog}").split()
        for line in command.epilog.split("\n\n")[0].splitlines()
        if line.startswith(f"  {command.prog}")
    ]
    assert examples
    for words in examples:
        command.parse_args(words)


def test_the_version_is_told(typed: Typed) -> None:
    assert typed("--version") == (0, f"curl {VERSION}\n", "")
    assert curl.__version__ == VERSION
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION


# -- refusals --------------------------------------------------------------------------------------


REFUSALS = [
    (["trian"], "unknown command 'trian'; did you mean train; known: train, eval, compare, "),
    (["xyzzy"], "unknown command 'xyzzy'; known: train, eval, compare, status, report"),
    (["help", "stats"], "unknown command 'stats'; did you mean status"),
    (["--trace"], "unknown command '--trace'"),
    ([""], "unknown command ''"),
    (["eval"], "the following arguments are required: RUN (see: python -m curl eval --help)"),
    (["eval", "x", "--episods", "5"], "unknown option '--episods'; did you mean --episodes"),
    (["eval", "x", "--episods=5"], "unknown option '--episods'; did you mean --episodes"),
    (["eval", "x", "--epis", "5"], "unknown option '--epis'"),
    (["eval", "x", "--episodes", "many"], "--episodes: must be an integer, got 'many'"),
    (["eval", "x", "--episodes", "0"], "--episodes must be an integer >= 1, got 0"),
    (["eval", "x", "--seed", "-1"], "--seed must be an integer >= 0, got -1"),
    (["eval", "x", "--device", "gpu"], "device must be auto, cpu, cuda or cuda:<number>"),
    (["eval", "/nowhere"], "/nowhere does not exist"),
    (["compare", "x", "--seed", "1"], "unknown option '--seed'; did you mean --seeds"),
    (["compare", "x", "--seeds", "1;2"], "--seeds: must be integers with commas between"),
    (["compare", "/nowhere"], "no run in /nowhere"),
    (["inspect"], "the following arguments are required: RUN"),
    (["inspect", "x", "--episode", "3"], "unknown option '--episode'; did you mean --episodes"),
    (["inspect", "/nowhere"], "/nowhere does not exist"),
    (["status", "--watch", "often"], "--watch: must be a number of seconds, got 'often'"),
    (["status", "--watch", "nan"], "--watch: must be a number of seconds, got 'nan'"),
    (["status", "/nowhere"], "no run in /nowhere"),
    (["report", "/nowhere"], "no run in /nowhere"),
    (["report", "--watch", "often"], "--watch: must be a number of seconds, got 'often'"),
    (["report", "--out", "/"], "--out / is a folder; name the file, for example /report.html"),
    (["views", "--task", "cartpole"], "task must be one of "),
    (["views", "--views", "0"], "--views must be an integer >= 1, got 0"),
    (["record", "x"], "the following arguments are required: --dataset"),
    (["record", "x", "--dataset", "expert"], "'expert' is no name of a dataset: names are like "),
    (["record", "/nowhere", "--dataset", "xx/y-v0"], "/nowhere does not exist"),
    (["record", "x", "--dataset", "xx/y-v0", "--policy", "man"], "did you mean 'mean'"),
    (["record", "x", "--dataset", "xx/y-v0", "--episodes", "0"], "--episodes must be an integer"),
    (["record", "x", "--dataset", "xx/y-v0", "--seed", "-1"], "--seed must be an integer >= 0"),
    (["record", "x", "--dataset", "xx/y-v0", "--replay", "--seed", "0"], "not go with --seed"),
    (["record", "/nowhere", "--dataset", "xx/y-v0", "--replay"], "/nowhere does not exist"),
    (["dataset"], "the following arguments are required: NAME"),
    (["dataset", "expert"], "'expert' is no name of a dataset: names are like "),
    (["dataset", "no/such-v0"], "there is no dataset no/such-v0 in "),
    (["train", "--config", "job"], "ambiguous option: --config could match"),
    (["train", "--seed", "3"], "unknown option '--seed'"),
    (["train", "--cfg", "jobs"], "argument --cfg/-c: invalid choice: 'jobs'"),
    (["train", "seed=1", "-m", "task=walker_walk"], "unrecognized arguments: task=walker_walk"),
]


@pytest.mark.parametrize(("arguments", "reason"), REFUSALS, ids=lambda value: str(value)[:40])
def test_bad_arguments_are_refused_in_one_line(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Any, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, printed, said = typed(*arguments)
    assert (code, printed) == (2, ""), said
    assert said.startswith("error: ") and said.count("\n") == 1 and reason in said, said
    assert not list(tmp_path.iterdir())


# -- from anywhere ---------------------------------------------------------------------------------


def start(program: list[str], folder: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = ENVIRONMENT | {"PYTHONPATH": ""} | options.pop("environment", {})
    return subprocess.run(
        [sys.executable, *program],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        **options,
    )


TINY = [f"{key}={value}" for key, value in (SETTINGS | {"env_steps": 2000}).items()]


def test_a_run_and_its_evaluation_in_another_directory(tmp_path: Path) -> None:
    """The configurations are found, and the results lie where the user is."""
    there = {"PYTHONPATH": str(ROOT)}
    done = start(["-m", "curl", "train", *TINY, "seed=7"], tmp_path, environment=there)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "cartpole_swingup" / "curl-crop-infonce" / "seed_7"
    assert rows(folder)[-1]["env_steps"] == 2000
    done = start(
        ["-m", "curl", "eval", "runs", "--episodes", "1", "--device", "cpu"],
        tmp_path,
        environment=there,
    )
    assert done.returncode == 0, done.stderr
    assert str(folder.relative_to(tmp_path)) in done.stdout
    assert (folder / "evaluation.json").exists()
    done = start(["-m", "curl", "status"], tmp_path, environment=there)
    assert "finished" in done.stdout and done.returncode == 0


@pytest.mark.parametrize("sweep", [False, True])
def test_the_programs_are_the_commands(tmp_path: Path, sweep: bool) -> None:
    """train.py, started by its path; the runs of its sweep are processes that find the package."""
    arguments = ["-m", "seed=1,2", "env_steps=x"] if sweep else ["env_steps=x"]
    done = start([str(ROOT / "train.py"), *arguments], tmp_path)
    assert done.returncode == 2 and "env_steps must be an integer >= 1" in done.stderr
    done = start([str(ROOT / "eval.py"), "compare", "--help"], tmp_path)
    assert done.stdout.startswith("usage: python -m curl compare")
    done = start([str(ROOT / "eval.py"), "--help"], tmp_path)
    assert done.stdout.startswith("usage: python -m curl eval")


@pytest.mark.slow
def test_a_sweep_of_train_py_in_another_directory(tmp_path: Path) -> None:
    done = start([str(ROOT / "train.py"), "-m", "seed=1,2", *TINY], tmp_path)
    assert done.returncode == 0, done.stderr
    found = sorted(tmp_path.glob("runs/cartpole_swingup/curl-crop-infonce/seed_*"))
    assert [rows(folder)[-1]["env_steps"] for folder in found] == [2000, 2000]


@pytest.mark.parametrize("program", [["-m", "curl", "status"], [str(ROOT / "train.py")]])
def test_a_user_who_ignores_ctrl_c_is_heeded(tmp_path: Path, program: list[str]) -> None:
    """Under nohup, say: importing the package sets no handler then."""
    script = tmp_path / "ignoring.py"
    script.write_text(
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        f"os.execv(sys.executable, [sys.executable, *{program}, '--help'])\n"
    )
    done = start([str(script)], tmp_path, environment={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0 and done.stdout.startswith("usage: python -m curl")


def test_the_programs_of_others_keep_their_ctrl_c(tmp_path: Path) -> None:
    """`python -m theirs`, which imports curl: their KeyboardInterrupt stays what it was."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "__init__.py").write_text("import curl\n")
    (tmp_path / "theirs" / "__main__.py").write_text(
        "import signal\nprint(signal.getsignal(signal.SIGINT) is signal.default_int_handler)\n"
    )
    done = start(["-m", "theirs"], tmp_path, environment={"PYTHONPATH": str(ROOT)})
    assert done.stdout == "True\n", done.stderr


# -- which runs eval takes -------------------------------------------------------------------------


def test_eval_finds_the_runs_below_a_folder(tmp_path: Path) -> None:
    made = sorted(make_run(tmp_path, seed=seed) for seed in (2, 1))
    state = made[0] / "checkpoints" / "state-5.pt"
    state.parent.mkdir()
    state.touch()
    assert list(evaluate.each_run([tmp_path])) == made
    assert list(evaluate.each_run([made[1], made[0]])) == [made[1], made[0]]
    assert list(evaluate.each_run([state])) == [state]
    empty = tmp_path / "empty"
    empty.mkdir()
    missing = tmp_path / "missing"
    assert list(evaluate.each_run([empty, missing])) == [empty, missing]


# -- installed -------------------------------------------------------------------------------------


def test_the_configurations_are_part_of_the_package() -> None:
    """`curl/configs` is a link, which is followed when the package is built."""
    assert (ROOT / "curl" / "configs").resolve() == ROOT / "configs"
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    (pattern,) = settings["package-data"]["curl"]
    packed = {path.resolve() for path in (ROOT / "curl").glob(pattern)}
    assert packed == {path for path in (ROOT / "configs").rglob("*") if path.is_file()}


def test_no_console_script_hides_the_curl_of_the_system() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert not {"scripts", "gui-scripts", "entry-points"} & set(project)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a wheel of this package is installed."""
    pytest.importorskip("setuptools")
    top = tmp_path_factory.mktemp("wheel")
    source = top / "source"
    source.mkdir()
    for name in ("curl", "configs"):
        shutil.copytree(
            ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target"]
    done = start(["-m", "pip", "install", *options, str(top / "site"), str(source)], top)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(source)
    return top / "site"


@pytest.mark.slow
def test_a_wheel_holds_everything(installed: Path, tmp_path: Path) -> None:
    """Its configurations, and nothing outside of the package."""
    names = {path.name for path in installed.iterdir()}
    assert names == {"curl", f"curl-{VERSION}.dist-info"}
    assert not (installed / "curl" / "configs").is_symlink()
    yaml = {path.relative_to(CONFIGS.resolve()) for path in CONFIGS.resolve().rglob("*.yaml")}
    packed = installed / "curl" / "configs"
    assert {path.relative_to(packed) for path in packed.rglob("*.yaml")} == yaml
    modules = {path.relative_to(ROOT) for path in (ROOT / "curl").rglob("*.py")}
    assert {path.relative_to(installed) for path in installed.rglob("*.py")} == modules
    where = {"PYTHONPATH": str(installed)}
    done = start(["-c", "import curl; print(curl.__file__)"], tmp_path, environment=where)
    assert Path(done.stdout.strip()) == installed / "curl" / "__init__.py"
    arguments = ["-m", "curl", "train", "-m", "seed=1,2", *TINY]
    done = start(arguments, tmp_path, environment=where)
    assert done.returncode == 0, done.stderr
    program = (
        "import curl, numpy\n"
        "policy = curl.load('runs/cartpole_swingup/curl-crop-infonce/seed_2', device='cpu')\n"
        "print(policy.predict(numpy.zeros((3, 40, 40, 3), numpy.uint8)).shape)\n"
    )
    done = start(["-c", program], tmp_path, environment=where)
    assert done.stdout == "(1,)\n", done.stderr
