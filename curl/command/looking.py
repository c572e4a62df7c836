"""`python -m curl eval RUN --shift NAME,...`: one run on several looks, its pictures, the table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.text import Text

from curl.command.looks import Looks
from curl.run.clock import ENV_STEPS, words
from curl.study.sections import interval
from curl.study.statistics import Estimate, ratio
from curl.summary import mean_interval
from curl.tables import make_console, table

NONE = "-"  # a cell with nothing to say


def evaluate(run: Path, looks: Looks, **how: Any) -> dict[str, Any]:
    """What `curl.run.looks.evaluate_looks` finds, after the OpenGL backend has been chosen.

    Args:
        how: its other arguments.

    Returns:
        The content of its file with `file`, `pictures` and `video`, where there are any, and
        `failures`: lines about files that could not be written.
    """
    from curl.run.looks import evaluate_looks
    from curl.study import strips  # matplotlib takes a while to import

    found = evaluate_looks(run, looks=looks.settings, named=looks.named, **how)
    names, failures = list(found.content["looks"]), list(found.failures)
    pictures = {name: found.strip(name) for name in names}
    done = f"{found.content[found.content['axis']]:,} {words(found.content['axis'])}"
    sheet: Path | None = found.sheet
    try:
        for name, frames in found.seen.items():
            strips.save_strip(frames, pictures[name])
        if not strips.save_sheet(pictures, found.sheet, f"{run} at {done}"):
            sheet = None
    except OSError as error:
        failures.append(f"{found.sheet} could not be written: {error.strerror or error}")
        sheet = None
    result = found.content | {"file": str(found.file) if found.file.exists() else None}
    result |= {"pictures": str(sheet)} if sheet is not None else {}
    result |= {"video": {n: str(path) for n, path in found.videos.items()}} if found.videos else {}
    return result | ({"failures": failures} if failures else {})


def show(results: Sequence[dict[str, Any]]) -> None:
    """Print a table with one row for each look of each run, and the files that were written."""
    console = make_console()
    several = len(results) > 1
    head = ["run"] * several + ["look", "mean return", "difference", "ratio"]
    rows = [[r["run"]] * several + row for r in results for row in look_rows(r)]
    for r in results:
        axis = r.get("axis", ENV_STEPS)
        episodes = len(r["episode_seeds"])
        plural = "s" * (episodes != 1)
        text = f"{r['run']}: {r[axis]:,} {words(axis)}, {episodes} episode{plural} on each look"
        console.print(Text(text, style="bold"), soft_wrap=True)
    right = range(several + 1, len(head))
    console.print(table(head, rows, width=console.width, right=right))
    console.print(Text("Brackets: 95 % intervals. Difference and ratio: from the training look."))
    for r in results:
        files = [r["file"], r.get("pictures"), *r.get("video", {}).values()]
        console.print(Text(" ".join(f for f in files if f)), soft_wrap=True)


def look_rows(result: dict[str, Any]) -> list[list[str]]:
    """Look, mean return, paired difference and ratio to the training look, which comes first."""
    generator = np.random.default_rng(result["seed"])  # the same numbers each time
    (first, own), *others = result["looks"].items()
    base = np.array(own["returns"])
    rows = [[first, bracketed(Estimate(own["mean"], *ends(own["interval"])), 1), NONE, NONE]]
    for name, look in others:
        returns = np.array(look["returns"])
        apart = returns - base
        difference = Estimate(float(apart.mean()), *ends(mean_interval(apart)))
        kept = ratio(returns, base, generator)
        mean = Estimate(look["mean"], *ends(look["interval"]))
        rows.append([name, bracketed(mean, 1), bracketed(difference, 1), bracketed(kept, 2)])
    return rows


def ends(interval: Sequence[float] | None) -> tuple[float, float]:
    """The ends of an interval; nan where there is none."""
    low, high = interval or (np.nan, np.nan)
    return low, high


def bracketed(estimate: Estimate, digits: int) -> str:
    """`0.45 [0.30, 0.61]`, or `-` where there is no number."""
    return NONE if np.isnan(estimate.value) else interval(estimate, digits)
