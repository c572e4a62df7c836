"""The driver of the results table: plans, order, stops, kills, failures, curve files.

Most tests drive a stand-in for train.py (support/stand_in_run.py), in real processes; one drives
train.py.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import dmc, fleet
from benchmarks.cells import (
    CONFIGS,
    PRESETS,
    ROOT,
    VARIANTS,
    Cell,
    Table,
    cells,
    compose_all,
    settings_hash,
)
from curl.run.folder import holder, locked
from curl.study.compare import compare
from curl.study.curves import Curve, read_curve, write_curve
from support.paths import TESTS

STAND_IN = (sys.executable, str(TESTS / "support/stand_in_run.py"))
CARTPOLE = Cell("tiny", "curl", "cartpole_swingup", 1)
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table(results=tmp_path / "results", runs=tmp_path / "runs")


@pytest.fixture
def behave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], None]:
    """Tells the stand-in what runs do, by a part of their folder."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("CURL_STAND_IN", str(tmp_path / "behaviour.json"))

    def write(behaviour: dict[str, Any]) -> None:
        (tmp_path / "behaviour.json").write_text(json.dumps(behaviour))

    write({})
    return write


def drive(
    table: Table,
    wanted: Sequence[Cell],
    *,
    stop_when: Callable[[], bool] | None = None,
    **options: Any,
) -> tuple[dmc.Driver, dmc.Outcome]:
    """The driver on stand-in runs, in this process; its time limit comes when a condition holds."""
    today = compose_all(wanted)
    driver = dmc.Driver(table, today, dmc.Options(program=STAND_IN, commit="abc", **options))

    def limit() -> None:
        assert stop_when is not None
        until(stop_when)
        driver.fleet.deadline = time.monotonic()

    if stop_when is not None:
        threading.Thread(target=limit, daemon=True).start()
    return driver, driver.run([table.look(cell, today[cell]) for cell in wanted])


def has_rows(table: Table, cell: Cell, count: int) -> Callable[[], bool]:
    """Whether a run has written so many rows of metrics."""
    path = table.folder(cell) / "metrics.jsonl"
    return lambda: path.exists() and path.read_text().count("\n") == count


def state(table: Table, cell: Cell) -> str:
    return table.look(cell, compose_all([cell])[cell]).state


def starts(table: Table, cell: Cell) -> int:
    path = table.folder(cell) / "starts"
    return path.read_text().count("start") if path.exists() else 0


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


# -- what is run ---------------------------------------------------------------------------------


