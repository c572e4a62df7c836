"""The page of results: `python -m benchmarks.dmc --page` writes docs/results.md and its figures.

It is made of the curve files below results/dmc and of nothing else, so that a test can hold it to
them. Figures carry the digest of the curves that they were drawn from.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from benchmarks.cells import PROTOCOL, ROOT, TASKS, differing, settings, shown
from benchmarks.curve_groups import NONE, Group, interval_text, markdown_table, seeds_text, spread
from curl.run.clock import ENV_STEPS
from curl.study import statistics
from curl.study.curves import Curve, curve_files, read_curve
from curl.study.published import AT_100K, CURL

PAGE = ROOT / "docs/results.md"
AT = PROTOCOL["env_steps"]
DIGEST = "Curves"  # the key of the digest in a PNG file

PRESETS = {
    "paper": (
        "The paper's agent",
        "Everything as in CURL's Table 3.",
    ),
    "batch128": (
        "The paper's agent with batch size 128",
        "**Not the paper's set-up**: batches of 128 instead of 512, everything else as in the "
        "paper. The official code's README trains with 128 as well.",
    ),
    "small": (
        "The small agent for CPUs",
        "**Not the paper's agent**: smaller frames, a smaller trunk and smaller batches "
        "(`experiment=laptop`). A crop is here 44 of 48 pixels, of the "
        "whole frame with a border of 2 pixels around it (DrQ's shift). DrQ-v2 has the same sizes "
        "here (`agent=drqv2_small`) and, so that the comparison is fair, as many updates: batches "
        "of 64 and one update per agent step, where its paper has batches of 256 and one per two "
        "agent steps. Trunk and critic have the learning rate of the other small agents, and the "
        "exploration noise decays over 5,000 agent steps instead of 100,000. The variants can be "
        "compared with each other; beside the published scores they show how far a laptop gets, "
        "not whether the paper is reproduced.",
    ),
}
VARIANTS = {
    "curl": "SAC with the contrastive loss on random crops",
    "crop_only": "the same SAC on the same crops without the contrastive loss",
    "gaussian": "the contrastive loss with Gaussian noise (sigma 0.1) instead of crops; SAC sees "
    "the clean central window",
    "drqv2": "DrQ-v2 (DDPG with 3-step returns on random shifts), without a contrastive loss",
}
ALWAYS = ("curl", "crop_only", "gaussian")  # variants that have a column without a curve too


Groups = Mapping[tuple[str, str], Group]
"""(task, variant) -> the curves."""


def read_groups(results: Path) -> dict[str, dict[tuple[str, str], Group]]:
    """Preset -> its groups, of all curve files of the page's presets below `results`.

    Raises:
        ValueError: a file that is no curve, does not reach the budget, has other settings or
            another evaluation protocol than its neighbours, or lies in another's place.
    """
    found: dict[str, dict[tuple[str, str], list[Curve]]] = {preset: {} for preset in PRESETS}
    for preset, groups in found.items():
        for path in sorted(curve_files(results / preset)):
            curve, name = read_curve(path, shown(path)), shown(path)
            header = curve.header
            place = (preset, header["variant"], header["task"], f"seed_{header['seed']}.jsonl")
            if path.relative_to(results).parts != place:
                raise ValueError(f"{name} holds the curve of {'/'.join(place)}")
            if curve.steps[-1] != AT:
                raise ValueError(f"{name} ends at {curve.steps[-1]:,} of {AT:,} env steps")
            group = groups.setdefault((header["task"], header["variant"]), [])
            if group and (other := differing(curve.config, group[0].config)):
                first = f"seed {group[0].header['seed']}"
                raise ValueError(f"{name} is of another experiment than {first}: {other[0]}")
            group.append(curve)
    return {
        preset: {
            key: Group(tuple(sorted(curves, key=lambda c: c.header["seed"])))
            for key, curves in groups.items()
        }
        for preset, groups in found.items()
    }


def digest(groups: Groups) -> str:
    """Of all curves of a preset."""
    texts = [curve.lines() for key in sorted(groups) for curve in groups[key].curves]
    return hashlib.sha256("".join(texts).encode()).hexdigest()[:16]


# -- text ----------------------------------------------------------------------------------------


def page(presets: Mapping[str, Groups]) -> str:
    """The whole page, Markdown."""
    parts = [
        "# Results on the DeepMind Control suite",
        f"Mean undiscounted return of 10 deterministic episodes at {AT:,} env steps, over seeds. "
        "Our figures are made piece by piece, on whatever machine is at hand: "
        "`python -m benchmarks.dmc` runs what is missing and keeps each finished curve below "
        "`results/dmc`; `python -m benchmarks.dmc --page` writes this page from those files.",
        "mean ± std: over seeds, sample standard deviation. IQM: mean of the middle half of the "
        "seeds, with a 95 % bootstrap interval, which is too narrow with few seeds (with 3 it "
        "covers the truth 73 % of the time, with 5 89 %). A dash: no finished run. Runs that were "
        "stopped before their end are on the page of [single "
        "runs](single-runs.md#without-the-contrastive-loss-on-a-gpu).",
        "\n".join(f"- `{name}`: {meaning}" for name, meaning in VARIANTS.items()),
        "## Published scores",
        markdown_table(_published()),
    ]
    for preset, (title, note) in PRESETS.items():
        groups = presets.get(preset, {})
        parts += [f"## {title} (preset `{preset}`)", note]
        if not groups:
            command = f"python -m benchmarks.dmc --preset {preset}"
            parts.append(f"No run of this preset is finished yet: `{command}`.")
            continue
        parts += [_sizes(groups), markdown_table(_beside(groups)), markdown_table(_details(groups))]
        for told in (_beside_curl(groups), _told_apart(groups)):
            if told:
                parts.append("\n".join(told))
        caption = f"Learning curves of the preset {preset}: IQM over seeds, and each seed"
        parts.append(f"![{caption}](results/{preset}.png)")
    return "\n\n".join(parts) + "\n"


def _published() -> list[list[str]]:
    columns = {f"{name}, 100k": scores for name, scores in AT_100K.items()}
    columns["CURL, 500k"] = CURL[500_000]
    rows = [["task", *columns]]
    for task in TASKS:
        rows.append([task, *("{} ± {}".format(*scores[task]) for scores in columns.values())])
    means = [np.mean([mean for mean, _ in scores.values()]) for scores in columns.values()]
    return [*rows, ["mean", *(f"{mean:.0f}" for mean in means)]]


def _tasks(groups: Groups) -> list[str]:
    """The paper's six, and others that have curves."""
    return [*TASKS, *sorted({task for task, _ in groups} - set(TASKS))]


