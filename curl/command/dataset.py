"""`python -m curl dataset NAME`: what a recorded dataset holds, with a contact sheet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console

from curl.command.parser import Parser, add_out
from curl.data.dataset import Dataset, read
from curl.data.episode import Episode, Origin
from curl.run.clock import ENV_STEPS, UPDATES, words
from curl.summary import sample_std
from curl.tables import make_console, table

BINS, BAR = 10, 40  # of the histogram, and the characters of its longest bar
EPISODES, FRAMES = 6, 8  # of the contact sheet: its rows and columns
CELL = 0.88  # inches


def parser() -> Parser:
    parser = Parser(
        "dataset",
        "Show what a local dataset holds: its size, the returns of its episodes, the ranges of its "
        "actions,\nand where it comes from. Every episode is read, so that damage is noticed.",
        examples={
            "cartpole_swingup/expert-v0": "Tables and a histogram of the returns.",
            "cartpole_swingup/expert-v0 --out expert.png": "Also a sheet with frames of "
            f"{EPISODES} episodes.",
        },
    )
    parser.add_argument(
        "name",
        metavar="NAME",
        help="The name of a local dataset, as cartpole_swingup/expert-v0. Nothing is downloaded.",
    )
    add_out(parser, "A contact sheet of frames to write, as PNG.")
    return parser


@dataclass
class Summary:
    """What one pass over the episodes of a dataset has found.

    Attributes:
        returns: of the episodes that are there from beginning to end.
        terminated, truncated: how many episodes ended in that way.
        low, high, mean: of the actions, [A] each.
        shown: frames of the contact sheet, a row for each of some episodes, with its label.
    """

    returns: list[float] = field(default_factory=list)
    terminated: int = 0
    truncated: int = 0
    low: np.ndarray = field(default_factory=lambda: np.zeros(0))
    high: np.ndarray = field(default_factory=lambda: np.zeros(0))
    mean: np.ndarray = field(default_factory=lambda: np.zeros(0))
    shown: list[tuple[str, np.ndarray]] = field(default_factory=list)


def summarised(dataset: Dataset) -> Summary:
    """Read all episodes of a dataset."""
    dataset.verify()
    found, action_dim = Summary(), dataset.origin.action_dim
    found.low, found.high = np.full(action_dim, np.inf), np.full(action_dim, -np.inf)
    total = np.zeros(action_dim)
    shown = set(evenly(len(dataset), EPISODES))
    for number, episode in enumerate(dataset.episodes()):
        found.terminated += episode.terminated
        found.truncated += episode.truncated
        found.low = np.minimum(found.low, episode.actions.min(0))
        found.high = np.maximum(found.high, episode.actions.max(0))
        total += episode.actions.sum(0, dtype=np.float64)
        if episode.whole:
            found.returns.append(return_of(episode))
        if number in shown:
            frames = episode.frames[evenly(len(episode.frames), FRAMES)]
            found.shown.append((f"episode {number}\n{return_of(episode):.1f}", frames))
    found.mean = total / dataset.transitions
    return found


def return_of(episode: Episode) -> float:
    return float(episode.rewards.sum(dtype=np.float64))


def evenly(count: int, most: int) -> list[int]:
    """At most `most` of the numbers 0 to `count` - 1, with the first and the last one."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()


def show(dataset: Dataset, found: Summary, console: Console) -> None:
    """Print the tables."""
    origin = dataset.origin
    unfinished = len(dataset) - found.terminated - found.truncated
    ends = f"{found.terminated} terminated, {found.truncated} truncated, {unfinished} unfinished"
    frames = dataset.transitions + len(dataset)
    edge, memory = origin.render_size, frames * 3 * origin.render_size**2
    rows = [
        ("folder", str(dataset.folder)),
        ("episodes", f"{len(dataset):,} ({ends})"),
        ("transitions", f"{dataset.transitions:,}"),
        ("frames", f"{frames:,} of {edge} x {edge} pixels, {memory / 1e6:,.1f} MB in memory"),
        ("on the disk", f"{dataset.size / 1e6:,.1f} MB"),
        ("environment", f"{origin.environment}, action repeat {origin.action_repeat}"),
        (
            "policy",
            origin.policy if origin.seed is None else f"{origin.policy}, seed {origin.seed}",
        ),
        *sources(origin),
        ("frame stack", str(origin.frame_stack)),
        ("version", origin.version),
    ]
    section(console, ("dataset", dataset.name), rows)
    if found.returns:
        std = sample_std(found.returns)
        cells = [np.mean(found.returns), std, min(found.returns), max(found.returns)]
        told = ["-" if cell is None else f"{cell:.1f}" for cell in cells]
        head = ("mean return", "sample std", "min", "max", "whole episodes")
        section(console, head, [(*told, f"{len(found.returns):,}")], right=range(5))
        section(console, ("returns", "episodes", ""), histogram(found.returns), right=(0, 1))
    head = ("action", "min", "mean", "max")
    columns = zip(found.low, found.mean, found.high, strict=True)
    cells = [(str(i), *(f"{x:.3f}" for x in column)) for i, column in enumerate(columns)]
    section(console, head, cells, right=range(1, 4))


def sources(origin: Origin) -> list[tuple[str, str]]:
    """The rows that say where episodes come from: a checkpoint, a folder, or other datasets."""
    rows = []
    if origin.checkpoint is not None:
        # A run that learned from a dataset alone has made no env steps.
        axis = ENV_STEPS if origin.env_steps or not origin.updates else UPDATES
        far = f"{getattr(origin, axis):,} {words(axis)}"
        rows.append(("checkpoint", f"{origin.checkpoint}, {far}"))
    if origin.imported is not None:
        rows.append(("imported from", origin.imported))
    for part in origin.parts:
        rows.append(("part", part.policy))
        rows += sources(part)
    return rows


def section(
    console: Console, head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()
) -> None:
    """A table with an empty line behind it; the columns numbered `right` are flush right."""
    console.print(table(head, rows, width=console.width, right=right))
    console.print()


def histogram(values: Iterable[float]) -> list[tuple[str, str, str]]:
    """Rows of a histogram: the bounds of a bin, how many values lie in it, and a bar."""
    counts, bounds = np.histogram(list(values), bins=BINS)
    rows = []
    for count, low, high in zip(counts, bounds[:-1], bounds[1:], strict=True):
        bar = "#" * int(np.ceil(BAR * count / counts.max()))
        rows.append((f"{low:.1f} to {high:.1f}", str(count), bar))
    return rows


def draw(found: Summary, title: str, out: Path) -> None:
    """Write the contact sheet: a row for each shown episode, from its first to its last frame."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": 8, "savefig.dpi": 100}):
        size = CELL * (FRAMES + 1.2), CELL * (len(found.shown) + 0.5)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.add_gridspec(len(found.shown), FRAMES)
        for line, (label, frames) in enumerate(found.shown):
            for column, pixels in enumerate(frames):
                axes = figure.add_subplot(grid[line, column])
                axes.imshow(pixels, interpolation="nearest")
                axes.set(xticks=[], yticks=[])
                if column == 0:
                    axes.set_ylabel(label, rotation=0, ha="right", va="center")
        figure.suptitle(title, fontsize=9, x=0.01, ha="left")
        figure.savefig(out, format="png")


def main(arguments: Sequence[str]) -> int:
    """The command. Refusals are raised as ValueError or OSError."""
    options = parser().parse_args(arguments)
    dataset = read(options.name)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
    found = summarised(dataset)
    show(dataset, found, make_console())
    if options.out is not None:
        draw(found, f"{dataset.name}: episodes and their returns", options.out)
        print(options.out)
    return 0
