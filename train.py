"""`python train.py task=walker_walk seed=3` is `python -m curl train task=walker_walk seed=3`."""

import os
import signal
import sys

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # no traceback of the slow imports

from curl.command.main import run

if __name__ == "__main__":
    run(["train", *sys.argv[1:]])
