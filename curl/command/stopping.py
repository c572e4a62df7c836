"""Work that a signal ends: the first one asks it to stop, and a second one ends the process."""

from __future__ import annotations

import sys
from collections.abc import Callable

from curl.run.guard import StopSignal

Stop = Callable[[], bool]
"""Says whether to stop."""


def stoppable(job: Callable[[Stop], int], *, what: str, leave: Callable[[], None]) -> int:
    """Do what can be stopped; returns its exit code, or 128 + n after signal n.

    Args:
        job: asks what it is given whether to stop, and raises `InterruptedError` then.
        what: what happens after the first signal, as it is announced.
        leave: is called before a second one ends the process; it must be quick.
    """
    asked = StopSignal(lambda text: print(text, file=sys.stderr), leave=leave, what=what)
    try:
        return job(lambda: asked.number is not None)
    except InterruptedError:
        if asked.number is None:
            raise
        return 128 + asked.number
