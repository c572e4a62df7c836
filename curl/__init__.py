"""CURL: contrastive unsupervised representations for reinforcement learning, in PyTorch."""

import os
import signal
import sys

# `python -m curl.X` imports this package first: a Ctrl-C during the slow imports is no traceback
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

from curl.hardware.preload import load_triton

load_triton()
