"""Which variant is better, and is it luck? `python eval.py compare runs/... [--out report/]`.

Reads the metrics of finished runs; needs no checkpoint and trains nothing. Statistics follow
Agarwal et al. 2021 (arXiv 2108.13264), see `curl/study/statistics.py`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.text import Text

from curl.study import rendering, report
from curl.study.analysis import Comparison, analyse
from curl.study.grid import SHORTCUTS, make_grid
from curl.study.runs import find_runs
from curl.study.tables import write_csv
from curl.tables import make_console


def compare(
    run_folders: Sequence[Path],
    *,
    by: str = "augmentation",
    at: int | None = None,
    baseline: str | None = None,
    seeds: Sequence[int] | None = None,
    out: Path | None = None,
    generator: np.random.Generator,
) -> Comparison:
    """Compare runs, and write a report where `out` is given.

    Args:
        run_folders: run folders, or folders above them.
        by: what tells variants apart: a dotted configuration key, or one of SHORTCUTS.
        at: env steps to compare at; None: the smallest budget among the runs.
        baseline: compare the others with this variant only; None: all pairs.
        seeds: only these seeds; None: all, and a seed that some variant lacks is missing there.
        out: report.md, report.html, CSV tables, PNG and SVG figures go there.
        generator: of the bootstrap and the permutation tests.

    Raises:
        ValueError: action repeats, env-step axes, evaluation protocols or settings that must not
            be mixed; nothing complete; an unknown key, step or baseline. One line each.
    """
    runs = find_runs(run_folders)
    grid = make_grid(runs, by=by, at=at, baseline=baseline, seeds=seeds)
    comparison = analyse(grid, baseline=baseline, generator=generator)
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
    (out / "report.html").write_text(rendering.page(title, sections, images), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; prints the comparison and returns 0. Refusals are raised as ValueError."""
    parser = argparse.ArgumentParser(
        prog="eval.py compare", description="Which variant is better, and is it luck?"
    )
    add = parser.add_argument
    add("runs", nargs="+", type=Path, help="run folders, or folders above them")
    add("--by", default="augmentation", help=f"{', '.join(SHORTCUTS)} or a dotted key")
    add("--at", type=int, help="env steps to compare at; default: the smallest budget")
    add("--baseline", help="the variant to compare the others with; default: all pairs")
    add("--seeds", type=_numbers, help="only these, as 1,2,3; default: all")
    add("--out", type=Path, help="folder for report.md, report.html, CSV and figures")
    add("--resampling-seed", type=int, default=0, help="of the bootstrap; default: 0")
    options = parser.parse_args(argv)
    comparison = compare(
        options.runs,
        by=options.by,
        at=options.at,
        baseline=options.baseline,
        seeds=options.seeds,
        out=options.out,
        generator=np.random.default_rng(options.resampling_seed),
    )
    console = make_console()
    rendering.terminal(report.title(comparison), report.sections(comparison), console)
    if options.out is not None:
        console.print(Text(f"\nreport: {options.out / 'report.html'}"), soft_wrap=True)
    return 0


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]