def test_cells_run_seed_by_seed_then_as_given() -> None:
    found = cells("tiny", ["walker_walk", "cartpole_swingup"], ["crop_only", "curl"], [2, 1])
    assert [(c.seed, c.task, c.variant) for c in found[:5]] == [
        (2, "walker_walk", "crop_only"),
        (2, "walker_walk", "curl"),
        (2, "cartpole_swingup", "crop_only"),
        (2, "cartpole_swingup", "curl"),
        (1, "walker_walk", "crop_only"),
    ]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("papr", ["walker_walk"], ["curl"], [1]), "paper"),
        (("paper", ["walker_wlk"], ["curl"], [1]), "walker_walk"),
        (("paper", ["walker_walk"], ["croponly"], [1]), "crop_only"),
        (("paper", ["walker_walk"], ["curl"], [-1]), "--seeds"),
        (("paper", ["walker_walk"], ["curl"], [1, 1]), "twice"),
        (("paper", [], ["curl"], [1]), "at least one"),
    ],
)
def test_what_cannot_be_run_is_refused(arguments: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        cells(*arguments)


@pytest.mark.parametrize(("name", "file"), [("drqv2", "agent/drqv2.yaml")])
def test_a_variant_whose_agent_does_not_exist_is_refused(name: str, file: str) -> None:
    if (CONFIGS / file).exists():
        assert cells("paper", ["walker_walk"], [name], [1])
    else:
        with pytest.raises(ValueError, match=f"{name} does not exist yet.*{file}"):
            cells("paper", ["walker_walk"], [name], [1])


@pytest.mark.parametrize("preset", [p for p in PRESETS if p != "tiny"])
def test_presets_have_the_protocol_of_the_published_table(preset: str) -> None:
    if preset == "small" and not (CONFIGS / "experiment/laptop.yaml").exists():
        pytest.skip("the small preset does not exist yet")
    variants = [v for v in VARIANTS if v != "drqv2" or (CONFIGS / "agent/drqv2.yaml").exists()]
    wanted = cells(preset, ["cartpole_swingup", "cheetah_run"], variants, [1])
    configs = compose_all(wanted)
    crop = "shift" if preset == "small" else "crop"
    for cell, config in configs.items():
        assert (config["env_steps"], config["eval_every"]) == (100_000, 10_000)
        assert config["eval_episodes"] == 10
        assert config["label"] == cell.variant
        assert config["augmentation"]["label"] == (
            {"gaussian": "gaussian", "drqv2": "shift"}.get(cell.variant, crop)
        )
        assert (config["objective"]["name"] == "none") == (cell.variant in ("crop_only", "drqv2"))
    batch = configs[wanted[0]]["batch_size"]
    assert {"paper": 512, "batch128": 128}.get(preset, batch) == batch
    assert len({settings_hash(config) for config in configs.values()}) == len(configs)


# -- running -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("handlers", "behave")
def test_finished_curves_are_kept_and_never_run_again(table: Table) -> None:
    wanted = cells("tiny", ["cartpole_swingup", "walker_walk"], ["curl"], [1, 2])
    _, outcome = drive(table, wanted[:2], jobs=2)
    assert sorted(map(str, outcome.finished)) == sorted(map(str, wanted[:2]))
    curve = read_curve(table.curve(CARTPOLE))
    assert curve.steps.tolist() == [0, 1000, 2000]
    assert curve.returns.tolist() == [[1.0, 1.0]] * 3
    assert curve.wall_seconds.tolist() == [0.0, 100.0, 200.0]
    header = {k: curve.header[k] for k in ("preset", "variant", "task", "seed", "commits")}
    assert header == {
        **{"preset": "tiny", "variant": "curl", "task": "cartpole_swingup", "seed": 1},
        "commits": ["abc"],
    }
    assert curve.header["settings_hash"] == settings_hash(compose_all([CARTPOLE])[CARTPOLE])
    assert str(table.runs) not in table.curve(CARTPOLE).read_text(), "the machine's own path"
    assert not list(table.folder(CARTPOLE).glob("checkpoints/frames-*")), "they are not needed"
    _, outcome = drive(table, wanted, jobs=2)
    assert sorted(map(str, outcome.finished)) == sorted(map(str, wanted[2:]))
    assert [starts(table, cell) for cell in wanted] == [1] * 4
    table.folder(CARTPOLE).joinpath("config.yaml").unlink()  # the curve alone is enough
    assert state(table, CARTPOLE) == "finished"


@pytest.mark.usefixtures("handlers")
def test_a_run_that_fails_or_is_killed_does_not_stop_the_others(
    table: Table, behave: Callable[[dict[str, Any]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    behave({"seed_1": {"fail": "no such pixels"}, "seed_2": {"kill": 1}, "seed_3": {"kill": 9}})
    wanted = cells("tiny", ["cartpole_swingup"], ["curl"], [1, 2, 3, 4])
    _, outcome = drive(table, wanted, jobs=2)
    assert sorted(cell.seed for cell in outcome.finished) == [2, 4]
    assert {cell.seed: why.split(";")[0] for cell, why in outcome.failed.items()} == {
        1: "no such pixels",
        3: "ended by SIGKILL",
    }
    assert [starts(table, cell) for cell in wanted] == [1, 2, dmc.ATTEMPTS, 1]
    assert "seed_2 ended by SIGKILL; it goes on" in capsys.readouterr().out
    behave({})
    _, outcome = drive(table, wanted, jobs=2)
    assert sorted(cell.seed for cell in outcome.finished) == [1, 3]


@pytest.mark.usefixtures("handlers")
def test_the_time_limit_stops_with_everything_saved(
    table: Table, behave: Callable[[dict[str, Any]], None]
) -> None:
    behave({"seed_1": {"wait": 1000}})
    wanted = cells("tiny", ["cartpole_swingup"], ["curl"], [1, 2])
    driver, outcome = drive(table, wanted, stop_when=has_rows(table, wanted[0], 2))
    assert driver.fleet.why_stopped == "the time limit is reached"
    assert [cell.seed for cell in outcome.unfinished] == [1, 2]
    assert (table.folder(wanted[0]) / "saved").exists()
    assert [state(table, cell) for cell in wanted] == ["unfinished", "missing"]
    behave({})
    _, outcome = drive(table, wanted)
    assert [cell.seed for cell in outcome.finished] == [1, 2]
    assert read_curve(table.curve(wanted[0])).steps.tolist() == [0, 1000, 2000]


@pytest.mark.usefixtures("handlers", "behave")
def test_a_folder_in_use_is_left_until_it_is_free(
    table: Table, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = cells("tiny", ["cartpole_swingup"], ["curl"], [1, 2])
    with locked(table.folder(wanted[0])):
        _, outcome = drive(table, wanted, stop_when=table.curve(wanted[1]).exists)
        assert [cell.seed for cell in outcome.finished] == [2]
        assert [cell.seed for cell in outcome.unfinished] == [1]
    assert f"seed_1 waits: process {os.getpid()}" in capsys.readouterr().out
    _, outcome = drive(table, wanted)
    assert [cell.seed for cell in outcome.finished] == [1]


# -- the driver itself is stopped or killed ------------------------------------------------------


def begin(table: Table, *arguments: str) -> subprocess.Popen[str]:
    """The driver on stand-in runs, in a process and session of its own."""
    program = "import sys; from benchmarks import dmc\n"
    program += f"sys.exit(dmc.main(sys.argv[1:], program={STAND_IN!r}))"
    folders = ("--results", str(table.results), "--runs", str(table.runs))
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments, *folders, "--preset", "tiny"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


ONE = ("--tasks", "cartpole_swingup", "--variants", "curl", "--seeds", "1", "--nice", "0")


def test_a_killed_driver_leaves_nothing_running_and_the_next_one_goes_on(
    table: Table, behave: Callable[[dict[str, Any]], None]
) -> None:
    behave({"seed_1": {"wait": 1000}})
    driver = begin(table, *ONE)
    until(has_rows(table, CARTPOLE, 2))
    driver.kill()
    driver.wait()
    behave({})
    until(lambda: holder(table.folder(CARTPOLE)) is None, seconds=10)
    assert (table.folder(CARTPOLE) / "saved").exists()
    again = begin(table, *ONE)
    out, _ = again.communicate(timeout=60)
    assert again.returncode == 0, out
    assert "unfinished: 1 at 1,000" in out
    assert "1 of 1 finished, 0 left, 0 failed" in out
    assert starts(table, CARTPOLE) == 2


def test_a_signal_to_the_driver_stops_its_runs_once(
    table: Table, behave: Callable[[dict[str, Any]], None]
) -> None:
    behave({"seed_1": {"wait": 1000}})
    driver = begin(table, *ONE)
    until(has_rows(table, CARTPOLE, 2))
    os.killpg(driver.pid, signal.SIGINT)  # as a terminal's Ctrl-C
    out, _ = driver.communicate(timeout=60)
    assert driver.returncode == 128 + signal.SIGINT, out
    assert (table.folder(CARTPOLE) / "saved").exists()
    assert "0 of 1 finished, 1 left, 0 failed (SIGINT arrived)" in out


STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
STUBBORN += "print(flush=True); time.sleep(60)"


def stubborn(tmp_path: Path) -> fleet.Fleet:
    """A fleet of one process that ignores SIGTERM."""
    found = fleet.Fleet(at_once=1, deadline=None, say=print)
    command = [sys.executable, "-c", STUBBORN]
    found.start("it", command, tmp_path / "output", env=os.environ, cwd=tmp_path)
    until(lambda: (tmp_path / "output").stat().st_size > 0)
    return found


def test_a_run_that_does_not_stop_is_killed_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fleet, "GRACE", 0.3)
    found = stubborn(tmp_path)
    found.deadline = time.monotonic()
    ended: dict[str, int] = {}
    until(lambda: bool(ended.update(found.check()) or ended), seconds=20)
    assert ended == {"it": -signal.SIGKILL}
    assert "it has not stopped within 0 s and is killed" in capsys.readouterr().out
    assert not found.has_room, "nothing is started after a stop"


@pytest.mark.usefixtures("handlers")
def test_signals_are_handed_on_once_each(tmp_path: Path) -> None:
    """The second one makes a run leave at once, as train.py does; the first only asks."""
    program = "import signal, sys, time\ngot = []\n"
    program += "signal.signal(signal.SIGTERM, lambda *_: got.append(1))\nprint(flush=True)\n"
    program += "while len(got) < 2: time.sleep(0.01)\nsys.exit(143)"
    found = fleet.Fleet(at_once=1, deadline=None, say=print)
    found.listen()
    command = [sys.executable, "-c", program]
    found.start("it", command, tmp_path / "output", env=os.environ, cwd=tmp_path)
    until(lambda: (tmp_path / "output").stat().st_size > 0)
    os.kill(os.getpid(), signal.SIGTERM)
    for _ in range(10):
        assert not found.check()
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)
    ended: dict[str, int] = {}
    until(lambda: bool(ended.update(found.check()) or ended), seconds=20)
    assert ended == {"it": 143}
    assert found.signals == [signal.SIGTERM] * 2


# -- other settings ------------------------------------------------------------------------------


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the configuration in a curve file's first line."""
    first, *rest = path.read_text().splitlines()
    header = json.loads(first)
    change(header["config"])
    path.write_text("\n".join([json.dumps(header), *rest]) + "\n")


@pytest.mark.usefixtures("handlers", "behave")
def test_a_curve_of_other_settings_is_kept_apart(table: Table) -> None:
    drive(table, [CARTPOLE])
    path = table.curve(CARTPOLE)
    rewrite(path, lambda config: config.update(batch_size=5))
    other = path.read_text()
    found = table.look(CARTPOLE, compose_all([CARTPOLE])[CARTPOLE])
    assert found.state == "collectable"  # its run folder is one of today's settings
    assert "batch_size=5 (today: 4)" in found.others[0]
    assert path.read_text() == other, "looking changes nothing"
    drive(table, [CARTPOLE])
    aside = [p for p in path.parent.iterdir() if p != path]
    assert [p.read_text() for p in aside] == [other]
    assert read_curve(path).config["batch_size"] == 4
    compared = compare([table.results], by="label", generator=np.random.default_rng(0))
    assert len(compared.grid.runs) == 1, "what is kept apart is not compared"


@pytest.mark.usefixtures("handlers", "behave")
def test_a_run_folder_of_other_settings_is_kept_apart(table: Table) -> None:
    drive(table, [CARTPOLE])
    table.curve(CARTPOLE).unlink()
    config = table.folder(CARTPOLE) / "config.yaml"
    config.write_text(config.read_text().replace("discount: 0.99", "discount: 0.5"))
    assert state(table, CARTPOLE) == "missing"
    drive(table, [CARTPOLE])
    folders = sorted(path.name for path in table.folder(CARTPOLE).parent.iterdir())
    assert len(folders) == 2
    assert folders[1].startswith("seed_1.")
    assert read_curve(table.curve(CARTPOLE)).config["agent"]["discount"] == 0.99


@pytest.mark.usefixtures("handlers", "behave")
def test_a_curve_that_does_not_know_a_new_setting_counts(table: Table) -> None:
    drive(table, [CARTPOLE])
    rewrite(table.curve(CARTPOLE), lambda config: config["agent"].pop("capture"))
    found = table.look(CARTPOLE, compose_all([CARTPOLE])[CARTPOLE])
    assert (found.state, found.newer) == ("finished", ("agent.capture",))


@pytest.mark.usefixtures("handlers")
def test_a_run_that_train_refuses_to_resume_begins_anew(
    table: Table, behave: Callable[[dict[str, Any]], None]
) -> None:
    behave({"seed_1": {"wait": 0}})
    drive(table, [CARTPOLE], stop_when=has_rows(table, CARTPOLE, 1))
    behave({"seed_1": {"fail": f"{table.folder(CARTPOLE)} holds a run of other settings: x"}})
    _, outcome = drive(table, [CARTPOLE])
    assert "holds a run of other settings" in outcome.failed[CARTPOLE]
    assert len(list(table.folder(CARTPOLE).parent.iterdir())) == dmc.ATTEMPTS


# -- files ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("handlers", "behave")
def test_compare_reads_curve_files_as_it_reads_run_folders(table: Table) -> None:
    wanted = cells("tiny", ["cartpole_swingup"], ["curl", "crop_only"], [1, 2])
    drive(table, wanted, jobs=2)
    numbers = []
    for place in (table.results, table.runs):
        compared = compare([place], by="label", generator=np.random.default_rng(0))
        assert compared.grid.variants == ("crop_only", "curl")
        assert compared.grid.seeds == (1, 2)
        numbers.append([cell.score for cell in compared.cells.values()])
    assert numbers[0] == numbers[1]
    compared = compare([table.curve(CARTPOLE)], by="label", generator=np.random.default_rng(0))
    assert len(compared.grid.runs) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a curve file"),
        ("[]\n", "not a curve file"),
        ('{"curve": 9}\n', "curve format 9"),
        ('{"curve": 1, "seed": 1}\n', "lacks preset"),
    ],
)
def test_a_bad_curve_file_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "seed_1.jsonl").write_text(text)
    with pytest.raises(ValueError, match=said) as error:
        compare([tmp_path], generator=np.random.default_rng(0))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "row",
    [
        '{"env_steps": 2000, "returns": [1.0, 1.0], "wall_seconds": 1.0}',
        '{"env_steps": 3000, "returns": [1.0], "wall_seconds": 1.0}',
        '{"env_steps": 3000, "returns": [1.0, NaN], "wall_seconds": 1.0}',
        '{"env_steps": 3000, "returns": [1.0,',
    ],
    ids=["step twice", "an episode less", "not finite", "half a line"],
)
def test_a_bad_row_of_a_curve_file_is_refused_by_its_number(tmp_path: Path, row: str) -> None:
    path = tmp_path / "seed_1.jsonl"
    texts = {"preset": "tiny", "variant": "curl", "task": "walker_walk", "settings_hash": "abc"}
    header = texts | {"seed": 1, "commits": [], "used": {}, "config": {}}
    numbers = np.ones((3, 2))
    steps, seconds = np.array([0, 1000, 2000]), np.array([1.0, 2.0, 3.0])
    write_curve(path, Curve(header=header, steps=steps, returns=numbers, wall_seconds=seconds))
    assert read_curve(path).returns.tolist() == numbers.tolist()
    with path.open("a") as file:
        file.write(row)
    with pytest.raises(ValueError, match=r"seed_1.jsonl, line 5 is not an evaluation"):
        read_curve(path)


