"""Which variant is better, and is it luck?

Reads the metrics of finished runs; needs no checkpoint and trains nothing. Statistics follow
Agarwal et al. 2021 (arXiv 2108.13264), see `curl/study/statistics.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from curl.study import rendering, report
from curl.study.analysis import Comparison, analyse
from curl.study.grid import make_grid
from curl.study.looks import look_at
from curl.study.runs import find_runs
from curl.study.tables import write_csv


def compare(
    run_folders: Sequence[Path],
    *,
    by: str = "augmentation",
    at: int | None = None,
    baseline: str | None = None,
    seeds: Sequence[int] | None = None,
    looks: Sequence[str] = (),
    out: Path | None = None,
    generator: np.random.Generator,
) -> Comparison:
    """Compare runs, and write a report where `out` is given.

    Args:
        run_folders: run folders, or folders above them.
        by: what tells variants apart: a dotted configuration key, or one of SHORTCUTS.
        at: position on the axis of the runs (env steps, or updates of offline runs) to compare at;
            None: the smallest budget among the runs.
        baseline: compare the others with this variant only; None: all pairs.
        seeds: only these seeds; None: all, and a seed that some variant lacks is missing there.
        looks: names of looks on which eval --shift has evaluated the runs, or `all` of them.
        out: report.md, report.html, CSV tables, PNG and SVG figures go there.
        generator: of the bootstrap and the permutation tests.

    Raises:
        ValueError: action repeats, env-step axes, evaluation protocols or settings that must not
            be mixed; nothing complete; an unknown key, step or baseline; no evaluation on other
            looks, though they are asked for. One line each.
    """
    runs = find_runs(run_folders)
    grid = make_grid(runs, by=by, at=at, baseline=baseline, seeds=seeds)
    comparison = analyse(grid, baseline=baseline, generator=generator)
    if looks:
        found = look_at(grid, looks, baseline=baseline, generator=generator)
        comparison = dataclasses.replace(comparison, looks=found)
    if out is not None:
        write(comparison, out)
    return comparison


def write(comparison: Comparison, out: Path) -> None:
    """Write report.md, report.html, CSV tables, PNG and SVG figures into the folder `out`."""
    from curl.study import plots  # matplotlib takes a while to import

    out.mkdir(parents=True, exist_ok=True)
    title, sections = report.title(comparison), report.sections(comparison)
    images = plots.draw(comparison)
    plots.save(images, out)
    write_csv(comparison, out)
    (out / "report.md").write_text(rendering.markdown(title, sections), encoding="utf-8")
    drawings = {name: svg for name, (_, svg) in images.items()}
    (out / "report.html").write_text(rendering.page(title, sections, drawings), encoding="utf-8")
