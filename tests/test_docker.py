"""The container's files, as far as they can be checked without a container engine."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def instructions() -> list[tuple[str, str]]:
    """(name, arguments) of each instruction; comments dropped, continuation lines joined."""
    lines = [line for line in DOCKERFILE.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines()
    pairs = [line.split(maxsplit=1) for line in joined if line.strip()]
    return [(name, arguments) for name, arguments in pairs]


def arguments_of(name: str) -> list[str]:
    return [arguments for found, arguments in instructions() if found == name]


def copied() -> set[str]:
    """What the Dockerfile takes from the build context."""
    own = [arguments.split() for arguments in arguments_of("COPY") if "--from" not in arguments]
    return {source for words in own for source in words[:-1]}


def pins(text: str) -> dict[str, str]:
    """name -> version of every name==version; a build suffix such as +cpu is dropped."""
    return dict(re.findall(r"\b([a-z][a-z0-9._-]*)==([0-9][0-9a-z.]*)", text))


@pytest.fixture
def entrypoint(tmp_path):
    """Run docker-entrypoint where `python` prints its arguments, each in brackets."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nprintf '[%s]' \"$@\"\nexit 7\n")
    python.chmod(0o755)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        command = [str(ROOT / "docker-entrypoint"), *arguments]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=30, check=False
        )

    return run


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("train", "task=walker_walk", "seed=1"), ("/app/train.py", "task=walker_walk", "seed=1")),
        (("train",), ("/app/train.py",)),
        (("train", "--help"), ("/app/train.py", "--help")),
        (("train", "label=a b  $c *"), ("/app/train.py", "label=a b  $c *")),
        (("eval", "runs/a", "--video"), ("/app/eval.py", "runs/a", "--video")),
        (("compare", "runs/a", "runs/b"), ("/app/eval.py", "compare", "runs/a", "runs/b")),
        (("status", "runs", "--watch", "5"), ("-m", "curl.study.status", "runs", "--watch", "5")),
        (("python", "-c", "print(1)"), ("-c", "print(1)")),
    ],
)
def test_a_command_reaches_its_program_with_its_arguments(entrypoint, arguments, expected):
    done = entrypoint(*arguments)
    assert done.stdout == "".join(f"[{word}]" for word in expected)
    assert done.returncode == 7  # the program's own exit code


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",), ("help",)])
def test_help_is_printed_without_python(entrypoint, arguments):
    done = entrypoint(*arguments)
    assert done.returncode == 0
    assert done.stdout.startswith("usage: train")
    assert '-v "$PWD/runs:/runs" --user "$(id -u):$(id -g)"' in done.stdout


@pytest.mark.parametrize("command", ["trian", "task=walker_walk", "--version", ""])
def test_an_unknown_command_is_refused_in_one_line(entrypoint, command):
    done = entrypoint(command)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: unknown command '{command}'")


def test_the_entry_point_starts_what_the_image_holds():
    programs = set(re.findall(r"/app/(\w+\.py)", (ROOT / "docker-entrypoint").read_text()))
    assert programs | {"train.py", "eval.py"} <= copied()


def test_dockerignore_lets_through_exactly_what_is_copied():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert patterns[0] == "*"  # everything is left out unless named
    assert {line[1:] for line in patterns if line.startswith("!")} == copied()
    assert patterns[-1] == "**/__pycache__"  # the last match wins
    assert all((ROOT / name).exists() for name in copied())


def test_every_installation_is_held_to_the_constraints():
    commands = re.findall(r"\bpip3? install\b[^&;|]*", "\n".join(arguments_of("RUN")))
    assert commands
    for command in commands:
        assert " -c constraints.txt " in command
        # besides the constraint file: the dependencies of pyproject.toml, and TORCH
        words = re.sub(r"\$\{EXTRA_INDEX:[^}]*\}|-[cr] \S+|--[a-z-]+", "", command).split()[2:]
        assert words == ['"$TORCH"']


def test_versions_named_in_the_dockerfile_are_those_of_the_constraints():
    constraints = pins((ROOT / "constraints.txt").read_text())
    named = pins(DOCKERFILE)
    assert named.items() <= constraints.items()
    assert "torch" in named  # the example of the TORCH argument


def test_no_host_and_no_secret():
    for name in ("Dockerfile", "docker-entrypoint", ".dockerignore"):
        text = (ROOT / name).read_text()
        assert "://" not in text
        assert not re.search(r"\b[\w-]+\.(org|com|net|io|ai|dev)\b", text)
        assert not re.search(r"api_?key|token|secret|password|netrc", text, re.IGNORECASE)


def test_older_builders_can_read_it():
    assert "<<" not in DOCKERFILE
    assert "--link" not in DOCKERFILE
    assert "--mount" not in DOCKERFILE


def test_signals_reach_the_program_which_is_not_root():
    (entry,) = arguments_of("ENTRYPOINT")
    assert entry == '["tini", "--", "/app/docker-entrypoint"]'  # no shell in between
    assert os.access(ROOT / "docker-entrypoint", os.X_OK)
    last_stage = instructions()[[name for name, _ in instructions()].index("FROM", 2) :]
    assert [a for name, a in last_stage if name == "USER"] == ["curl"]
    script = (ROOT / "docker-entrypoint").read_text()
    starts = [line for line in script.splitlines() if re.search(r"\bpython \"?/app/", line)]
    assert len(starts) == 2
    assert all("exec python" in line for line in starts)


def test_a_gpu_may_compute_and_draw():
    environment = " ".join(arguments_of("ENV"))
    (capabilities,) = re.findall(r"NVIDIA_DRIVER_CAPABILITIES=(\S+)", environment)
    assert set(capabilities.split(",")) == {"compute", "utility", "graphics"}
