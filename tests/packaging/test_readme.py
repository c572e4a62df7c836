"""What the documents say: every command and every example runs, every path is in git.

Each command that they name is run at a small size in a copy of the project, or it is on a list of
exceptions with its reason. A new command that is on neither list fails. Commands stand in fenced
blocks without a language (or sh, bash, console), one per line, and in inline code. A block of
Python or YAML is a whole file if a comment in it says where the file belongs; another block of
Python is a program, and is run.
"""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from curl.command import parser
from curl.hardware.device import OpenGLError, choose_opengl
from support.paths import ROOT

DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *(ROOT / name for name in ("benchmarks/README.md", "results/laptop/README.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
]
COPIED = shlex.split(
    "train.py eval.py Makefile README.md pyproject.toml constraints.txt docker-entrypoint "
    "Dockerfile .dockerignore .gitignore curl configs benchmarks tests results docs examples .ci "
    "CONTRIBUTING.md CHANGELOG.md CITATION.cff mkdocs.yml .pre-commit-config.yaml .github"
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELL = ("", "sh", "bash", "console")
PROGRAMS = ("python", "make", "pip", "docker", "source", "mkdir", "git", "sh", "wandb")

TINY = tuple(
    shlex.split(
        "task.action_repeat=50 env_steps=2000 initial_steps=20 eval_every=1000 eval_episodes=1 "
        "checkpoint_every=1000 log_every=50 batch_size=8 agent.hidden_dim=16 threads=1 "
        "render_size=40 augmentation.query.size=36 augmentation.key.size=36 "
        "replay.capacity=60 device=cpu"
    )
)

RECORDED = tuple(
    shlex.split(
        "task.action_repeat=50 updates=4 eval_every=4 eval_episodes=1 log_every=2 batch_size=8 "
        "agent.hidden_dim=16 threads=1 render_size=40 augmentation.query.size=36 device=cpu"
    )
)
"""The sizes of runs that learn from DATASET."""

FIRST = "python -m curl train task=walker_walk seed=3"
"""This command makes the run that others evaluate, compare and watch."""

DATASET = "walker_walk/expert-v0"
"""The dataset that commands and programs read is recorded from it, into the folder DATASETS."""
DATASETS = "datasets"

SERVED = "policy"
"""The image that examples/serve.Dockerfile makes. It has no commands of ours."""


@dataclass(frozen=True)
class Run:
    """Run the command with `extra` arguments; `fast` is the representative of its kind."""

    extra: tuple[str, ...] = ()
    fast: bool = False
    needs: str = ""  # a module, without which the command is skipped
    watches: bool = False  # runs until Ctrl-C


@dataclass(frozen=True)
class Exempt:
    """Not run, for this reason; `test_exempt_commands_*` check what can be checked."""

    reason: str


# The first pattern that a command begins with says what becomes of it.
RULES: list[tuple[str, Run | Exempt]] = [
    (
        r"python -m curl train -m .*launcher=ray",
        Exempt("needs Ray; tests/command/test_sweep.py runs it"),
    ),
    (
        r"python -m curl train -m .*launcher=submitit",
        Exempt("needs SLURM; see tests/command/test_sweep.py"),
    ),
    (
        r"python -m curl train -m .*launcher=joblib",
        Run(TINY, needs="hydra_plugins.hydra_joblib_launcher"),
    ),
    (r"python -m curl train -m ", Run(TINY)),
    (rf"{re.escape(FIRST)}$", Run(TINY, fast=True)),
    (
        r"python -m curl train .*task\.max_episode_steps",
        Run((*TINY, "task.max_episode_steps=1000")),
    ),
    (
        r"python -m curl train .*experiment=offline_to_online",
        Exempt("needs a run of the same agent; tests/run/test_offline.py takes over some"),
    ),
    (
        r"python -m curl train .*experiment=\W?(laptop,)?(pretrain|imitate|offline_rl)\b",
        Run(RECORDED),
    ),
    (r"python -m curl train", Run(TINY)),
    (
        r"python -m curl compare results/dmc",
        Exempt("needs finished curves; tests/benchmarks/test_dmc.py compares some"),
    ),
    (r"python -m curl compare results/", Run(fast=True)),
    (
        r"python -m curl compare .*--shift",
        Exempt("needs runs on several looks; tests/study/test_looks.py compares some"),
    ),
    (r"python -m curl compare .*--at", Run(("--at", "2000"))),
    (r"python -m curl compare", Run(fast=True)),
    (r"python -m curl eval .*--video", Run(("--episodes", "1"), fast=True)),
    (r"python -m curl eval", Run(("--episodes", "1"))),
    (r"python -m curl( --help)?$", Run(("--help",), fast=True)),
    (r"python -m curl status .*--watch", Run(watches=True, fast=True)),
    (r"python -m curl status", Run(fast=True)),
    (r"python -m curl report", Run(fast=True)),
    (r"python -m curl record .*--replay", Run(fast=True)),
    (r"python -m curl record", Run(("--episodes", "1"), fast=True)),
    (
        r"python -m curl import",
        Exempt("needs a folder of V-D4RL; tests/command/test_import.py makes some"),
    ),
    (r"python -m curl join", Run(fast=True)),
    (r"python -m curl dataset", Run(fast=True)),
    (r"python -m curl inspect", Run(("--episodes", "2"), fast=True)),
    (r"python -m curl export", Run(fast=True)),
    (
        r"python examples/act\.py",
        Exempt("needs an exported policy; tests/packaging/test_deploy.py runs it"),
    ),
    (r"python -m curl views", Run(("--views", "1"), fast=True)),
    (r"python -m benchmarks\..*--device cuda", Exempt("needs a GPU")),
    (
        r"python -m benchmarks\.dmc(?! --page)",
        Exempt(
            "takes hours, and has no smaller size; "
            "tests/benchmarks/test_dmc.py runs it with a small preset"
        ),
    ),
    (r"python -m benchmarks\.dmc --page", Run()),
    (
        r"python -m benchmarks\.pretraining(?! --page)",
        Exempt("takes hours; tests/benchmarks/test_pretraining.py runs it with stand-ins"),
    ),
    (r"python -m benchmarks\.pretraining --page", Run()),
    (
        r"python -m benchmarks\.robustness(?! --page)",
        Exempt("takes hours; tests/benchmarks/test_robustness.py runs it with stand-ins"),
    ),
    (r"python -m benchmarks\.robustness --page", Run()),
    (r"python -m benchmarks\.kernels", Exempt("needs a GPU")),
    (
        r"python -m benchmarks\.encoder_probes",
        Exempt("needs the runs of the study; tests/benchmarks/test_pretraining.py measures one"),
    ),
    (
        r"python -m benchmarks\.gpu_day",
        Run(("--tiny", "--device", "cpu", "--stages", "machine", "captured")),
    ),
    (r"python -m benchmarks\.speed", Run(("--quick", "--batch", "4"))),
    (r"python -m benchmarks\.small", Run(("--batch", "2", "--seconds", "0.1"))),
    (r"python -m benchmarks\.trace", Run(("--batch", "4", "--updates", "2"))),
    (r"python -m benchmarks\.augmentations", Run(("--batch", "4", "--seconds", "0.01"))),
    (
        r"python -m benchmarks\.shifts",
        Run(("--seconds", "0.01", "--size", "32", "--shifts", "color_hard")),
    ),
    (r"python -m benchmarks\.soak", Run(("--agent-steps", "1100"))),
    (
        r"python -m benchmarks\.probe",
        Run(("--objectives", "infonce", "--augmentations", "crop", "--seeds", "0", "--updates=4")),
    ),
    (
        r"python -m benchmarks\.compiled",
        Exempt("needs a C++ compiler, and its failure is what the text reports"),
    ),
    (r"python -m benchmarks\.docs", Run()),
    (r"\.venv/bin/pre-commit install", Exempt("would change the hooks of the checkout")),
    (r"make help$", Run(fast=True)),
    (r"make ", Exempt("would install the project; `make -n` shows what it would do")),
    (r"pip install -e", Exempt("needs a package index; the extras are looked up in pyproject")),
    (r"docker (build|run|stop)\b", Exempt("needs Docker; checked against docker-entrypoint")),
    (r"(source|mkdir|cp) ", Exempt("the shell's own")),
]


@dataclass(frozen=True)
class Command:
    document: str
    text: str

    @property
    def rule(self) -> Run | Exempt | None:
        return next((rule for pattern, rule in RULES if re.match(pattern, self.text)), None)


def without_optional(line: str) -> str:
    """`trace [--plain] [--batch 128]` is written for `trace`."""
    return re.sub(r"\s+\[[^\]]*\]", "", line)


def found() -> Iterator[Command]:
    for document in DOCUMENTS:
        text, name = document.read_text(encoding="utf-8"), str(document.relative_to(ROOT))
        for language, body in FENCE.findall(text):
            for line in body.replace("\\\n", " ").splitlines() if language in SHELL else ():
                words = shlex.split(without_optional(line.removeprefix("$ ")), comments=True)
                if words:
                    yield Command(name, shlex.join(words))
        for code in re.findall(r"`([^`\n]+)`", FENCE.sub("", text)):
            words = code.split()
            if words[0] in PROGRAMS and len(words) > 1:
                yield Command(name, shlex.join(shlex.split(without_optional(code))))


def contained(command: str) -> str:
    """What `docker run ... curl COMMAND ...` starts, as it is written without a container."""
    match = re.search(rf" curl ((?:{'|'.join(parser.COMMANDS)})\b.*)", command)
    assert match, f"no command of the container in {command!r}"
    return f"python -m curl {match[1]}"


COMMANDS = sorted(set(found()), key=lambda command: (command.document, command.text))
CONTAINED = [
    Command("a container", contained(command.text))
    for command in COMMANDS
    if command.text.startswith("docker run") and not command.text.endswith(f" {SERVED}")
]


def to_run() -> dict[str, Run]:
    """Commands to run. What differs only in sizes or in the file to write is run once."""
    once: dict[str, Command] = {}
    for command in [*COMMANDS, *CONTAINED]:
        if isinstance(command.rule, Run):
            once[re.sub(r" --(json|batch) \S+", "", command.text)] = command
    return {c.text: c.rule for c in once.values() if isinstance(c.rule, Run)}


def smaller(text: str) -> str:
    """Lists of more than two values are cut to two: `seed=1,2,3` is `seed=1,2`."""
    return re.sub(r"=(\w+,\w+)(,\w+)+", r"=\1", text)


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    try:
        backend = choose_opengl("auto", torch.device("cpu"))
    except OpenGLError as error:
        pytest.skip(str(error))
    return os.environ | {
        "MUJOCO_GL": backend,
        "CUDA_VISIBLE_DEVICES": "",
        "WANDB_MODE": "disabled",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
        "MINARI_DATASETS_PATH": DATASETS,
    }


def start(
    command: str, folder: Path, environment: dict[str, str], stdout: int = subprocess.PIPE
) -> subprocess.Popen[str]:
    program, *words = shlex.split(command)
    if program == "python":
        program = sys.executable
    return subprocess.Popen(
        [program, *words],
        cwd=folder,
        env=environment | {"PYTHONPATH": str(folder)},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )


def watched(command: str, folder: Path, environment: dict[str, str]) -> str:
    """What a command that runs until Ctrl-C shows in a terminal; its exit code must be 0."""
    mine, its = pty.openpty()
    try:
        process = start(command, folder, environment, stdout=its)
        shown = b""
        while b"seed_" not in shown and select.select([mine], [], [], 120)[0]:
            shown += os.read(mine, 4096)
        process.send_signal(signal.SIGINT)
        finish(process)
    finally:
        os.close(mine)
        os.close(its)
    return shown.decode(errors="replace")


def finish(process: subprocess.Popen[str]) -> str:
    """Standard output of a command that must succeed."""
    try:
        out, err = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 0, f"exit code {process.returncode}\n{out}\n{err}"
    assert "Traceback" not in err
    return out


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    """A copy of the project with the README's additions and the runs that its commands read."""
    folder = tmp_path_factory.mktemp("readme") / "project"
    for name in COPIED:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            # curl/configs is a link to configs, where the examples go
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, target, symlinks=True, ignore=ignored)
        else:
            shutil.copy2(source, target)
    for name, text in examples().items():
        assert not (folder / name).exists(), f"{name} exists already; take another example"
        (folder / name).write_text(text, encoding="utf-8")
    finish(start(f"{FIRST} {shlex.join(TINY)}", folder, environment))
    (run,) = (folder / "runs").glob("*/*/seed_*")
    record = f"python -m curl record {run} --dataset {DATASET} --episodes 5"
    finish(start(record, folder, environment))
    return folder


def blocks(*languages: str) -> Iterator[str]:
    """The fenced blocks of these languages in all documents."""
    for document in DOCUMENTS:
        for language, body in FENCE.findall(document.read_text(encoding="utf-8")):
            if language in languages:
                yield body


def place(body: str) -> str | None:
    """Where the file belongs that a block shows whole, as a comment in it says."""
    match = re.search(r"# ((?:curl|configs)/[\w/]+\.(?:py|yaml))$", body, re.MULTILINE)
    return match and match[1]


def examples() -> dict[str, str]:
    """Files that the documents show whole."""
    files = {}
    for body in blocks("python", "yaml"):
        if (name := place(body)) is not None:
            assert name not in files, f"{name} is shown twice"
            files[name] = body
    return files


def example_programs() -> list[str]:
    """Blocks of Python that are programs."""
    return [body for body in blocks("python") if place(body) is None]


def parameters() -> list[object]:
    slow = pytest.mark.slow
    return [pytest.param(t, r, marks=() if r.fast else slow, id=t) for t, r in to_run().items()]


def test_every_command_is_run_or_exempt() -> None:
    assert len(COMMANDS) > 20, "the commands are no longer found"
    unknown = [f"{c.document}: {c.text}" for c in [*COMMANDS, *CONTAINED] if c.rule is None]
    assert not unknown, f"say in RULES what becomes of {unknown}"


def test_every_rule_is_used() -> None:
    texts = [command.text for command in [*COMMANDS, *CONTAINED]]
    unused = [pattern for pattern, _ in RULES if not any(re.match(pattern, t) for t in texts)]
    assert set(unused) <= {r"make help$", r"python -m curl status"}


@pytest.mark.parametrize(("text", "rule"), parameters())
def test_command(
    text: str, rule: Run, project: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    if rule.needs:
        pytest.importorskip(rule.needs)
    folder = tmp_path / "project"
    shutil.copytree(project, folder, symlinks=True)
    (run,) = (folder / "runs").glob("*/*/seed_*")
    if text == FIRST:
        assert '"evaluation"' in (run / "metrics.jsonl").read_text()
        return
    read = re.sub(r"--out \S+", "", text)
    read = re.sub(r"run_dir=\S+", "", read)
    for name in re.findall(r"\bruns/\w[\w/-]*", read):  # under the name that the command gives it
        copy = folder / name if "/seed_" in name else folder / name / "copied" / "seed_1"
        if not copy.exists():
            shutil.copytree(run, copy)
    if text.startswith(("python -m curl join", "python -m curl train")):
        for name in re.findall(r"\b\w+/\w+-v\d\b", re.sub(r"--dataset \S+", "", text)):
            if not (folder / DATASETS / name).exists():
                shutil.copytree(folder / DATASETS / DATASET, folder / DATASETS / name)
    if text.startswith("python -m curl train") and "init_from" not in text:
        shutil.rmtree(folder / "runs")
    if text.startswith("python -m curl record"):
        shutil.rmtree(folder / DATASETS)
    command = f"{smaller(text)} {shlex.join(rule.extra)}"
    if rule.watches:
        assert "seed_" in watched(command, folder, environment)
        return
    out = finish(start(command, folder, environment))
    if text.startswith("python -m curl train"):
        metrics = [path.read_text() for path in folder.glob("runs/**/metrics.jsonl")]
        assert metrics
        assert all('"evaluation"' in rows for rows in metrics)
    else:
        assert out.strip()


def test_a_block_of_yaml_says_where_it_belongs() -> None:
    for body in blocks("yaml"):
        assert place(body), f"say in a comment which file this is:\n{body}"


@pytest.mark.parametrize("body", example_programs())
def test_an_example_program_runs(
    body: str, project: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "project"
    shutil.copytree(project, folder, symlinks=True)
    (folder / "example.py").write_text(body, encoding="utf-8")
    finish(start("python example.py", folder, environment))


@pytest.mark.slow
def test_the_contract_tests_pick_the_examples_up(
    project: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "project"
    shutil.copytree(project, folder, symlinks=True)
    names = {Path(name).stem for name in examples() if name.startswith("configs/")}
    out = finish(
        start(f"python -m pytest tests -k {shlex.quote(' or '.join(names))}", folder, environment)
    )
    counted = re.search(r"(\d+) passed", out)
    assert counted
    assert int(counted[1]) > 20, out


def test_exempt_make_commands_do_what_they_say() -> None:
    if shutil.which("make") is None:
        pytest.skip("needs make")
    wanted = {
        "train": ["train.py experiment=quickstart"],
        "test": ["-m pytest"],
        "test-all": ['-m pytest -m ""'],
        "lint": ["ruff check", "pyright"],
        "benchmark": ["-m benchmarks.speed"],
        "docs": ["-m benchmarks.docs", "mkdocs build"],
        "setup": [".ci/opengl"],
    }
    for command in COMMANDS:
        words = shlex.split(command.text)
        if words[0] != "make" or words[1] == "help":
            continue
        done = subprocess.run(
            ["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert words[1] in wanted, f"say what {command.text} does"
        for text in wanted[words[1]]:
            assert text in done.stdout
        for word in words[2:]:
            name, value = word.split("=", 1)
            if name == "ARGS":
                assert value in done.stdout


def test_exempt_installations_name_extras_that_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    known = set(extras["optional-dependencies"])
    for command in COMMANDS:
        if command.text.startswith("pip install"):
            assert "-c constraints.txt" in command.text
            for names in re.findall(r"\.\[([\w,]+)\]", command.text):
                assert set(names.split(",")) <= known


def test_exempt_container_commands_are_known_to_the_entry_point() -> None:
    assert CONTAINED, "the commands are no longer found"
    arguments = set(re.findall(r"^ARG (\w+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    for document in DOCUMENTS:
        assert set(re.findall(r"--build-arg (\w+)=", document.read_text())) <= arguments


# Paths that stand for a file which a reader would make.
PLACEHOLDERS = {
    "curl/agents/iql.py",
    "configs/agent/iql.yaml",
    "configs/task/name.yaml",
    "results/gpu",  # is made on a machine with a GPU
    "configs/agent/drqv2.yaml",
}
FOLDERS = "results|configs|tests|curl|benchmarks|docs|examples|shifts"
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
PATH = re.compile(rf"(?<![\w/.<-])((?:{FOLDERS}|\.ci)/[\w./-]*[\w/])")


@pytest.fixture(scope="module")
def tracked() -> set[str]:
    """Files in git, and their folders."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout")
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    files = [Path(os.fsdecode(name)) for name in done.stdout.split(b"\0") if name]
    return {str(path) for file in files for path in (file, *file.parents)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_path_that_is_named_is_in_git(document: Path, tracked: set[str]) -> None:
    text = document.read_text(encoding="utf-8")
    text = COMMENT.sub("", text)  # an image that does not exist yet may wait in a comment
    prose = re.sub(r"\]\([^)\s]+\)", "]", text)  # a link is relative to its document, see below
    named = {match.rstrip("/") for match in PATH.findall(prose)}
    named -= {name.rstrip("/") for name in PLACEHOLDERS} | set(examples())
    outputs = re.findall(r"--(?:out|json) (\S+)", text)
    here = document.parent.relative_to(ROOT)
    links = re.findall(r"\]\(([^)\s#]+)[^)]*\)", FENCE.sub("", text))
    named |= {os.path.normpath(here / link) for link in links if "://" not in link}
    bare = re.findall(r"`([\w-]+\.(?:py|toml|txt|md))`", text)
    named |= {name for name in bare if str(here / name) not in tracked}
    missing = sorted(named - tracked - set(outputs))
    assert not missing, f"{document.name} names what git does not hold: {missing}"


# Kept out of git below results/: what is large, and wandb's files, which name machine and user.
LARGE = ("checkpoints", "videos", "wandb")


def ignored(path: str) -> bool:
    command = ["git", "check-ignore", "-q", "--no-index", path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode == 0


@pytest.mark.parametrize("folder", ["runs", "outputs", "multirun", "build", "dist", "wandb_study"])
@pytest.mark.parametrize("file", ["config.yaml", "metrics.jsonl", "curves.png", "a.mp4", "w.pt"])
def test_git_swallows_no_results(folder: str, file: str, tracked: set[str]) -> None:
    for path in (f"results/{folder}/{file}", f"results/study/{folder}/seed_1/{file}"):
        assert not ignored(path), path


def test_git_keeps_out_what_is_large(tracked: set[str]) -> None:
    for folder in ("runs", "outputs", "multirun", "wandb", "build", "dist"):
        assert ignored(f"{folder}/anything")
    for folder in LARGE:
        assert ignored(f"results/study/runs/seed_1/{folder}/file")
        assert not ignored(f"curl/{folder}/__init__.py")
    large = [name for name in tracked if Path(name).suffix in (".pt", ".mp4", ".wandb")]
    large += [name for name in tracked if (ROOT / name).is_file() and size(name) > 1_000_000]
    assert not large


def size(name: str) -> int:
    return (ROOT / name).stat().st_size


def test_nothing_below_results_is_hidden_from_git(tracked: set[str]) -> None:
    command = ["git", "status", "--porcelain", "--ignored", "-z", "--", "results"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    hidden = [line[3:] for line in done.stdout.split("\0") if line.startswith("!!")]
    assert [path for path in hidden if not set(Path(path).parts) & set(LARGE)] == []
