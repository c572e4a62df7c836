"""An inspection -> sections of text, tables and names of figures, and the files of a report."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from curl.inspection import findings, plots
from curl.inspection.analysis import Inspection
from curl.study import rendering
from curl.study.report import NONE, Rows, Section
from curl.summary import sample_std

PAGE, MARKDOWN = "report.html", "report.md"
WORDS = {"mean": "mean actions", "sample": "drawn actions", "random": "random actions"}


def title(seen: Inspection) -> str:
    facts = dict(seen.facts)
    return f"{facts['run']}: {facts['task']}, {facts['agent']}, {facts['position']}"


def sections(seen: Inspection) -> list[Section]:
    """The report, in reading order."""
    found = [str(finding) for finding in findings.find(seen)]
    parts = [
        Section("Findings", (findings.verdict(seen), *found)),
        Section("The run", table=[["what", "value"], *map(list, seen.facts)], fine_print=True),
        Section("Returns", table=_returns(seen)),
        *_retrieval(seen),
    ]
    if seen.looks is not None:
        lines = [f"{name}: {seen.looks.agreement(name):.2f}" for name in seen.looks.maps]
        line = f"Agreement of gradient and occlusion, mean rank correlation: {', '.join(lines)}."
        parts.append(Section("What Q and the policy look at", (line,), figures=("saliency",)))
    if seen.projected is not None:
        parts.append(Section("Latents of an episode", figures=("latents",)))
    figures = ("decoding",) if findings.decoded(seen) else ()
    parts.append(Section("What can be decoded", table=_decoding(seen), figures=figures))
    if seen.values is not None:
        q = seen.values.calibration
        line = (
            f"In the first half of each episode Q promises {q.predicted:.2f} of what is left of "
            f"the episode, and {q.earned:.2f} is earned: {q.bias:+.0%}. The rank correlation of Q "
            f"and returns is {q.correlation:.2f}. {seen.values.cut:.0%} of the episodes were cut "
            "off; what came after is taken from the critic on both sides."
        )
        parts.append(Section("Q against returns", (line,), figures=("values",)))
    parts += [
        Section("Actions", figures=("actions",)),
        Section("Units and ranks", table=_layers(seen), figures=("units",) * bool(seen.layers)),
        Section("One update", table=_norms(seen)),
        Section("Its losses and gradient norms", table=_metrics(seen), fine_print=True),
        Section("Left out", tuple(f"{line}." for line in seen.left_out), fine_print=True),
    ]
    return [part for part in parts if part.bullets or part.table or part.figures]


def write(seen: Inspection, out: Path) -> None:
    """Write report.html, report.md and the figures as PNG files into the folder `out`."""
    images = plots.draw(seen)
    out.mkdir(parents=True, exist_ok=True)
    for name, png in images.items():
        (out / f"{name}.png").write_bytes(png)
    head, parts = title(seen), sections(seen)
    markdown = rendering.markdown(head, parts, plots.CAPTIONS)
    (out / MARKDOWN).write_text(markdown, encoding="utf-8")
    page = rendering.page(head, parts, images, plots.CAPTIONS)
    (out / PAGE).write_text(page, encoding="utf-8")


def _number(value: float | None, digits: int = 2) -> str:
    return NONE if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _returns(seen: Inspection) -> Rows:
    rows = [["episodes with", "number", "mean return", "sample std"]]
    for kind, returns in seen.returns.items():
        std = sample_std(returns)
        rows.append([WORDS[kind], str(len(returns)), f"{np.mean(returns):.1f}", _number(std, 1)])
    return rows


def _retrieval(seen: Inspection) -> list[Section]:
    found = seen.retrieval
    if found is None:
        return []
    lines = [
        f"{len(found)} queries compete for {len(found)} keys, judged by {found.judge}: accuracy "
        f"{found.accuracy:.3f}, chance {1 / len(found):.3f}.",
        f"The mean cosine of the latents of different observations is {found.cosine:.3f}.",
    ]
    if found.offset:
        lines.append(f"The own key is what was seen {found.offset} agent steps later.")
    if found.metrics:
        told = ", ".join(f"{name} {value:.3g}" for name, value in found.metrics.items())
        lines.append(f"The objective reports: {told}.")
    return [
        Section("Retrieval", tuple(lines), figures=("retrieval",)),
        Section("The most confused pairs", figures=("confused",)),
    ]


def _decoding(seen: Inspection) -> Rows:
    found = seen.decoding
    rows = [["quantity", "from the latent", "from the trunk", "from an untrained trunk"]]
    columns = zip(found.names, found.latent, found.trunk, found.untrained, strict=True)
    rows += [[name, *(_number(float(value)) for value in r2)] for name, *r2 in columns]
    return rows


def _layers(seen: Inspection) -> Rows | None:
    head = ["layer", "units", "dormant", "dead", "dormant if untrained"]
    rows = [[*head, "effective rank", "rank if untrained"]]
    for each in seen.layers:
        ranks = [NONE if rank is None else str(rank) for rank in (each.rank, each.untrained_rank)]
        shares = [f"{share:.0%}" for share in (each.dormant, each.dead, each.untrained_dormant)]
        rows.append([each.name, str(each.units), *shares, *ranks])
    if seen.latent_rank is not None:
        latent = [str(seen.latent_rank), str(seen.untrained_latent_rank)]
        rows.append(["latent", str(seen.latent_dim), NONE, NONE, NONE, *latent])
    return rows


def _norms(seen: Inspection) -> Rows:
    rows = [["module", "norm of the weights", "untrained", "relative change by one update"]]
    for each in seen.norms:
        norms = [f"{value:.4g}" for value in (each.weights, each.untrained)]
        rows.append([each.name, *norms, f"{each.step:.3g}"])
    return rows


def _metrics(seen: Inspection) -> Rows | None:
    rows = [["metric", "value"]]
    rows += [[name, f"{value:.4g}"] for name, value in sorted(seen.metrics.items())]
    return rows if len(rows) > 1 else None
