"""The page of runs that are still going, on synthetic run folders."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curl.run.folder import RunFolder, locked
from curl.study import progress as module
from curl.study.progress import duration, progress, sections, write
from curl.study.runs import read_run
from curl.study.status import find
from support.paths import ROOT
from support.programs import ENVIRONMENT
from support.synthetic_runs import make_run

SPEED = 40  # env steps per second of the runs below


def going(root: Path, variant: str = "crop", at: int = 60_000, **options: Any) -> Path:
    """A run that has come to env step `at`, with a row of training every 4,000 of them."""
    folder = make_run(root, variant, steps=range(0, at + 1, 20_000), **options)
    path = RunFolder(folder).metrics
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for step in range(4000, at + 1, 4000):
        rows.append({"kind": "train", "env_steps": step, "critic_loss": 1e4 / step, "alpha": 0.1})
        rows[-1]["updates_per_second"] = 5.0
    rows.sort(key=lambda row: row["env_steps"])
    for row in rows:
        row["wall_time"] = row["env_steps"] / SPEED
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def table(root: Path) -> list[dict[str, str]]:
    """The rows of the table of progress."""
    found = [progress(each) for each in find([root])]
    (section,) = [part for part in sections(found) if part.title == "Progress"]
    assert section.table is not None
    head, *rows = section.table
    return [dict(zip(head, row, strict=True)) for row in rows]


# -- numbers ---------------------------------------------------------------------------------------


def test_a_running_run_says_when_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = going(tmp_path)
    with locked(folder):
        (row,) = table(tmp_path)
        found = progress(*find([tmp_path]))
    assert found.speed == pytest.approx(SPEED)
    assert found.remaining == pytest.approx(40_000 / SPEED, abs=60)
    shown = {name: row[name] for name in ("state", "done", "env steps", "trained", "per second")}
    assert shown == {
        "state": "running",
        "done": "60%",
        "env steps": "60,000 of 100,000",
        "trained": "25 min",
        "per second": "40",
    }
    assert (row["return"], row["highest"]) == ("300.0", "300.0")
    assert re.match(r"1[56] min, (\w+ \d+ \w+ )?\d\d:\d\d", row["ends in"])


def test_the_end_follows_the_present_speed_with_its_evaluations(tmp_path: Path) -> None:
    """The first half of the run was ten times as fast."""
    folder = going(tmp_path, at=80_000)
    rows = [json.loads(line) for line in RunFolder(folder).metrics.read_text().splitlines()]
    for row in rows:
        early = min(row["env_steps"], 40_000)
        row["wall_time"] = early / (10 * SPEED) + (row["env_steps"] - early) / SPEED
    RunFolder(folder).metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert progress(*find([tmp_path])).speed == pytest.approx(SPEED)


def test_what_does_not_run_has_no_end(tmp_path: Path) -> None:
    going(tmp_path, seed=1)  # nobody works on it
    make_run(tmp_path, seed=2)  # finished
    waiting = make_run(tmp_path, seed=3)
    RunFolder(waiting).metrics.unlink()
    failed = going(tmp_path, seed=4)
    RunFolder(failed).failure.write_text("critic_loss became nan at env step 60000\n")
    rows = table(tmp_path)
    assert [row["state"] for row in rows] == ["stale", "finished", "waiting", "failed"]
    assert {row["ends in"] for row in rows} == {"\N{EN DASH}"}
    found = [progress(each) for each in find([tmp_path])]
    assert sections(found)[0].bullets == ("seed_4: critic_loss became nan at env step 60000",)


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    """One row, at time 0: nothing is divided by it."""
    folder = make_run(tmp_path, steps=())
    row = {"kind": "train", "env_steps": 400, "wall_time": 0.0, "loss": "nan", "text": "x"}
    RunFolder(folder).metrics.write_text(json.dumps(row) + '\n{"kind": "tra')
    with locked(folder):
        found = progress(*find([tmp_path]))
    assert (found.speed, found.remaining, found.training) == (None, None, {})
    (page,) = write_page(tmp_path)
    assert "400 of 100,000" in page


def test_the_curves_are_those_of_the_metrics(tmp_path: Path) -> None:
    found = progress(*find([going(tmp_path, at=8000)]))
    positions, values = found.training["critic_loss"]
    np.testing.assert_array_equal(positions, [400, 4000, 8000])
    np.testing.assert_allclose(values, [0.1, 2.5, 1.25])
    assert "updates_per_second" not in module.curves(found)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0, "0 s"), (59.9, "59 s"), (60, "1 min"), (3599, "59 min")),
        *((3600, "1 h 00 min"), (86_399, "23 h 59 min"), (86_400, "1 d 0 h")),
    ],
)
def test_durations_are_read_at_a_glance(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# -- the page --------------------------------------------------------------------------------------


def write_page(*runs: Path, **options: Any) -> list[str]:
    out = runs[0].parent / "page" / "report.html"
    write(runs, out, **options)
    return [out.read_text()]


def test_the_page_is_one_file_that_fetches_nothing(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    going(runs, seed=1)
    going(runs, seed=2, at=20_000)
    going(runs, "gaussian", task="walker_walk")
    (page,) = write_page(runs)
    assert page.count('src="data:image/svg+xml;base64,') == page.count("<img") == 2
    assert not re.search(r'(?:src|href)="(?!data:)', page) and "refresh" not in page
    for name in ("cartpole_swingup/curl-crop-infonce/seed_2", "critic_loss", "20,000 of 100,000"):
        assert name in page
    assert f"{datetime.now():%Y-%m-%d}" in page


def test_a_watched_page_reads_itself_again(tmp_path: Path) -> None:
    going(tmp_path)
    (page,) = write_page(tmp_path, refresh=0.2)
    assert '<meta http-equiv="refresh" content="1">' in page
    (page,) = write_page(tmp_path, refresh=60)
    assert '<meta http-equiv="refresh" content="60">' in page


def test_what_a_run_is_called_is_no_markup(tmp_path: Path) -> None:
    going(tmp_path / "<script>alert(1)</script>", seed=1, label="<b>")
    (page,) = write_page(tmp_path)
    assert "<script>" not in page and "<b>" not in page


def test_runs_on_other_axes_have_panels_of_their_own(tmp_path: Path) -> None:
    going(tmp_path, seed=1)
    offline = going(tmp_path, seed=2, used={"axis": "updates"}, updates=100_000)
    rows = RunFolder(offline).metrics.read_text().replace('"env_steps"', '"updates"')
    RunFolder(offline).metrics.write_text(rows)
    assert read_run(offline, "it").axis == "updates"
    assert [row["position"] for row in table(tmp_path)] == [
        "60,000 of 100,000 env steps",
        "60,000 of 100,000 updates",
    ]
    from curl.study import progress_plots

    found = [progress(each) for each in find([tmp_path])]
    for figure in (progress_plots.returns(found), progress_plots.training(found)):
        assert figure is not None
        units = {ax.get_xlabel() for ax in figure.axes}
        assert units == {"env steps (thousands)", "updates (thousands)"}


def test_runs_of_one_label_are_drawn_together_where_all_of_them_are(tmp_path: Path) -> None:
    from curl.study import progress_plots

    going(tmp_path, seed=1, final=100)
    going(tmp_path, seed=2, final=300, at=40_000)
    figure = progress_plots.returns([progress(each) for each in find([tmp_path])])
    assert figure is not None
    lines = [(list(line.get_xdata()), list(line.get_ydata())) for line in figure.axes[0].lines]
    assert lines[:2] == [([0, 20, 40, 60], [0, 20, 40, 60]), ([0, 20, 40], [0, 60, 120])]
    assert lines[2] == ([0, 20, 40], pytest.approx([0, 40, 80]))


# -- the command -----------------------------------------------------------------------------------


def test_the_command_writes_the_page_again_until_ctrl_c(tmp_path: Path) -> None:
    runs, out = tmp_path / "runs", tmp_path / "report.html"
    folder = going(runs, at=20_000)
    command = [sys.executable, "-m", "curl", "report", str(runs), "--watch", "0.1"]
    process = subprocess.Popen(
        [*command, "--out", str(out)],
        env=ENVIRONMENT | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(out, "20,000 of 100,000", process)
        with RunFolder(folder).metrics.open("a") as file:
            file.write(json.dumps({"kind": "train", "env_steps": 24_000}) + "\n")
        wait_for(out, "24,000 of 100,000", process)
        process.send_signal(signal.SIGINT)
        shown, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, errors) == (0, "")
    assert "20,000 of 100,000" in shown and f"report: {out}" in shown
    assert [path.name for path in tmp_path.glob("report*")] == ["report.html"]


def wait_for(out: Path, text: str, process: subprocess.Popen[str]) -> None:
    started = time.monotonic()
    while not (out.exists() and text in out.read_text()):
        assert process.poll() is None and time.monotonic() - started < 120
        time.sleep(0.1)
