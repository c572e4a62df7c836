"""The figures of an inspection: name -> PNG, drawn without a display."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from curl.inspection import findings
from curl.inspection.analysis import SHEET_KEYS, Inspection, Looks, Projected, Retrieval, Values
from curl.inspection.measures import nearest_keys
from curl.study import drawing
from curl.study.drawing import COLOURS

CELL = 0.95  # inches, of a frame in a sheet
RIGHT, WRONG = COLOURS[2], COLOURS[1]
STYLE: dict[Any, Any] = {**drawing.STYLE, "image.interpolation": "nearest", "image.cmap": "magma"}

CAPTIONS = {
    "retrieval": "One query per row, from the worst retrieved to the best, and its five nearest "
    "keys with their scores. The own key has a green frame and the others an orange one; t is the "
    "agent step, and e the episode.",
    "confused": "The queries whose wrong key beats their own by most: query, own key, wrong key. "
    "The number is the score of the wrong key minus that of the own one.",
    "saliency": "Frames of one episode, and what Q and the policy look at: gradient x input, and "
    "the change of the output where a patch is made grey.",
    "latents": "The latents of one episode with mean actions, in the two directions in which they "
    "vary most.",
    "decoding": "How well a linear model reads each quantity from the latent, from the trunk, and "
    "from a trunk that was never trained: R² on episodes that the model has not seen.",
    "values": "Q of the actions that were taken, against the discounted returns that they led to. "
    "On the line it is right.",
    "actions": "The mean actions, each component apart. At the edges the policy is at its bounds.",
    "units": "Shares of dormant units of each layer, and effective ranks beside those of a network "
    "that was never trained.",
}


def draw(seen: Inspection) -> dict[str, bytes]:
    """All figures that the inspection has numbers for."""
    figures: dict[str, Callable[[], Figure]] = {}
    if (sheet := seen.retrieval) is not None:
        figures["retrieval"] = lambda: retrieval(sheet)
        figures["confused"] = lambda: confused(sheet)
    if (looks := seen.looks) is not None:
        figures["saliency"] = lambda: saliency(looks)
    if (points := seen.projected) is not None:
        figures["latents"] = lambda: latents(points)
    if findings.decoded(seen):
        figures["decoding"] = lambda: decoding(seen)
    if (critic := seen.values) is not None:
        figures["values"] = lambda: values(critic)
    figures["actions"] = lambda: actions(seen)
    if seen.layers:
        figures["units"] = lambda: units(seen)
    with matplotlib.rc_context(STYLE):
        return {name: encode(figure()) for name, figure in figures.items()}


def encode(figure: Figure) -> bytes:
    """A PNG with at most 256 colours; nothing in it depends on the day."""
    from PIL import Image

    full = io.BytesIO()
    figure.savefig(full, format="png", dpi=100, metadata={"Software": None})
    with Image.open(full) as image:
        small, found = image.convert("RGB").quantize(256), io.BytesIO()
    small.save(found, format="png", optimize=True)
    return found.getvalue()


# -- sheets of frames ------------------------------------------------------------------------------


def sheet(rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    """A grid of frames with a line of text above each."""
    figure = Figure(figsize=(CELL * columns + 0.6, (CELL + 0.22) * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)  # pyright: ignore
    for each in axes.flat:
        each.set(xticks=[], yticks=[])
        each.grid(visible=False)
        each.spines[:].set_visible(False)
    return figure, axes


def show(ax: Axes, pixels: np.ndarray, title: str = "", frame: str | None = None) -> None:
    ax.imshow(pixels)
    ax.set_title(title, fontsize=6.5, pad=2)
    if frame is not None:
        ax.spines[:].set(visible=True, color=frame, linewidth=2.5)


def retrieval(found: Retrieval) -> Figure:
    """Queries in rows, with their nearest keys."""
    queries, nearest = found.shown(), nearest_keys(found.scores, SHEET_KEYS)
    figure, axes = sheet(len(queries), 1 + nearest.shape[1])
    for line, query in zip(axes, queries, strict=True):
        show(line[0], found.queries[query], f"query e{found.episode[query]} t{found.step[query]}")
        for ax, key in zip(line[1:], nearest[query], strict=True):
            title = f"{found.scores[query, key]:.2f}  e{found.episode[key]} t{found.step[key]}"
            show(ax, found.keys[key], title, RIGHT if key == query else WRONG)
    return figure


def confused(found: Retrieval) -> Figure:
    """Query, own key and the wrong key that beats it, two pairs in a row."""
    pairs = found.confused()
    figure, axes = sheet((len(pairs) + 1) // 2, 6)
    for place in range(axes.size // 3):
        cells = axes[place // 2, 3 * (place % 2) : 3 * (place % 2) + 3]
        if place >= len(pairs):
            for each in cells:
                each.remove()
            continue
        query, key, excess = pairs[place]
        show(cells[0], found.queries[query], f"query e{found.episode[query]} t{found.step[query]}")
        show(cells[1], found.keys[query], "own key", RIGHT)
        title = f"{excess:+.2f}  e{found.episode[key]} t{found.step[key]}"
        show(cells[2], found.keys[key], title, WRONG)
    return figure


def saliency(looks: Looks) -> Figure:
    """A row for the frames, and two for each of Q and the policy."""
    names = [(name, kind) for name in looks.maps for kind in ("gradient", "occlusion")]
    figure, axes = sheet(1 + len(names), len(looks.frames))
    for ax, frame, step in zip(axes[0], looks.frames, looks.steps, strict=True):
        show(ax, frame, f"t{step}")
    label: dict[str, Any] = {"rotation": 0, "ha": "right", "va": "center", "fontsize": 7}
    for line, (name, kind) in zip(axes[1:], names, strict=True):
        line[0].set_ylabel(f"{name}\n{kind}", **label)
        for ax, each, frame in zip(line, looks.maps[name], looks.frames, strict=True):
            edge = len(frame)
            values = each.gradient if kind == "gradient" else each.occlusion
            top = np.quantile(values, 0.995) if np.ptp(values) > 0 else 1.0
            ax.imshow(frame.mean(2), cmap="gray", alpha=0.35, extent=(0, edge, edge, 0))
            ax.imshow(
                values,
                vmin=0,
                vmax=top,
                alpha=0.75,
                extent=(0, edge, edge, 0),
                interpolation="nearest" if kind == "gradient" else "bilinear",
            )
            if kind == "occlusion":
                known = np.isfinite(each.agreement)
                text = f"agreement {each.agreement:.2f}" if known else "no change"
                ax.set_title(text, fontsize=6.5, pad=2)
    return figure


# -- curves ----------------------------------------------------------------------------------------


def latents(found: Projected) -> Figure:
    """Three panels of the same points: time, reward, value."""
    colours = {"agent step": found.time, "reward": found.reward}
    if found.value is not None:
        colours["value"] = found.value
    figure, axes = drawing.panels(len(colours))
    for ax, (name, colour) in zip(axes, colours.items(), strict=True):
        x, y = np.pad(found.points, ((0, 0), (0, 2)))[:, :2].T
        ax.plot(x, y, color="0.85", linewidth=0.7, zorder=1)
        dots = ax.scatter(x, y, c=colour, s=12, cmap="viridis", zorder=2)
        figure.colorbar(dots, ax=ax, label=name)
        shares = [*found.shares, 0.0, 0.0]
        ax.set(xlabel=f"first, {shares[0]:.0%} of the variance", ylabel=f"second, {shares[1]:.0%}")
    return figure


def decoding(seen: Inspection) -> Figure:
    """Bars of R^2, three for each quantity."""
    found = seen.decoding
    kinds = {"latent": found.latent, "trunk": found.trunk, "untrained trunk": found.untrained}
    names = list(found.names)
    figure = Figure(figsize=(6.5, 0.9 + 0.32 * len(names)), layout="constrained")
    ax = figure.subplots()
    for place, (kind, r2) in enumerate(kinds.items()):
        colour = ("0.7", COLOURS[5], COLOURS[0])[2 - place]
        heights = np.nan_to_num(r2, nan=0.0).clip(-0.1, 1)
        ax.barh(np.arange(len(names)) + 0.26 * (place - 1), heights, 0.24, label=kind, color=colour)
    for threshold in (findings.LOST, findings.DECODED):
        ax.axvline(threshold, **drawing.REFERENCE)
    ax.set_yticks(range(len(names)), names)
    ax.set(xlim=(-0.12, 1.02), ylim=(len(names) - 0.5, -0.5), xlabel="held-out R²")
    ax.grid(visible=False, axis="y")
    figure.legend(loc="outside upper center", ncols=3)
    return figure


def values(found: Values) -> Figure:
    """Q against returns, one dot per step."""
    figure, (ax,) = drawing.panels(1)
    ax.scatter(found.returns, found.q, s=8, alpha=0.5, color=COLOURS[0], linewidth=0)
    low = float(min(found.q.min(), found.returns.min()))
    high = float(max(found.q.max(), found.returns.max()))
    ax.plot([low, high], [low, high], **drawing.REFERENCE)
    ax.set(xlabel="discounted return", ylabel="Q")
    return figure


def actions(seen: Inspection) -> Figure:
    """One histogram per component."""
    columns = seen.actions.actions.T
    figure, axes = drawing.panels(len(columns))
    for number, (ax, column) in enumerate(zip(axes, columns, strict=True)):
        ax.hist(column, bins=np.linspace(-1, 1, 42).tolist(), color=COLOURS[0])
        share = seen.actions.saturated[number]
        ax.set(title=f"component {number}: {share:.0%} saturated", xlabel="action", ylabel="steps")
    return figure


def units(seen: Inspection) -> Figure:
    """Dormant shares on the left, ranks on the right."""
    rows = list(seen.layers)
    figure = Figure(figsize=(9, 0.9 + 0.26 * len(rows)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    places = np.arange(len(rows))
    left.barh(places, [each.dormant for each in rows], 0.6, color=COLOURS[4], label="dormant")
    left.barh(places, [each.dead for each in rows], 0.3, color=COLOURS[1], label="dead")
    left.axvline(findings.MANY_DORMANT, **drawing.REFERENCE)
    left.set(xlim=(0, 1), xlabel="share of units")
    figure.legend(loc="outside upper left", ncols=2)
    for place, each in zip(places, rows, strict=True):
        if each.rank is not None and each.untrained_rank is not None:
            right.barh(place - 0.16, each.rank, 0.3, color=COLOURS[0])
            right.barh(place + 0.16, each.untrained_rank, 0.3, color="0.75")
    right.set(xlabel="effective rank (grey: untrained)")
    left.set_yticks(places, [each.name for each in rows])
    left.set_ylim(len(rows) - 0.5, -0.5)
    for ax in (left, right):
        ax.grid(visible=False, axis="y")
    return figure
