"""A comparison -> sections of text, tables and names of figures, which rendering.py prints."""

from __future__ import annotations

from curl.run.clock import words
from curl.study.analysis import Comparison
from curl.study.grid import SHORTCUTS, seeds_count, seeds_text
from curl.study.look_report import look_sections
from curl.study.published import published, reference_lines
from curl.study.sections import NONE, Rows, Section, interval
from curl.study.statistics import AGGREGATES, PERMUTATIONS, RESAMPLES
from curl.summary import sample_std


def sections(comparison: Comparison) -> list[Section]:
    """The report, in reading order."""
    grid = comparison.grid
    gaps = [*grid.gaps(), grid.remedy()] if grid.gaps() else []
    many = len(comparison.normalised) > 1
    over = f"{len(comparison.normalised)} tasks" if many else "".join(comparison.normalised)
    parts = [
        Section("Left out, not averaged around", tuple(line for line in gaps if line)),
        Section("What can be said", tuple(map(str, comparison.pairs)) + _caveats(comparison)),
        Section("Scores, with 95 % intervals", table=_scores(comparison), figures=("scores",)),
        Section("Learning curves", figures=("curves",)),
        Section(
            f"Normalised by the maximum, over {over}",
            table=_aggregates(comparison),
            figures=("aggregates", "profiles"),
        ),
        Section(
            "Probability of improvement",
            table=_pairs(comparison),
            figures=("improvement",),
            fine_print=True,
        ),
        *look_sections(comparison),
        Section("Settings that differ", table=_differences(comparison)),
        Section("How this was computed", _method(comparison), fine_print=True),
    ]
    empty = {"aggregates": not comparison.aggregates, "improvement": not comparison.pairs}
    return [
        part
        for part in parts
        if (part.bullets or part.table or part.figures)
        and not any(empty.get(figure) for figure in part.figures)
    ]


def title(comparison: Comparison) -> str:
    """One line: what is compared, where, when."""
    grid = comparison.grid
    seeds = seeds_count(len(grid.seeds))
    return f"{', '.join(grid.variants)} at {grid.at:,} {words(grid.axis)}, {seeds}"


def _p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _scores(comparison: Comparison) -> Rows:
    grid = comparison.grid
    paper = any(published(task, grid.at, grid.axis) for task in grid.tasks)
    rows = [["task", grid.by, "IQM", "mean ± sample std", "area under curve"]]
    for task in grid.tasks:
        for variant in grid.variants:
            cell = comparison.cells.get((variant, task))
            if cell is None:
                rows.append([task, variant, "incomplete", NONE, NONE])
                continue
            last = cell.returns[:, -1]
            std = sample_std(last)
            spread = f"{last.mean():.0f}" + ("" if std is None else f" ± {std:.0f}")
            rows.append([task, variant, interval(cell.score), spread, interval(cell.area)])
        if paper and (reference := published(task, grid.at, grid.axis)):
            spread = f"{reference[0]} ± {reference[1]}"
            rows.append([task, "CURL, published", NONE, spread, NONE])
    return rows


def _aggregates(comparison: Comparison) -> Rows | None:
    if not comparison.aggregates:
        return None
    rows = [[comparison.grid.by, *AGGREGATES]]
    for variant in comparison.grid.variants:
        found = comparison.aggregates.get(variant)
        cells = [interval(found[n], 3) if found else "incomplete" for n in AGGREGATES]
        rows.append([variant, *cells])
    references = [
        published(task, comparison.grid.at, comparison.grid.axis) for task in comparison.normalised
    ]
    means = [reference[0] for reference in references if reference]
    if means and len(means) == len(references):
        rows.append(["CURL, published", NONE, NONE, f"{sum(means) / len(means) / 1000:.3f}", NONE])
    return rows


def _pairs(comparison: Comparison) -> Rows | None:
    head = ["task", "first", "second", "P(first > second)", "p", "told apart"]
    rows = [
        [
            *(pair.task, pair.first, pair.second, interval(pair.probability, 2)),
            *(_p_value(pair.p_value), "yes" if pair.told_apart else "no"),
        ]
        for pair in comparison.pairs
    ]
    return [head, *rows] if rows else None


