"""CURL: contrastive unsupervised representations for reinforcement learning, in PyTorch.

    run = curl.train("experiment=laptop", "env_steps=20000")
    policy, env = curl.load(run), curl.make_env(run)
    frame, _ = env.reset(seed=0)
    over = False
    while not over:
        frame, reward, terminated, truncated, _ = env.step(policy.step(frame))
        over = terminated or truncated

`run` is the folder of a run. What these three functions need is imported when they are first used.
"""

import importlib
import itertools
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

# `python -m curl` and `python -m curl.X` import this package first, before any `main` could see to
# it that a Ctrl-C during the slow imports is no traceback.
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    _modules = [name for flag, name in itertools.pairwise(sys.orig_argv) if flag == "-m"]
    if _modules and _modules[0].split(".")[0] == "curl":
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))

from curl.hardware.preload import load_triton
from curl.version import VERSION

load_triton()

if TYPE_CHECKING:
    from curl.command.interactive import train
    from curl.run.policy import Policy, load, make_env

__version__ = VERSION
__all__ = ["Policy", "__version__", "load", "make_env", "train"]

_PLACES = {
    "Policy": "curl.run.policy",
    "load": "curl.run.policy",
    "make_env": "curl.run.policy",
    "train": "curl.command.interactive",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
