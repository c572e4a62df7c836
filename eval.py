"""`python eval.py RUN ...` is `python -m curl eval RUN ...`.

`python eval.py compare RUN ...` is `python -m curl compare RUN ...`.
"""

import os
import signal
import sys

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # no traceback of the slow imports

from curl.command.main import run

if __name__ == "__main__":
    arguments = sys.argv[1:]
    run(arguments if arguments[:1] == ["compare"] else ["eval", *arguments])
