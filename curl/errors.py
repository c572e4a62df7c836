"""What a user sees when something is wrong: one line, exit code 2, no traceback.

`CURL_TRACEBACK=1` in the environment brings tracebacks back.
"""

from __future__ import annotations

import difflib
import logging
import os
import select
import signal
import sys
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, NoReturn

from rich.text import Text

from curl.hardware.device import OpenGLError
from curl.tables import Terminal

BAD_INPUT, INTERRUPTED, UNREAD = 2, 130, 141
HUNG = 3  # of a process that is ended because its environment does not answer; resuming continues
STDOUT = 1  # its file descriptor


def program(main: Callable[[], int]) -> NoReturn:
    """Run `main`, which returns an exit code, as this process's program.

    From here on a Ctrl-C is an exception, so that what was opened is closed. Before, while torch is
    being imported, the programs leave at once.
    """
    if signal.getsignal(signal.SIGINT) not in (None, signal.SIG_IGN):  # as under nohup
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(exits_with_one_line(main))


def exits_with_one_line(job: Callable[..., int], *args: Any) -> int:
    """Run `job` and return its exit code; refusals become one line on stderr and code 2.

    A Ctrl-C becomes code 130. Where nobody reads stdout any more (`| head`), nothing is said and
    the code is 141, as if SIGPIPE had ended the process. A `RecursionError` is a file that is
    nested too deeply or holds itself.
    """
    show_warnings()
    try:
        code = job(*args)
        if sys.stdout is not None:  # it is where stdout was closed, as by `>&-`
            sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, MemoryError, OSError, OpenGLError, RecursionError) as error:
        if isinstance(error, BrokenPipeError) and nobody_reads():
            return UNREAD
        if os.environ.get("CURL_TRACEBACK"):
            raise
        return refuse(error)
    finally:
        drop_what_cannot_be_written()


def nobody_reads() -> bool:
    """Whether stdout is a pipe whose reader has left."""
    poll = select.poll()
    poll.register(STDOUT, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def drop_what_cannot_be_written() -> None:
    """Flush stdout, and let go of what stays, or Python would complain of it at its end."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, STDOUT)
        os.close(nowhere)


def refuse(error: object) -> int:
    """Print `error` as one line on stderr; returns the exit code 2."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return BAD_INPUT


class LogLines(logging.Handler):
    """Prints each message on stderr as one line, however narrow the terminal; brackets stay."""

    STYLES: ClassVar = {"INFO": "blue", "WARNING": "yellow", "ERROR": "bold red"}

    def __init__(self) -> None:
        super().__init__()
        self.console = Terminal(stderr=True)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = " ".join(record.getMessage().splitlines())
            level = Text(f"{record.levelname:<8} ", style=self.STYLES.get(record.levelname, ""))
            self.console.print(level.append(message, style="default"), soft_wrap=True)
        except Exception:
            self.handleError(record)


def show_warnings() -> None:
    """Log lines of `curl` on stderr, one per line."""
    logger = logging.getLogger("curl")
    logger.handlers, logger.propagate = [LogLines()], False
    logger.setLevel(logging.INFO)


def nearest(key: str, keys: Iterable[str]) -> str:
    """A hint that names the likely key, or nothing."""
    found = difflib.get_close_matches(key, list(keys), n=1, cutoff=0.5)
    return f"; did you mean {found[0]}" if found else ""
