"""The page of `python -m benchmarks.pretraining`: docs/results/pretraining.md and its figure.

It is made of the files below results/pretraining and of nothing else.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cells import ROOT, differing, settings, shown
from benchmarks.curve_groups import NONE, Group, interval_text, markdown_table, seeds_text, spread
from benchmarks.pretraining import (
    DATASETS,
    EXPERT,
    FROZEN,
    OBJECTIVES,
    PRETRAIN,
    REPLAY,
    STAGES,
    TASK,
)
from curl.run.clock import words
from curl.study import statistics
from curl.study.curves import Curve, curve_files, read_curve

PAGE = ROOT / "docs/results/pretraining.md"
FEWEST = 3  # seeds of a variant of which the page says more than its numbers
PROBES = "probes.json"  # below the folder of the curves
SETTINGS = {
    "imitate": "imitation",
    "offline_rl": "offline RL",
    "online": "online RL",
}

Groups = Mapping[tuple[str, str], Group]
"""(stage, variant) -> the curves, by seed."""


def read_groups(results: Path) -> dict[tuple[str, str], Group]:
    """All curves below `results`.

    Raises:
        ValueError: a file that is no curve, lies in another's place, or is of another experiment
            than the other seeds.
    """
    found: dict[tuple[str, str], list[Curve]] = {}
    for path in sorted(curve_files(results)):
        curve, name = read_curve(path, shown(path)), shown(path)
        header = curve.header
        place = (header["preset"], header["variant"], TASK, f"seed_{header['seed']}.jsonl")
        if path.relative_to(results).parts != place or header["preset"] not in STAGES:
            raise ValueError(f"{name} holds the curve of {'/'.join(place)}")
        group = found.setdefault((header["preset"], header["variant"]), [])
        if group and (other := differing(curve.config, group[0].config)):
            raise ValueError(f"{name} is of another experiment than its neighbour: {other[0]}")
        group.append(curve)
    return {
        key: Group(tuple(sorted(curves, key=lambda c: c.header["seed"])))
        for key, curves in found.items()
    }


def page(groups: Groups, datasets: Mapping[str, Any], probes: Mapping[str, Any]) -> str:
    """The whole page, Markdown."""
    parts = [
        "# Does pretraining help?",
        "Yang and Nachum (2021) pretrained representations on recorded data, each with another "
        "objective, and asked which helps imitation, offline and online reinforcement learning. "
        "This page asks it on pixels, with the small agents (`experiment=laptop`) on cartpole "
        "swing-up, and on a CPU. What is taken over is the trunk, so the convolutions; projections "
        "and heads begin anew.",
        "Each number is the mean undiscounted return of 10 deterministic episodes at the end of a "
        "run, over seeds: mean ± sample standard deviation, and in brackets the 95 % bootstrap "
        "interval of the IQM (with 3 seeds it spans all of them, and covers the truth 73 % of the "
        "time). `none` begins with an encoder of its own. A dash: no finished run.",
        "## How it was made",
        commands(groups),
        markdown_table(described(datasets)),
        "\n".join(sizes(groups)),
    ]
    for end, title, note in (
        ("", "The encoder is trained on", ""),
        (
            FROZEN,
            "The encoder is frozen",
            "Here the trunk is never trained after the pretraining. `none` is a trunk of random "
            "weights.",
        ),
    ):
        if not any((stage, o + end) in groups for stage in SETTINGS for o in OBJECTIVES):
            continue
        parts += [f"## {title}", *([note] if note else []), markdown_table(scores(groups, end))]
        if lines := beside_none(groups, end):
            parts.append("\n".join(lines))
    parts += [
        "## The pretraining itself",
        "While an encoder is pretrained, a policy is cloned from its latents. It does not train "
        "the encoder, and is thrown away. Its return says how much of what the data's policy does "
        "can be read from the latents.",
        markdown_table(cloned(groups)),
        decoded(probes),
        "![Learning curves: IQM over seeds](pretraining.png)",
        verdict(groups),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def commands(groups: Groups) -> str:
    frozen = any(variant.endswith(FROZEN) for _, variant in groups)
    lines = [
        f"python -m curl train experiment=quickstart seed=4 run_dir=runs/{TASK}/expert/seed_4",
        f"python -m curl record runs/{TASK}/expert/seed_4 --dataset {EXPERT} --episodes 50",
        "python -m curl train experiment=quickstart seed=5 env_steps=100000 "
        f"run_dir=runs/{TASK}/medium/seed_5",
        f"python -m curl record runs/{TASK}/medium/seed_5 --dataset {REPLAY} --replay",
        "python -m benchmarks.pretraining --jobs 2" + " --encoders finetune" * (not frozen),
        "python -m benchmarks.encoder_probes",
        "python -m benchmarks.pretraining --page",
    ]
    return "```\n" + "\n".join(lines) + "\n```"


def described(datasets: Mapping[str, Any]) -> list[list[str]]:
    rows = [["dataset", "episodes", "transitions", "return of an episode", "recorded from"]]
    for name, facts in datasets.items():
        returns = np.array(facts["returns"])
        rows.append(
            [
                *(f"`{name}`", f"{facts['episodes']}", f"{facts['transitions']:,}"),
                f"{returns.mean():.0f} ± {returns.std(ddof=1):.0f}, "
                f"{returns.min():.0f} to {returns.max():.0f}",
                f"a run of {facts['env_steps']:,} env steps",
            ]
        )
    return rows


def sizes(groups: Groups) -> list[str]:
    """A line for each stage that has curves: what its runs do, as their settings say."""
    lines = []
    for stage, title in {PRETRAIN: "pretraining", **SETTINGS}.items():
        curves = [
            curve for (kind, _), group in groups.items() if kind == stage for curve in group.curves
        ]
        if not curves:
            continue
        first = curves[0]
        found = settings(first.config)
        data = found["dataset"]
        some = f", {found['dataset_episodes']} episodes" if found["dataset_episodes"] else ""
        from_data = f" on `{data}`{some}" if data else ""
        seconds = np.median([curve.wall_seconds[-1] for curve in curves])
        lines.append(
            f"- {title}: agent `{found['agent.label']}`, {first.steps[-1]:,} {words(first.axis)} "
            f"of batch size {found['batch_size']}{from_data}; {len(curves)} runs, "
            f"{seconds / 60:.0f} min each (median)"
        )
    return lines


def scores(groups: Groups, end: str) -> list[list[str]]:
    """Objective x setting."""
    rows = [["pretrained with", *SETTINGS.values()]]
    for objective in OBJECTIVES:
        cells = [cell(groups.get((stage, objective + end))) for stage in SETTINGS]
        rows.append([f"`{objective}`", *cells])
    return rows


def cell(group: Group | None) -> str:
    if group is None:
        return NONE
    return f"{spread(group.scores)}{interval_text(group.iqm)} ({seeds_text(group)})"


def cloned(groups: Groups) -> list[list[str]]:
    rows = [["objective", "return of the cloned policy"]]
    for objective in OBJECTIVES[1:]:
        rows.append([f"`{objective}`", cell(groups.get((PRETRAIN, objective)))])
    return rows


def decoded(probes: Mapping[str, Any]) -> str:
    """What ridge regression reads from the pretrained trunks: a sentence and a table."""
    if not probes:
        return ""
    names = list(
        dict.fromkeys(name for seeds in probes.values() for r2 in seeds.values() for name in r2)
    )
    rows = [["pretrained with", *(name.removesuffix("_r2").replace("_", " ") for name in names)]]
    for objective in OBJECTIVES:
        if seeds := probes.get(objective):
            cells = []
            for name in names:
                found = np.array([r2[name] for r2 in seeds.values()])
                cells.append(spread(found, digits=2))
            rows.append([f"`{objective}`", *cells])
    return (
        "The share of the variance (R²) that ridge regression reads from the trunk's features, "
        f"in episodes of `{REPLAY}` that it has not seen; `none` is a trunk of random weights. The "
        "state is positions and velocities. The return-to-go also depends on the policy that "
        "follows, which changes from episode to episode there.\n\n" + markdown_table(rows)
    )


def beside_none(groups: Groups, end: str) -> list[str]:
    """A line about each pretrained variant against `none`, setting by setting."""
    lines = []
    for stage, title in SETTINGS.items():
        base = groups.get((stage, f"none{end}"))
        for objective in OBJECTIVES[1:]:
            group = groups.get((stage, objective + end))
            if base is None or group is None:
                continue
            ours, theirs = group.scores[None], base.scores[None]
            chance = statistics.probability_of_improvement(ours, theirs)
            difference = ours.mean() - theirs.mean()
            lines.append(
                f"- {title}: `{objective}` {difference:+.0f} beside `none`, P = "
                f"{chance.value:.2f} [{chance.low:.2f}, {chance.high:.2f}]"
            )
    if lines:
        lines.insert(
            0,
            "P is the probability that a seed of the objective scores higher than one of `none`, "
            "with Newcombe's 95 % interval. Three seeds each are too few for a permutation test "
            "to tell two variants apart at p ≤ 0.05.\n",
        )
    return lines


def verdict(groups: Groups) -> str:
    """Which pretrained variants are above `none` in all their seeds, or below.

    Nothing is said of a variant, or of `none`, with fewer than FEWEST seeds.
    """
    lines = []
    for end, encoder in (("", "trained on"), (FROZEN, "frozen")):
        for stage, title in SETTINGS.items():
            base = groups.get((stage, f"none{end}"))
            found = {o: groups.get((stage, o + end)) for o in OBJECTIVES[1:]}
            known = {o: g for o, g in found.items() if g is not None and len(g.scores) >= FEWEST}
            if base is None or len(base.scores) < FEWEST or not known:
                continue
            above = [o for o, g in known.items() if g.scores.min() > base.scores.max()]
            below = [o for o, g in known.items() if g.scores.max() < base.scores.min()]
            lines.append(
                f"- {title}, encoder {encoder}: every seed above every seed of `none`: "
                f"{listed(above)}; every seed below: {listed(below)}."
            )
    return "\n".join(["## In short", "", *lines]) if lines else ""


def listed(variants: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in variants) or "none of them"


def figure(groups: Groups) -> bytes:
    """The learning curves, a panel for each setting and encoder, as PNG."""
    import matplotlib

    from curl.study import drawing

    titles = {PRETRAIN: "pretraining: cloned policy", **SETTINGS}
    panels = [
        (stage, end)
        for end in ("", FROZEN)
        for stage in titles
        if any((stage, o + end) in groups for o in OBJECTIVES)
    ]
    looks = drawing.looks(OBJECTIVES)
    with matplotlib.rc_context(drawing.STYLE):
        drawn, axes = drawing.panels(len(panels))
        for (stage, end), ax in zip(panels, axes, strict=True):
            axis = ""
            for objective in OBJECTIVES:
                if (group := groups.get((stage, objective + end))) is None:
                    continue
                axis = words(group.curves[0].axis)
                steps, band = group.band()
                drawing.band(ax, steps / 1000, band, looks[objective])
            title = titles[stage] + (", frozen" if end else "")
            ax.set(title=title, xlabel=f"{axis} (thousands)", ylabel="return")
        drawing.legend(drawn, looks)
        png = io.BytesIO()
        drawn.savefig(png, format="png", dpi=120, metadata={"Software": None})
    return png.getvalue()


def read_probes(results: Path) -> dict[str, Any]:
    """What benchmarks.encoder_probes has kept; empty if nothing is there."""
    path = results / PROBES
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write_page(results: Path, path: Path = PAGE) -> list[Path]:
    """Write the page and its figure; returns their paths."""
    groups = read_groups(results)
    datasets = json.loads((results / DATASETS).read_text(encoding="utf-8"))
    probes = read_probes(results)
    image = path.with_suffix(".png")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.write_bytes(figure(groups))
    path.write_text(page(groups, datasets, probes), encoding="utf-8")
    return [path, image]
