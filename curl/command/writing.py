"""What all commands share that write a dataset: signals end them, and they say what they made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from curl.command.stopping import Stop, stoppable
from curl.data.dataset import Dataset
from curl.data.episode import Episode
from curl.data.writing import discard_unfinished

CODES = {"128+n": "Signal n ended the command; no dataset was written."}


def writing(make: Callable[[Stop], Dataset]) -> int:
    """Make a dataset and print what it is; returns the exit code: 0, or 128 + n after signal n.

    Args:
        make: writes the dataset. It is given what says whether to stop, and raises
            `InterruptedError` then.
    """

    def job(stop: Stop) -> int:
        made = make(stop)
        size = f"{made.size / 1e6:,.1f} MB"
        print(f"{made.name}: {len(made)} episodes, {made.transitions:,} transitions, {size}")
        print(made.folder)
        return 0

    return stoppable(job, what="stopping; no dataset is written", leave=discard_unfinished)


def until(stop: Stop, episodes: Iterable[Episode]) -> Iterator[Episode]:
    """The episodes, as long as `stop` does not say so; `InterruptedError` then."""
    for episode in episodes:
        if stop():
            raise InterruptedError("the writing of a dataset was interrupted")
        yield episode
