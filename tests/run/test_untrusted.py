"""Files that a dying disk or a stranger left: fuzzed and damaged, one line, never a traceback."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from curl.command.eval import evaluate_all, parser
from curl.errors import exits_with_one_line
from curl.run.checkpoint import CheckpointError, read_state, save_file
from curl.run.folder import save_config
from curl.run.logger import Logger
from curl.run.start import train
from support.faulty_runs import run

pytestmark = pytest.mark.usefixtures("fault")

fuzz = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


# -- metrics, configurations, states ---------------------------------------------------------------

ROWS = '{"kind": "train", "env_steps": 1, "agent_steps": 1}\n'
LINES = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=60).map(lambda text: text.encode(errors="replace")),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=9), inner),
        max_leaves=5,
    ).map(lambda value: json.dumps(value).encode()),
    st.just(b"[" * 100_000),
    st.just(b'{"env_steps": "1"}'),
    st.just(b'{"env_steps": 99'),
)


@fuzz
@given(st.lists(LINES, max_size=4))
def test_bad_lines_in_the_metrics_are_dropped_on_resuming(
    tmp_path: Path, tally: Counter[str], lines: list[bytes]
) -> None:
    tally["bad inputs"] += 1
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(ROWS.encode() + b"\n".join(lines) + b"\n" + ROWS.encode())
    with Console(quiet=True) as console:
        logger = Logger(folder=tmp_path, wandb="disabled", budget=1, console=console)
        logger.resume(5, 0.0, 5)
        logger.close()
    kept = path.read_text().splitlines(keepends=True)
    assert kept[0] == ROWS and kept[-1] == ROWS
    assert all(json.loads(line)["env_steps"] <= 5 for line in kept)


def test_evaluations_that_will_be_made_again_are_dropped(tmp_path: Path) -> None:
    """A run stopped in an evaluation at 40, resumed, killed after it and before a checkpoint."""
    kinds = [("evaluation", 0), ("train", 40), ("evaluation", 40), ("train", 41)]
    lines = [json.dumps({"kind": kind, "env_steps": steps}) for kind, steps in kinds]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    logger = Logger(folder=tmp_path, wandb="disabled", budget=1, console=Console(quiet=True))
    logger.resume(40, 0.0, 0)
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == lines[:2]


@fuzz
@given(
    st.one_of(
        st.binary(max_size=80),
        st.text(max_size=80).map(lambda text: text.encode()),
        st.text("{}[]:-&*!|>%@`'\"$, \n\ta1", max_size=80).map(lambda text: text.encode()),
        st.sampled_from(
            [b"[" * 2000, b"a: ${b}", b"a: ${oc.env:HOME}", b"seed: &a [*a]", b"? [a]"]
        ),
    )
)
def test_a_bad_config_beside_checkpoints_is_refused(
    tmp_path: Path, tally: Counter[str], content: bytes
) -> None:
    tally["bad inputs"] += 1
    (tmp_path / "checkpoints").mkdir(exist_ok=True)
    (tmp_path / "checkpoints" / "state-1.pt").touch()
    (tmp_path / "config.yaml").write_bytes(content)

    def job() -> int:
        save_config(tmp_path, {"seed": 1}, {})
        return 0

    assert exits_with_one_line(job) == 2


@pytest.mark.parametrize("number", [0, 2, 99, "1", None])
def test_a_state_of_another_format_is_refused_by_its_number(tmp_path: Path, number: Any) -> None:
    path = tmp_path / "state-1.pt"
    content = {"format": number, "agent": {"w": torch.zeros(1)}, "config": {}, "counters": {}}
    save_file(path, {**content, "segments": []})
    with pytest.raises(CheckpointError, match=f"has checkpoint format {number}, this version"):
        read_state(path)


class Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("sprung",)


def test_a_state_that_holds_code_is_refused_unexecuted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"format": 1, "agent": Code()}, tmp_path / "state-1.pt")
    with pytest.raises(CheckpointError):
        read_state(tmp_path / "state-1.pt")
    assert not (tmp_path / "sprung").exists()


# -- whole checkpoints of strangers: every part of a real one replaced by something else -----------

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([-1, 0, 1, 3, 10**30, float("nan"), float("inf"), "", "x", "1"]),
    st.sampled_from([[], {}, [1], {"x": 1}, {1: 2}, [[]]]),
    st.sampled_from([torch.zeros(0), torch.zeros(2), torch.zeros(2, 2, dtype=torch.uint8)]),
)


@st.composite
def damaged(draw: st.DrawFn, tree: Any) -> Any:
    """`tree` with one of its parts replaced by junk, or taken out."""
    tree = place = copy.copy(tree)
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = draw(st.sampled_from(keys))
        inner = place[key]
        if isinstance(inner, (dict, list)) and inner and draw(st.integers(0, 4)):
            place[key] = place = copy.copy(inner)
            continue
        if draw(st.integers(0, 3)):
            place[key] = draw(JUNK)
        else:
            del place[key]
        return tree


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 40 steps with a checkpoint in its third episode."""
    folder = tmp_path_factory.mktemp("small")
    done = run(folder, env_steps=50, eval_every=1000)
    assert done.returncode == 0, done.stderr
    return folder


@settings(fuzz, max_examples=150)
@given(st.data())
def test_eval_refuses_a_damaged_state_in_one_line(
    small: Path,
    tmp_path: Path,
    handlers: None,
    tally: Counter[str],
    capsys: Any,
    data: st.DataObject,
) -> None:
    tally["bad inputs"] += 1
    path = tmp_path / "checkpoints" / "state-50.pt"
    path.parent.mkdir(exist_ok=True)
    torch.save(data.draw(damaged(read_state(small / "checkpoints" / "state-50.pt"))), path)
    options = parser().parse_args([str(path), "--episodes", "1", "--device", "cpu"])
    code = exits_with_one_line(evaluate_all, options)
    errors = capsys.readouterr().err
    assert code in (0, 2)
    assert sum(line.startswith("error: ") for line in errors.splitlines()) == (code == 2)


@pytest.mark.slow
@settings(fuzz, max_examples=150)
@given(st.data(), st.sampled_from(["state", "frames"]))
def test_train_refuses_to_resume_a_damaged_checkpoint_in_one_line(
    small: Path,
    tmp_path: Path,
    handlers: None,
    tally: Counter[str],
    capsys: Any,
    data: st.DataObject,
    kind: str,
) -> None:
    """Its checksums are right, so that the damage has to be noticed in what it says."""
    tally["bad inputs"] += 1
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    folder = Path(shutil.copytree(small, tmp_path / "run")) / "checkpoints"
    state = read_state(folder / "state-50.pt")
    for path in folder.glob("state-*"):
        path.unlink()
    if kind == "frames":
        segment = data.draw(st.sampled_from(state["segments"]))
        frames = torch.load(folder / segment["file"], weights_only=True)
        segment["sha256"] = save_file(folder / segment["file"], data.draw(damaged(frames)))
    else:
        state = data.draw(damaged(state))
    path = folder / "state-50.pt"
    save_file(path, state, checksum=path.with_suffix(".sha256"))
    config = yaml.safe_load((small / "config.yaml").read_text())
    del config["used"]
    code = exits_with_one_line(train, config | {"run_dir": str(tmp_path / "run")})
    errors = capsys.readouterr().err
    assert code in (0, 2)
    assert sum(line.startswith("error: ") for line in errors.splitlines()) == (code == 2)
