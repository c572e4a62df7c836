"""`python -m curl inspect`: from a run folder to a page, and what it refuses."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from curl.inspection import inspect as inspecting
from curl.inspection import report
from curl.run.checkpoint import Checkpoints
from support import faulty  # noqa: F401  which registers the environment
from support.datasets import train_into_an_episode
from support.typed import Typed

OPTIONS = ("--episodes", 2, "--device", "cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run in the environment of grey frames."""
    folder = tmp_path_factory.mktemp("made") / "run"
    train_into_an_episode(folder)
    return folder


@pytest.fixture
def typed(commanded: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Typed:
    """Runs `python -m curl inspect ARGUMENTS` beside the test; logs are taken away."""
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        code, out, errors = commanded("inspect", *arguments)
        lines = [line for line in errors.splitlines() if not line.startswith(("INFO", "WARNING"))]
        return code, out, "\n".join(lines)

    return run


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("source", ["run", "state"])
def test_a_run_becomes_a_page_and_stays_as_it_is(
    made: Path, typed: Typed, tmp_path: Path, source: str
) -> None:
    before = content(made)
    run = made if source == "run" else made / "checkpoints" / "state-40.pt"
    code, printed, said = typed(run, *OPTIONS)
    assert (code, said) == (0, "")
    assert printed.startswith(f"{run}: ") and "\nFindings\n" in printed
    assert printed.endswith(f"report: {Path('report') / report.PAGE}\n")
    assert (tmp_path / "report" / report.PAGE).exists()
    position = "50" if source == "run" else "40"
    assert f"{position} env steps" in printed.splitlines()[0]
    assert content(made) == before


def test_a_report_replaces_an_earlier_one(made: Path, typed: Typed, tmp_path: Path) -> None:
    out = tmp_path / "here"
    for _ in range(2):
        code, _, said = typed(made, *OPTIONS, "--out", out)
        assert (code, said) == (0, "") and (out / report.PAGE).exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("/nowhere",), "/nowhere does not exist"),
        (("{made}", "--episodes", "1"), "--episodes must be an integer >= 2, got 1"),
        (("{made}", "--seed", "-1"), "--seed must be an integer >= 0"),
        (("{made}", "--env-timeout", "0"), "--env-timeout must lie in (0, inf)"),
        (("{made}", "--out", "{made}/config.yaml"), "is a file; it must be a folder"),
        (("{made}", "--device", "tpu"), "tpu"),
    ],
)
def test_refusals_are_one_line(
    made: Path, typed: Typed, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    code, printed, errors = typed(*(word.format(made=made) for word in arguments))
    assert (code, printed) == (2, "")
    assert said in errors and errors.count("\n") == 0 and errors.startswith("error: ")
    assert not (tmp_path / "report").exists()


def test_a_run_that_diverged_is_refused_by_name(made: Path, typed: Typed, tmp_path: Path) -> None:
    run = Path(shutil.copytree(made, tmp_path / "run"))
    loaded = inspecting.load

    def diverged(*arguments: Any, **options: Any) -> Any:
        policy = loaded(*arguments, **options)
        with torch.no_grad():
            next(policy.agent.trunk.parameters()).fill_(float("nan"))
        return policy

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspecting, "load", diverged)
        code, printed, said = typed(run, *OPTIONS)
    assert (code, printed) == (2, "")
    assert "weights of trunk are not finite numbers" in said


def test_a_run_without_a_sound_checkpoint_is_refused(
    made: Path, typed: Typed, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(made, tmp_path / "run"))
    for path in (run / "checkpoints").glob("state-*.pt"):
        path.write_bytes(b"garbled")
    code, printed, said = typed(run, *OPTIONS)
    assert (code, printed) == (2, "") and str(run) in said
    assert Checkpoints(run)  # it was only read


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_nothing_is_written(
    made: Path,
    typed: Typed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    loaded = inspecting.load

    def asked(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), number)
        return loaded(*arguments, **options)

    monkeypatch.setattr(inspecting, "load", asked)
    code, printed, said = typed(made, *OPTIONS)
    assert (code, printed) == (128 + number, "")
    assert said == "stopping; nothing is written; a second signal stops at once"
    assert not (tmp_path / "report").exists()
