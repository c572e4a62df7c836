"""The names in a run folder, its configuration, and who holds its lock."""

from __future__ import annotations

import ast
import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from curl.run import folder as module
from curl.run.folder import (
    Holder,
    RunFolder,
    differing,
    holder,
    is_worked_on,
    last_holder,
    locked,
    position_of,
    read_config,
    run_folders,
    save_config,
    to_yaml,
    write_config,
)
from support.paths import ROOT

SOURCES = sorted([*ROOT.glob("curl/**/*.py"), *ROOT.glob("benchmarks/**/*.py"), *ROOT.glob("*.py")])


# -- the names -------------------------------------------------------------------------------------

FILES = (module.CONFIG, module.METRICS, module.FAILURE, module.EVALUATION, module.WANDB_ID)
FILES += (module.OUTPUT, module.COMMITS)
PLAIN_WORDS = (module.CHECKPOINTS, module.VIDEOS, module.LOCK)  # prose may hold them
PARTS = (f"{module.STATE}-", f"{module.DIAGNOSTIC}-", "frames-", "evaluation-")  # of file names


def strings(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of every string in a program, f-strings in parts, without its docstrings."""
    tree = ast.parse(source)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in docstrings:
            yield from [(node.lineno, node.value)] * isinstance(node.value, str)


def names_in(text: str) -> list[str]:
    """The names of a run folder that a string of a program spells."""
    found = [name for name in FILES if name in text]
    found += [
        word for word in PLAIN_WORDS if text == word or re.search(rf"{word}/|/{word}\b", text)
    ]
    return found + [part for part in PARTS if text.startswith(part) or f"/{part}" in text]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_names_are_spelt_in_one_module_alone(path: Path) -> None:
    if path == Path(module.__file__):
        return
    spelt = {
        f"{path.name}:{line} spells {name!r}"
        for line, text in strings(path.read_text())
        for name in names_in(text)
    }
    assert not spelt, "ask curl/run/folder.py"


def test_the_search_for_names_finds_them() -> None:
    program = '''
"""metrics.jsonl in a docstring is prose."""
a = folder / "metrics.jsonl"
b = f"{folder}/checkpoints/state-{step}.pt"
c = "lock"
d = "videos and checkpoints of a run; to lock it"
e = folder.glob("frames-*.pt")
'''
    found = [(line, name) for line, text in strings(program) for name in names_in(text)]
    assert sorted(found) == [
        *((3, "metrics.jsonl"), (4, "checkpoints"), (4, "state-")),
        *((5, "lock"), (7, "frames-")),
    ]


def test_a_file_of_every_kind_is_found_under_its_name(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.checkpoints.mkdir()
    for path in (run.checkpoint(1000), run.checkpoint(900), run.checkpoint(7, module.DIAGNOSTIC)):
        path.touch()
    for name in ("state-notes.pt", "state-5.damaged", "state-1.pt.aside"):
        (run.checkpoints / name).touch()
    run.frames(0, 4).touch()
    assert [position_of(path) for path in run.states()] == [900, 1000]
    assert run.all_frames() == [run.frames(0, 4)]
    assert RunFolder.of(run.checkpoint(900)) == RunFolder.of(tmp_path) == run
    assert RunFolder.of(tmp_path / "copied" / "state-900.pt") == RunFolder(tmp_path / "copied")


def test_run_folders_are_found_and_announced_ones_if_asked_for(tmp_path: Path) -> None:
    began, waits = tmp_path / "a" / "began", tmp_path / "b" / "waits"
    for path in (RunFolder(began).metrics, RunFolder(waits).config):
        path.parent.mkdir(parents=True)
        path.touch()
    assert list(run_folders(tmp_path)) == [began]
    assert set(run_folders(tmp_path, announced=True)) == {began, waits}
    assert RunFolder(began).begun and not RunFolder(waits).begun


# -- the configuration -----------------------------------------------------------------------------

TRICKY = {
    "rates": {"float": 1e-3, "small": 1e-05, "large": 1e30, "whole": 1.0, "int": 10**20},
    "texts": [
        "1e-3",
        "1.5",
        "12",
        "0x1f",
        "no",
        "null",
        "~",
        "2020-01-01",
        "a: b",
        "#",
        " é  ",
        "",
    ],
    "empty": {"list": [], "group": {}, "nothing": None},
    "text": "of two\nlines",
}


def test_a_configuration_is_written_as_omegaconf_wrote_it() -> None:
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        experiments = sorted(path.stem for path in (ROOT / "configs/experiment").glob("*.yaml"))
        assert experiments
        for name in (None, *experiments):
            config = compose("train", [f"experiment={name}"] if name else [])
            plain: Any = OmegaConf.to_container(config, resolve=True)
            assert to_yaml(plain) == OmegaConf.to_yaml(config, resolve=True), name


def test_both_readers_read_what_was_written(tmp_path: Path) -> None:
    write_config(tmp_path, TRICKY)
    assert read_config(tmp_path) == TRICKY
    assert OmegaConf.to_container(OmegaConf.load(RunFolder(tmp_path).config)) == TRICKY
    OmegaConf.save(OmegaConf.create(TRICKY), RunFolder(tmp_path).config)  # as older versions did
    assert read_config(tmp_path) == TRICKY


def test_a_part_that_a_configuration_holds_twice_is_written_twice(tmp_path: Path) -> None:
    view = {"name": "crop"}
    write_config(tmp_path, {"query": view, "key": view})
    assert RunFolder(tmp_path).config.read_text().count("name: crop") == 2


@pytest.mark.parametrize(
    "text", ["[1]", "", "a: [", "a: 2020-13-45", "a: !!timestamp x", "a: !!int ''", "a: !!map 3"]
)
def test_a_configuration_that_is_none_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    RunFolder(tmp_path).config.write_text(text)
    with pytest.raises(ValueError, match=r"it/config\.yaml cannot be read: ") as failure:
        read_config(tmp_path, "it")
    assert "\n" not in str(failure.value)


def test_a_folder_without_checkpoints_may_become_another_run(tmp_path: Path) -> None:
    save_config(tmp_path, {"seed": 1}, {"device": "cpu"})
    assert yaml.safe_load(RunFolder(tmp_path).config.read_text()) == {
        "seed": 1,
        "used": {"device": "cpu"},
    }
    assert differing(tmp_path, {"seed": 1}) == []
    assert differing(tmp_path, {"seed": 2}) == ["seed=2 (there: 1)"]
    save_config(tmp_path, {"seed": 2}, {})
    RunFolder(tmp_path).checkpoints.mkdir()
    RunFolder(tmp_path).checkpoint(8).touch()
    with pytest.raises(ValueError, match=r"holds a run of other settings: seed=3 \(there: 2\);"):
        save_config(tmp_path, {"seed": 3}, {})


# -- the lock --------------------------------------------------------------------------------------

HERE = socket.gethostname()


def test_the_lock_says_who_holds_it(tmp_path: Path) -> None:
    me = Holder(os.getpid(), HERE)
    assert holder(tmp_path) is None and last_holder(tmp_path) is None
    with locked(tmp_path):
        assert holder(tmp_path) == last_holder(tmp_path) == me
        assert is_worked_on(tmp_path, age=10_000)
        assert json.loads(RunFolder(tmp_path).lock.read_text()) == {
            "process": os.getpid(),
            "host": HERE,
        }
    assert holder(tmp_path) is None and last_holder(tmp_path) == me
    assert not is_worked_on(tmp_path, age=0)  # its process lives, and has let go of it
    assert str(me) == f"process {os.getpid()} on {HERE}"


@pytest.mark.parametrize("form", ["process {} on {}\n", '{{"process": {}, "host": "{}"}}\n'])
def test_locks_of_this_version_and_older_ones_are_understood(tmp_path: Path, form: str) -> None:
    lock = RunFolder(tmp_path).lock
    lock.write_text(form.format(4_000_000, "elsewhere"))
    assert last_holder(tmp_path) == Holder(4_000_000, "elsewhere")
    assert is_worked_on(tmp_path, age=60) and not is_worked_on(tmp_path, age=3600)
    lock.write_text(form.format(4_194_305, HERE))  # above Linux's largest number of a process
    assert not is_worked_on(tmp_path, age=0)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "nonsense",
            "[1, 2]",
            '{"process": "1", "host": "x"}',
            '{"process": true}',
            "[" * 3000,
        ),
        *('{"process": -1, "host": "x"}', f"process {10**30} on x", '{"process": 1, "host": 2}'),
        *("process 99999999999999999999 on x", "\x00\xff"),
    ],
)
def test_a_lock_file_of_something_else_names_nobody(tmp_path: Path, text: str) -> None:
    with locked(tmp_path):
        RunFolder(tmp_path).lock.write_text(text)
        assert last_holder(tmp_path) is None and not is_worked_on(tmp_path, age=0)
        assert str(holder(tmp_path)) == "another process"
        with pytest.raises(ValueError, match="is in use by another process"), locked(tmp_path):
            pass
