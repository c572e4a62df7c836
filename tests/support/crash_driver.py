"""Runs train.py with something done to its process: `crash_driver.py CALL NUMBER TRAIN ARGS...`.

CALL is `fsync` or `replace`: the process kills itself at that call's NUMBER-th occurrence in a
checkpoint folder, before or (negative NUMBER) after it is carried out; `none` does nothing. The
environments of faulty.py are registered either way.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).parents[1])  # in place of this folder, which a script begins with

from support import faulty  # noqa: E402, F401  registers environments


def deadly(call: Callable[..., Any], number: int, counts: Callable[..., bool]) -> Any:
    """`call`, which ends the process at its `number`-th counted occurrence."""
    seen = 0

    def wrapped(*args: Any) -> Any:
        nonlocal seen
        seen += counts(*args)
        if number == seen:
            os.kill(os.getpid(), signal.SIGKILL)
        result = call(*args)
        if -number == seen:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return wrapped


if __name__ == "__main__":
    name, number = sys.argv[1], int(sys.argv[2])
    if name == "fsync":
        os.fsync = deadly(os.fsync, number, lambda handle: True)
    elif name == "replace":
        in_checkpoints = lambda path, target: path.parent.name == "checkpoints"  # noqa: E731
        Path.replace = deadly(Path.replace, number, in_checkpoints)
    sys.argv = sys.argv[3:]
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    runpy.run_path(sys.argv[0], run_name="__main__")