def _differences(comparison: Comparison) -> Rows | None:
    """Setting × variant, for the settings in which variants differ on some task."""
    grid = comparison.grid
    values: dict[tuple[str, str], dict[str, str]] = {}
    for (variant, task, _), run in grid.runs.items():
        values.setdefault((variant, task), {k: str(v) for k, v in run.settings().items()})
    keys = sorted({key for settings in values.values() for key in settings})

    def shown(key: str, variant: str) -> str:
        found = {values[v, t].get(key, NONE) for v, t in values if v == variant}
        return ", ".join(sorted(found))

    rows = []
    for key in keys:
        for task in grid.tasks:
            here = {values[v, t].get(key, NONE) for v, t in values if t == task}
            if len(here) > 1:
                rows.append([key, *(shown(key, variant) for variant in grid.variants)])
                break
    return [["setting", *grid.variants], *rows] if rows else None


def _confounders(comparison: Comparison) -> tuple[str, ...]:
    by = comparison.grid.by
    if by in ("label", "task"):
        return ()
    rows = (_differences(comparison) or [])[1:]
    own = f"{by}." if by in SHORTCUTS else by
    keys = [row[0] for row in rows if not row[0].startswith(own)]
    if not keys:
        return ()
    return (
        f"Variants differ in more than {by}: {', '.join(keys)}. A difference may come from those.",
    )


def _caveats(comparison: Comparison) -> tuple[str, ...]:
    seeds, pairs = len(comparison.grid.seeds), comparison.pairs
    found = list(_confounders(comparison))
    if pairs and seeds < 4:
        found.append(
            f"With {seeds_count(seeds)} nothing on a single task can be told from luck at the "
            "5 % level, however clear it looks; that takes 4."
        )
    if len(pairs) > 1:
        found.append(
            f"{len(pairs)} comparisons at the 5 % level: if all were alike, "
            f"{0.05 * len(pairs):.2g} would still be told apart by luck."
        )
    return tuple(found)


def _method(comparison: Comparison) -> tuple[str, ...]:
    grid = comparison.grid
    unknown = [task for task in grid.tasks if task not in comparison.normalised]
    lines = [
        f"Runs: {seeds_text(grid.seeds)} of each variant and task. A run's score is the mean "
        f"return of its deterministic evaluation episodes at {grid.at:,} {words(grid.axis)}.",
        f"Intervals: 95 %, percentiles of {RESAMPLES:,} stratified bootstrap resamples (runs drawn "
        "within each task). Few runs make them too narrow: on one task with normal scores they "
        "cover the truth 73 % of the time with 3 seeds, 89 % with 5, 94 % with 10.",
        "Sample std: standard deviation of runs with ddof = 1. IQM: mean of the middle half of "
        "runs. Area under curve: mean height of the learning curve "
        f"from {grid.steps[0]:,} to {grid.at:,} {words(grid.axis)}. Optimality gap: mean shortfall "
        "from the maximum, lower is better. Profiles: share of runs above each score.",
        "P: probability that a run of the first variant scores higher than a run of the second, "
        "averaged over tasks, with Newcombe's (2006) interval. Told apart: the interval lies above "
        f"0.5 and a permutation test ({PERMUTATIONS:,} shuffles within tasks) gives p ≤ 0.05.",
        "After Agarwal et al. 2021, Deep reinforcement learning at the edge of the statistical "
        "precipice (arXiv 2108.13264).",
    ]
    if unknown:
        lines.append(f"Not normalised, for want of a known maximum: {', '.join(unknown)}.")
    if any(reference_lines(task, grid.at, grid.axis) for task in grid.tasks):
        lines.append(
            "Published: Laskin et al. 2020, 10 seeds, batch 512, at the env steps named; the paper "
            "does not say which standard deviation it gives."
        )
    return tuple(lines)
