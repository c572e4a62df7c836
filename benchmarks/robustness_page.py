"""The page of `python -m benchmarks.robustness`: docs/results/robustness.md and its figures.

It is the report of `python -m curl compare results/robustness --shift all`, with an introduction.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks.cells import ROOT
from benchmarks.robustness import EPISODES
from curl.study import plots, rendering, report
from curl.study.analysis import Comparison
from curl.study.compare import compare

PAGE = ROOT / "docs/results/robustness.md"
TITLE = "What is an augmentation for?"
INTRODUCTION = f"""\
An augmentation can only lose where an agent is tested on the frames that it has trained on. Its
use is that the agent copes with other frames. Here small agents (`experiment=laptop`) learn
cartpole swing-up on the look that the task has, each with another augmentation, on a CPU. Then
each of them plays the same {EPISODES} episodes on every look of [the table of
shifts](../shifts.md), with the weights that it ended with.

The objective is InfoNCE everywhere, and actor and critic see the augmented views, too, as in
CURL. Crops are cut from larger frames in the paper's ratio, 44 of 52 pixels, so all agents see 44
pixels. The rectangle of `cutout_color` has RAD's size relative to the frame. All other settings
are the defaults.

Random actions have a return of 127 ± 72 in this task, and on every look, because no look changes a
reward (30 episodes of `python -m curl record RUN --policy random --episodes 30 --dataset
random-v0`). So an agent whose return on the training look is low keeps a part of it even where it
cannot tell what it sees: look at the returns, and not at the ratios alone."""
COMMANDS = """\
```
python -m benchmarks.robustness --seeds 1,2,3,4 --jobs 2
python -m benchmarks.robustness --page
python -m curl compare results/robustness --shift all   # the same report, in the terminal
```"""
LEFT_TO_COMPARE = ("Normalised", "Probability", "Settings")
"""What the headings of sections begin with that `compare` shows and the page does not."""


def compared(results: Path) -> Comparison:
    """All curves below `results`, on all looks."""
    return compare([results], looks=["all"], generator=np.random.default_rng(0))


def page(comparison: Comparison, images: Mapping[str, str]) -> str:
    """The whole page, Markdown.

    Args:
        images: name of a figure -> the file beside the page that shows it.
    """
    sections = [
        part for part in report.sections(comparison) if not part.title.startswith(LEFT_TO_COMPARE)
    ]
    first = [part for part in sections if part.title.startswith("Looks: what")]
    rest = [part for part in sections if part not in first]
    text = rendering.markdown(TITLE, [*first, *rest])
    for name, file in images.items():
        text = text.replace(f"]({name}.png)", f"]({file})")
    head, body = text.split("\n\n", 1)
    return "\n\n".join([head, INTRODUCTION, COMMANDS, body])


def write_page(results: Path, path: Path = PAGE) -> list[Path]:
    """Write the page and its figures; returns their paths."""
    comparison = compared(results)
    drawn = {name: png for name, (png, _) in plots.draw(comparison).items()}
    images = files(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for name, file in images.items():
        (path.parent / file).write_bytes(drawn[name])
    path.write_text(page(comparison, images), encoding="utf-8")
    return [path, *(path.parent / file for file in images.values())]


def files(path: Path) -> dict[str, str]:
    """Name of a figure of the page -> its file beside it."""
    return {name: f"{path.stem}_{name}.png" for name in ("looks", "curves", "scores")}
