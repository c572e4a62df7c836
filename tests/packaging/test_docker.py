"""The container's files, as far as they can be checked without a container engine."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from support.paths import ROOT

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
    "arguments",
    [
        ("train", "task=walker_walk", "seed=1"),
        ("train",),
        ("train", "label=a b  $c *"),
        ("eval", "runs/a", "--video"),
        ("compare", "runs/a", "runs/b"),
        ("export", "runs/a", "--out", "runs/policy"),
        ("status", "runs", "--watch", "5"),
        ("trian", "task=walker_walk"),
        ("--help",),
        ("",),
        (),
    ],
)
def test_the_entry_point_is_python_m_curl_and_nothing_more(entrypoint, arguments):
    """It adds no commands, no help and no refusals of its own."""
    done = entrypoint(*arguments)
    assert done.stdout == "".join(f"[{word}]" for word in ("-m", "curl", *arguments))
    assert done.returncode == 7  # the program's own exit code
    assert done.stderr == "" or done.stderr.startswith("note: ")


def test_a_runs_folder_that_cannot_be_written_is_noted(tmp_path):
    """The line that the entry point prints, with a folder of ours for /runs and a user for root."""
    script = (ROOT / "docker-entrypoint").read_text()
    assert script.count("/runs ]") == 2
    script = script.replace("-w /runs ]", "-w /nowhere ]").replace("-d /runs ]", f"-d {tmp_path} ]")
    script = script.replace("%u:%g /runs", f"%u:%g {tmp_path}").replace("exec python", "exec echo")
    for command, noted in (
        ("train", True),
        ("eval", True),
        ("export", True),
        ("status", False),
        ("--help", False),
    ):
        done = subprocess.run(
            ["sh", "-c", script, "sh", command], capture_output=True, text=True, check=True
        )
        assert done.stdout == f"-m curl {command}\n"
        assert done.stderr.count("\n") == noted
        if noted:
            owner = f"{tmp_path.stat().st_uid}:{tmp_path.stat().st_gid}"
            assert done.stderr.startswith(f"note: user {os.getuid()} cannot write to /runs")
            assert f"which {owner} owns" in done.stderr
            assert '-v "$PWD/runs:/runs" --user "$(id -u):$(id -g)"' in done.stderr


def test_the_entry_point_finds_the_package_and_its_configurations():
    """`curl/configs` is a link to `../configs`, so both lie side by side."""
    targets = [arguments.split() for arguments in arguments_of("COPY")]
    assert ["curl", "/app/curl"] in targets and ["configs", "/app/configs"] in targets
    assert "PYTHONPATH=/app" in " ".join(arguments_of("ENV")).split()


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
    assert (ROOT / "docker-entrypoint").read_text().endswith('\nexec python -m curl "$@"\n')


def test_a_gpu_may_compute_and_draw():
    environment = " ".join(arguments_of("ENV"))
    (capabilities,) = re.findall(r"NVIDIA_DRIVER_CAPABILITIES=(\S+)", environment)
    assert set(capabilities.split(",")) == {"compute", "utility", "graphics"}