def _variants(groups: Groups) -> list[str]:
    with_curves = {variant for _, variant in groups}
    return [name for name in VARIANTS if name in ALWAYS or name in with_curves]


def _sizes(groups: Groups) -> str:
    """A line with the sizes that make a preset, as its curves have them."""
    named = {"batch size": "batch_size", "frames": "render_size", "updates": "updates_per_step"}
    named |= {"views": "augmentation.query.size", "strides": "agent.strides"}
    named |= {"filters": "agent.filters", "hidden units": "agent.hidden_dim"}
    units = {"frames": " pixels", "views": " pixels", "updates": " per agent step"}
    found = [settings(group.curves[0].config) for group in groups.values()]
    parts = []
    for name, key in named.items():
        values = dict.fromkeys(str(each[key]).strip("[]") for each in found if key in each)
        if values:
            parts.append(f"{name}: {' or '.join(values)}{units.get(name, '')}")
    return f"Its sizes: {'; '.join(parts)}."


def _beside(groups: Groups) -> list[list[str]]:
    """Task × our variants and the published scores."""
    ours = _variants(groups)
    rows = [
        ["task", *(f"`{name}`, ours" for name in ours), *(f"{name}, published" for name in AT_100K)]
    ]
    for task in _tasks(groups):
        cells = []
        for variant in ours:
            group = groups.get((task, variant))
            cells.append(f"{spread(group.scores)} ({seeds_text(group)})" if group else NONE)
        for scores in AT_100K.values():
            cells.append("{} ± {}".format(*scores[task]) if task in scores else NONE)
        rows.append([task, *cells])
    return rows


def _details(groups: Groups) -> list[list[str]]:
    """Task and variant × everything about our runs."""
    rows = [["task", "variant", "seeds", "mean ± std", "IQM [95 %]", "time per run", "made on"]]
    for task in _tasks(groups):
        for variant in _variants(groups):
            if not (group := groups.get((task, variant))):
                continue
            iqm = group.iqm
            seeds = ", ".join(str(curve.header["seed"]) for curve in group.curves)
            hours = np.median([curve.wall_seconds[-1] for curve in group.curves]) / 3600
            time = f"{hours:.1f} h" if hours >= 1.5 else f"{60 * hours:.0f} min"
            rows.append(
                [
                    *(task, f"`{variant}`", seeds, spread(group.scores)),
                    *(f"{iqm.value:.0f}{interval_text(iqm)}", time, _machines(group.curves)),
                ]
            )
    return rows