# -- the plan ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("handlers", "behave")
def test_the_plan_says_what_there_is_and_how_long_the_rest_takes(table: Table) -> None:
    wanted = cells("tiny", ["cartpole_swingup", "walker_walk"], ["curl"], [1, 2, 3])
    today = compose_all(wanted)
    drive(table, wanted[:1])
    found = [table.look(cell, today[cell]) for cell in wanted]
    lines = dmc.plan(found, today, table, jobs=2, processor="stand-in")
    assert " ".join(lines[0].split()) == "cartpole_swingup, curl finished: 1; missing: 2, 3"
    # A curve of 250 agent steps took 200 s. Left are two more of those, three of 1000 agent steps.
    assert lines[-1] == f"5 of 6 runs are left, 2 side by side: about {dmc.duration(1400)}"
    lines = dmc.plan(found, today, table, jobs=2, processor="another")
    assert "no curve of this preset was made on this processor (another) yet" in lines[-1]
    assert dmc.plan(found[:1], today, table, jobs=1, processor="x")[-1] == "nothing is left to run"


def test_durations() -> None:
    assert [dmc.duration(s) for s in (45, 720, 12_240)] == ["45 s", "12 min", "3.4 h"]


def test_the_command_line_refuses_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--jobs", "0"], ["--minutes", "0"], ["--seeds", "a"], ["--preset", "x"]):
        assert dmc.main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: --") and error.count("\n") == 1


# -- train.py ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_real_runs_survive_a_kill_of_the_driver(table: Table) -> None:
    """Killed in the middle, then run to the end: the curve is that of one run."""
    folders = ("--results", str(table.results), "--runs", str(table.runs))
    command = [sys.executable, "-m", "benchmarks.dmc", "--preset", "tiny", *ONE, *folders]
    driver = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, start_new_session=True)
    folder = table.folder(CARTPOLE)
    metrics = folder / "metrics.jsonl"
    until(lambda: metrics.exists() and '"env_steps": 1000' in metrics.read_text(), seconds=120)
    driver.kill()
    driver.wait()
    until(lambda: holder(folder) is None, seconds=60)
    assert list(folder.glob("checkpoints/state-*.pt")), "the orphaned run wrote a checkpoint"
    ended = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    curve = read_curve(table.curve(CARTPOLE))
    assert curve.steps.tolist() == [0, 1000, 2000]
    assert (curve.wall_seconds[1:] > curve.wall_seconds[:-1]).all()
    assert curve.header["used"]["precision"] in ("float32", "bfloat16")
    assert not list(folder.glob("checkpoints/frames-*.pt"))
    assert list(folder.glob("checkpoints/state-*.pt")), "eval.py can still show the agent"
