"""What all commands share that write a dataset: signals end them, and they say what they made."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator

from curl.data.dataset import Dataset
from curl.data.episode import Episode
from curl.data.writing import discard_unfinished
from curl.run.guard import StopSignal

CODES = {"128+n": "Signal n ended the command; no dataset was written."}


def writing(make: Callable[[Callable[[], bool]], Dataset]) -> int:
    """Make a dataset and print what it is; returns the exit code: 0, or 128 + n after signal n.

    Args:
        make: writes the dataset. It is given what says whether to stop, and raises
            `InterruptedError` then.
    """
    asked = StopSignal(
        lambda text: print(text, file=sys.stderr),
        leave=discard_unfinished,
        what="stopping; no dataset is written",
    )
    try:
        made = make(lambda: asked.number is not None)
    except InterruptedError:
        if asked.number is None:
            raise
        return 128 + asked.number
    counts = f"{len(made)} episodes, {made.transitions:,} transitions, {made.size / 1e6:,.1f} MB"
    print(f"{made.name}: {counts}\n{made.folder}")
    return 0


def until(stop: Callable[[], bool], episodes: Iterable[Episode]) -> Iterator[Episode]:
    """The episodes, as long as `stop` does not say so; `InterruptedError` then."""
    for episode in episodes:
        if stop():
            raise InterruptedError("the writing of a dataset was interrupted")
        yield episode