def _machines(curves: Iterable[Curve]) -> str:
    found = []
    for curve in curves:
        used = curve.header["used"]
        machine = used.get("machine", {})
        threads = machine.get("threads")
        name = str(machine.get("processor", "unknown"))
        if used.get("device") == "cpu" and threads:
            name += f", {threads} thread{'s' * (threads != 1)}"
        found.append(name)
    return "; ".join(dict.fromkeys(found))


def _beside_curl(groups: Groups) -> list[str]:
    """A line about `curl` against CURL's published score on each task that has both."""
    lines = []
    for task in _tasks(groups):
        if (group := groups.get((task, "curl"))) is None or task not in AT_100K["CURL"]:
            continue
        score = group.scores.mean()
        mean, std = AT_100K["CURL"][task]
        within = "is within one standard deviation of the published score"
        if score < mean - std:
            within = "is more than one standard deviation below the published score"
        elif score > mean + std:
            within = "is more than one standard deviation above the published score"
        lines.append(f"- {task}: the mean of `curl`, {score:.0f}, {within}, {mean} ± {std}.")
    return lines


def _told_apart(groups: Groups) -> list[str]:
    """A line about `curl` against each other variant on each task that both have."""
    lines = []
    for task in _tasks(groups):
        for other in _variants(groups):
            first, second = groups.get((task, "curl")), groups.get((task, other))
            if other == "curl" or first is None or second is None:
                continue
            scores = first.scores[None], second.scores[None]
            chance = statistics.probability_of_improvement(*scores)
            p = statistics.permutation_test(*scores, np.random.default_rng(0))
            apart = p <= 1 - statistics.LEVEL and not chance.low <= 0.5 <= chance.high
            numbers = f"P = {chance.value:.2f} [{chance.low:.2f}, {chance.high:.2f}]"
            seeds = f"{len(first.scores)} and {len(second.scores)} seeds"
            if not apart:
                verdict = f"`curl` and `{other}` cannot be told apart"
            elif chance.value > 0.5:
                verdict = f"`curl` scores higher than `{other}`"
            else:
                verdict = f"`{other}` scores higher than `curl`"
            lines.append(f"- {task}: {verdict}: {numbers}, {seeds}.")
    if lines:
        lines.insert(
            0,
            "P is the probability that a seed of `curl` scores higher than one of the other, with "
            "Newcombe's 95 % interval; told apart means that a permutation test agrees (p ≤ 0.05), "
            "for which 4 seeds each are the fewest.\n",
        )
    return lines


# -- figures -------------------------------------------------------------------------------------


def figure(groups: Groups) -> bytes:
    """The learning curves of a preset, a panel for each task, as PNG."""
    import matplotlib

    from curl.study import drawing
    from curl.study.published import reference_lines

    tasks = [task for task in _tasks(groups) if any(key[0] == task for key in groups)]
    looks = drawing.looks(VARIANTS)
    with matplotlib.rc_context(drawing.STYLE):
        drawn, axes = drawing.panels(len(tasks))
        entries = {name: looks[name] for name in VARIANTS if any(key[1] == name for key in groups)}
        for task, ax in zip(tasks, axes, strict=True):
            for variant in entries:
                if not (group := groups.get((task, variant))):
                    continue
                for curve in group.curves:
                    line = curve.returns.mean(axis=1)
                    ax.plot(curve.steps / 1000, line, linewidth=0.6, alpha=0.35, **looks[variant])
                steps, band = group.band()
                drawing.band(ax, steps / 1000, band, looks[variant])
            for step, level in reference_lines(task, AT, ENV_STEPS).items():
                ax.axhline(level, **drawing.REFERENCE)
                ax.annotate(f"{step // 1000}k", (0, level), **drawing.NOTE)
                entries |= {"CURL, published": drawing.REFERENCE}
            ax.set(title=task, xlabel="env steps (thousands)", ylabel="return")
        drawing.legend(drawn, entries)
        png = io.BytesIO()
        drawn.savefig(
            png, format="png", dpi=120, metadata={"Software": None, DIGEST: digest(groups)}
        )
    return png.getvalue()


def write_page(results: Path, path: Path = PAGE) -> list[Path]:
    """Write the page and its figures, which lie in a folder beside it; returns their paths."""
    presets = read_groups(results)
    folder = path.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for preset, groups in presets.items():
        image = folder / f"{preset}.png"
        if groups:
            image.write_bytes(figure(groups))
            written.append(image)
        else:
            image.unlink(missing_ok=True)
    path.write_text(page(presets), encoding="utf-8")
    return [path, *written]
