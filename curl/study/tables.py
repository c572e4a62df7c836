"""A comparison -> CSV files, one line per number with its interval."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from curl.study.analysis import Comparison, Pair

ENDS = ("value", "low", "high")
Rows = list[tuple[object, ...]]


def write_csv(comparison: Comparison, folder: Path) -> None:
    """Write runs.csv, curves.csv, summary.csv, pairs.csv; returns unless named normalised.

    Where looks are compared, also looks.csv, look_runs.csv and look_pairs.csv.
    """
    makers = {"runs": _runs, "curves": _curves, "summary": _summary, "pairs": _pairs}
    if comparison.looks is not None:
        makers |= {"looks": _looks, "look_runs": _look_runs, "look_pairs": _look_pairs}
    for name, maker in makers.items():
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            for row in maker(comparison):
                cells = [f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row]
                csv.writer(file, lineterminator="\n").writerow(cells)


def _runs(comparison: Comparison) -> Rows:
    grid = comparison.grid
    rows: Rows = [("variant", "task", "seed", "run", "state", grid.axis, "return_mean")]
    for (variant, task, seed), run in sorted(grid.runs.items()):
        state = "complete" if run.reached >= grid.at else "unfinished"
        for step, score in zip(run.steps.tolist(), run.returns.tolist(), strict=True):
            if step <= grid.at:
                rows.append((variant, task, seed, run.name, state, step, score))
    return rows


def _curves(comparison: Comparison) -> Rows:
    axis = comparison.grid.axis
    rows: Rows = [("variant", "task", axis, *(f"iqm_{end}" for end in ENDS))]
    for (variant, task), cell in comparison.cells.items():
        for step, point in zip(comparison.grid.steps.tolist(), cell.curve.T.tolist(), strict=True):
            rows.append((variant, task, step, *point))
    return rows


def _summary(comparison: Comparison) -> Rows:
    rows: Rows = [("variant", "task", "statistic", *ENDS)]
    for (variant, task), cell in comparison.cells.items():
        rows.append((variant, task, "iqm_return", *cell.score))
        rows.append((variant, task, "iqm_area_under_curve", *cell.area))
    for variant, found in comparison.aggregates.items():
        for name, estimate in found.items():
            rows.append((variant, "normalised", name.lower().replace(" ", "_"), *estimate))
    return rows


def _pairs(comparison: Comparison) -> Rows:
    return _rows_of_pairs(comparison.pairs)


def _rows_of_pairs(pairs: Iterable[Pair]) -> Rows:
    rows: Rows = [
        ("task", "first", "second", *(f"p_{end}" for end in ENDS), "p_value", "told_apart")
    ]
    for pair in pairs:
        names, verdict = (pair.task, pair.first, pair.second), (pair.p_value, pair.told_apart)
        rows.append((*names, *pair.probability, *verdict))
    return rows


def _looks(comparison: Comparison) -> Rows:
    assert comparison.looks is not None
    ends = [f"{what}_{end}" for what in ("iqm", "ratio") for end in ENDS]
    rows: Rows = [("variant", "task", "look", *ends)]
    for place, cell in comparison.looks.cells.items():
        rows.append((*place, *cell.score, *cell.ratio))
    return rows


def _look_runs(comparison: Comparison) -> Rows:
    assert comparison.looks is not None
    rows: Rows = [("variant", "task", "look", "seed", "return_mean")]
    for place, cell in comparison.looks.cells.items():
        for seed, value in zip(comparison.grid.seeds, cell.returns.tolist(), strict=True):
            rows.append((*place, seed, value))
    return rows


def _look_pairs(comparison: Comparison) -> Rows:
    assert comparison.looks is not None
    return _rows_of_pairs(pair for pairs in comparison.looks.pairs.values() for pair in pairs)
