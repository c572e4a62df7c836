"""What a report says of several looks: sentences, and a table with intervals."""

from __future__ import annotations

from curl.run.look_files import TRAINING
from curl.study.analysis import Comparison, Pair
from curl.study.grid import seeds_count
from curl.study.looks import TOGETHER, Looks
from curl.study.sections import NONE, Rows, Section, interval

FEWEST = 3  # seeds, below which nothing is concluded


def look_sections(comparison: Comparison) -> list[Section]:
    """The sections about looks, in reading order; none if nobody asked for looks."""
    looks = comparison.looks
    if looks is None:
        return []
    lacking = (looks.lacking,) if looks.lacking else ()
    return [
        Section("Looks: left out, not averaged around", lacking),
        Section(
            "Looks: what can be said",
            said(comparison, looks),
            table=table(comparison, looks),
            figures=("looks",),
        ),
        Section("Looks: how this was computed", method(comparison, looks), fine_print=True),
    ]


def said(comparison: Comparison, looks: Looks) -> tuple[str, ...]:
    """Plain sentences: what each variant keeps, and which of them can be told apart where."""
    grid = comparison.grid
    seeds = len(grid.seeds)
    if seeds < FEWEST:
        return (
            f"Nothing is said of looks with {seeds_count(seeds)}: that takes {FEWEST} at least.",
        )
    lines = [line for task in grid.tasks for line in kept(comparison, looks, task)]
    for task in grid.tasks:
        of_task = {name: pairs for (there, name), pairs in looks.pairs.items() if there == task}
        alike = [name for name, pairs in of_task.items() if not any(p.told_apart for p in pairs)]
        lines += [
            told_apart(task, name, pairs, seeds)
            for name, pairs in of_task.items()
            if name not in alike
        ]
        if alike:
            lines.append(not_told_apart(task, alike, of_task[alike[0]], seeds))
    count = sum(map(len, looks.pairs.values()))
    if count and seeds < 4:
        lines.append(
            f"With {seeds_count(seeds)} nothing on a single task can be told from luck at the "
            "5 % level, however clear it looks; that takes 4."
        )
    if count > 1:
        lines.append(
            f"{count} comparisons at the 5 % level: if all were alike, "
            f"{0.05 * count:.2g} would still be told apart by luck."
        )
    return tuple(lines)


def kept(comparison: Comparison, looks: Looks, task: str) -> list[str]:
    """What each variant keeps of its return over all looks."""
    others = [name for name in looks.names if name not in (TRAINING, TOGETHER)]
    last = looks.names[-1]
    over = last if len(others) == 1 else f"the mean of {len(others)} looks"
    lines = []
    for variant in comparison.grid.variants:
        cell = looks.cells.get((variant, task, last))
        if others and cell is not None and cell.ratio.value == cell.ratio.value:
            share = interval(cell.ratio, 2)
            lines.append(f"{variant} keeps {share} of its return on {task} under {over}.")
    return lines


def told_apart(task: str, name: str, pairs: list[Pair], seeds: int) -> str:
    """One sentence about pairs of variants on a task under a look, some of them told apart."""
    where = f"on {task} under {name} with {seeds_count(seeds)}"
    beaten: dict[str, list[str]] = {}
    for pair in pairs:
        if pair.told_apart:
            beaten.setdefault(pair.first, []).append(pair.second)
    wins = "; ".join(f"{first} beats {', '.join(others)}" for first, others in beaten.items())
    rest = len(pairs) - sum(map(len, beaten.values()))
    return f"{wins} {where}" + ("; no other two can be told apart." if rest else ".")


def not_told_apart(task: str, names: list[str], pairs: list[Pair], seeds: int) -> str:
    """One sentence about the looks of a task under which no pair can be told apart."""
    who = (
        "No two variants can"
        if len(pairs) > 1
        else f"{pairs[0].first} and {pairs[0].second} cannot"
    )
    return f"{who} be told apart on {task} under {listed(names)} with {seeds_count(seeds)}."


def listed(names: list[str]) -> str:
    """Names in a sentence."""
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def table(comparison: Comparison, looks: Looks) -> Rows:
    """Return and ratio of each variant on each look of each task."""
    rows = [["task", "look", comparison.grid.by, "return (IQM)", "ratio to the training look"]]
    for task in comparison.grid.tasks:
        for name in looks.names:
            for variant in comparison.grid.variants:
                cell = looks.cells.get((variant, task, name))
                if cell is None:
                    rows.append([task, name, variant, "incomplete", NONE])
                    continue
                ratio = interval(cell.ratio, 2) if name != TRAINING else NONE
                ratio = NONE if ratio == "nan" else ratio
                rows.append([task, name, variant, interval(cell.score), ratio])
    return rows


def method(comparison: Comparison, looks: Looks) -> tuple[str, ...]:
    """How the numbers came about."""
    episodes = f"{looks.episodes} episode{'s' * (looks.episodes != 1)}"
    return (
        f"A run's score on a look is its mean return in {episodes}, the same ones on each look "
        f"(seed {looks.seed} of eval --shift). {TRAINING} is the look that the run trained on. "
        f"{TOGETHER} is the mean over the other looks.",
        "Ratio: the IQM on the look over the IQM on the training look, where that is above 0. Its "
        "interval is a 95 % bootstrap over seeds, which are drawn in pairs.",
        "Variants are compared by their returns on the look, with the tests of the other sections.",
    )
