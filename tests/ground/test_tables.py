"""Tables at every width: nothing is cut, and nothing is read as markup."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from curl.command import compare, status
from curl.command.eval import show
from curl.tables import BLOCKS, PLAIN, UNLIMITED, make_console, sparkline, table
from support.synthetic_runs import make_run

NAME = "runs/[a]/a_rather_long_name_of_an_experiment-with-[bold]brackets[/bold]/seed_1"
HEAD = ("run", "state", "env steps", "95 % interval")
ROWS = [(NAME, "finished", "1,000,000", "[812.3, 840.1]"), ("short", "-", "0", "-")]


def characters(*texts: str) -> Counter[str]:
    """What is printed, blanks aside: a folded cell has the same."""
    return Counter("".join("".join(texts).split()))


def printed(width: int, *args: Any, **keywords: Any) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(table(*args, width=width, **keywords))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [1, 7, 20, 40, 60, 80, 300])
def test_no_cell_is_cut_at_any_width(width: int) -> None:
    text = printed(width, HEAD, ROWS, right=(2, 3))
    assert characters(*HEAD, *ROWS[0], *ROWS[1]) <= characters(text)
    assert all(len(line.rstrip()) <= width for line in text.splitlines())


def test_a_long_label_folds_before_numbers_do() -> None:
    lines = printed(80, HEAD, ROWS, right=(2, 3)).splitlines()
    assert lines[0].split() == ["run", "state", "env", "steps", "95", "%", "interval"]
    assert lines[1].split()[1:] == ["finished", "1,000,000", "[812.3,", "840.1]"]
    assert "".join(line.split()[0] for line in lines[1:-1]) == NAME


def test_where_nothing_fits_each_row_is_a_block_of_lines() -> None:
    lines = printed(40, HEAD, [ROWS[1]]).splitlines()
    assert (
        lines == ["run: short", "  state: -", "  env steps: 0", "  95 % interval: -"]
        or len(lines) == 2
    )
    lines = printed(20, HEAD, [ROWS[1]]).splitlines()
    assert lines == ["run: short", "  state: -", "  env steps: 0", "  95 % interval: -"]


def test_a_pipe_has_no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert make_console().width == UNLIMITED
    monkeypatch.setenv("COLUMNS", "40")
    assert make_console().width == 40


def test_styled_cells_keep_their_style() -> None:
    console = Console(file=io.StringIO(), width=40, force_terminal=True, color_system="standard")
    console.print(table(("a",), [(Text("stale", style="yellow"),)], width=40))
    assert isinstance(console.file, io.StringIO)
    assert "\x1b[33mstale" in console.file.getvalue()


# -- what users see --------------------------------------------------------------------------------

WIDTHS = pytest.mark.parametrize("columns", ["40", "80", None], ids=str)


@pytest.fixture
def in_columns(columns: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if columns is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", columns)


@WIDTHS
@pytest.mark.usefixtures("in_columns")
def test_evaluations(capsys: pytest.CaptureFixture[str]) -> None:
    result = {"run": NAME, "file": f"{NAME}/evaluation.json", "env_steps": 1_000_000}
    result |= {"episodes": 10, "mean": 812.3, "std": 23.4, "interval": [801.2, 823.4]}
    alone = result | {"episodes": 1, "std": None, "interval": None, "file": None}
    show([result, alone])
    text = capsys.readouterr().out
    expected = [NAME, "1,000,000", "10", "812.3", "23.4", "[801.2, 823.4]", NAME, "1,000,000"]
    assert characters(*expected, f"{NAME}/evaluation.json") <= characters(text)
    assert "sample std" in text and f"{NAME}/evaluation.json" in text


@WIDTHS
@pytest.mark.usefixtures("in_columns")
def test_the_states_of_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    note = "the [bold]environment's step raised ValueError: [/x]"
    make_run(tmp_path / "[a]", "[red]a_rather_long_variant_indeed[red]")
    failed = make_run(tmp_path / "[b]", steps=(0,))
    (failed / "failure.txt").write_text(note)
    assert status.main([str(tmp_path)]) == 0
    text = capsys.readouterr().out
    names = (
        "[a]/cartpole_swingup/curl-[red]a_rather_long_variant_indeed[red]-infonce/seed_1",
        "[b]/cartpole_swingup/curl-crop-infonce/seed_1",
    )
    assert characters(*names, note, "finished", "failed", "100,000") <= characters(text)
    assert "2 runs" in text


@WIDTHS
@pytest.mark.usefixtures("in_columns")
def test_a_comparison(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], columns: str | None
) -> None:
    names = ("[a]", "[red]a_rather_long_variant_indeed[red]")
    for variant in names:
        for seed in (1, 2):
            make_run(tmp_path / "[b]", variant, seed=seed, final=500 + seed)
    out = tmp_path / "[c]"
    assert compare.main([str(tmp_path / "[b]"), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert characters(*names, *names, "sample std", "502 ± 1", "502 ± 1") <= characters(text)
    if columns is None:  # of a sample: with ddof = 0 it would be 0.5, shown as 0
        assert text.count(" 502 ± 1 ") == 2
    assert f"report: {out}/report.html" in text


# -- curves in one line ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "low", "high", "curve"),
    [
        ([], 0, 1, ""),
        ([3.0], 0, 7, "▄"),
        ([0, 1, 2, 3, 4, 5, 6, 7], 0, 7, BLOCKS),
        ([7.0, 0.0], 0, 7, "█▁"),
        ([5.0, 5.0], 5, 5, "▁▁"),  # no span at all
        ([-9.0, 99.0], 0, 7, "▁█"),  # beyond the scale
    ],
)
def test_values_are_drawn_from_low_to_high(
    values: list[float], low: float, high: float, curve: str
) -> None:
    assert sparkline(values, low=low, high=high, width=16) == curve


@pytest.mark.parametrize("count", [1, 7, 8, 9, 16, 1000])
def test_many_values_are_averaged_over_the_width(count: int) -> None:
    values = [float(n) for n in range(count)]
    curve = sparkline(values, low=0, high=max(count - 1, 1), width=8)
    assert len(curve) == min(count, 8)
    assert list(curve) == sorted(curve) and curve[0] == BLOCKS[0]


def test_every_level_has_one_character_in_ascii_too() -> None:
    assert len(set(BLOCKS)) == len(set(PLAIN)) == len(BLOCKS) == len(PLAIN)
    assert PLAIN.isascii() and sparkline([0, 7], low=0, high=7, width=2, encoding="no") == "_#"
