"""CURL: contrastive unsupervised representations for reinforcement learning, in PyTorch."""

import itertools
import os
import signal
import sys

# `python -m curl` and `python -m curl.X` import this package first, before any `main` could see to
# it that a Ctrl-C during the slow imports is no traceback.
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    _modules = [name for flag, name in itertools.pairwise(sys.orig_argv) if flag == "-m"]
    if _modules and _modules[0].split(".")[0] == "curl":
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))

from curl.hardware.preload import load_triton
from curl.version import VERSION

load_triton()

__version__ = VERSION
