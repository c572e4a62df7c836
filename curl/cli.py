"""What a user sees when something is wrong: one line, exit code 2, no traceback.

`CURL_TRACEBACK=1` in the environment brings tracebacks back.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console
from rich.text import Text

from curl.hardware import OpenGLError

BAD_INPUT = 2


def exits_with_one_line(job: Callable[..., int], *args: Any) -> int:
    """Run `job` and return its exit code; refusals become one line on stderr and code 2.

    A `RecursionError` is a file that is nested too deeply or holds itself.
    """
    show_warnings()
    try:
        return job(*args)
    except (ValueError, MemoryError, OSError, OpenGLError, RecursionError) as error:
        if os.environ.get("CURL_TRACEBACK"):
            raise
        return refuse(error)


def refuse(error: object) -> int:
    """Print `error` as one line on stderr; returns the exit code 2."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return BAD_INPUT


class LogLines(logging.Handler):
    """Prints each message on stderr as one line, however narrow the terminal; brackets stay."""

    STYLES: ClassVar = {"INFO": "blue", "WARNING": "yellow", "ERROR": "bold red"}

    def __init__(self) -> None:
        super().__init__()
        self.console = Console(stderr=True)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = " ".join(record.getMessage().splitlines())
            level = Text(f"{record.levelname:<8} ", style=self.STYLES.get(record.levelname, ""))
            self.console.print(level.append(message, style="default"), soft_wrap=True)
        except Exception:
            self.handleError(record)


def show_warnings() -> None:
    """Log lines of `curl` on stderr, one a line."""
    logger = logging.getLogger("curl")
    logger.handlers, logger.propagate = [LogLines()], False
    logger.setLevel(logging.INFO)


def nearest(key: str, keys: Iterable[str]) -> str:
    """A hint that names the likely key, or nothing."""
    found = difflib.get_close_matches(key, list(keys), n=1, cutoff=0.5)
    return f"; did you mean {found[0]}" if found else ""


def fail_on_unknown_keys(folder: Path, name: str) -> None:
    """Compose the command line's overrides once, to turn Hydra's pages into one line.

    Sweeps (`-m`) and Hydra's own flags are left to Hydra.
    """
    if any(argument.startswith("-") for argument in sys.argv[1:]):
        return
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    with initialize_config_dir(str(folder.resolve()), version_base="1.3"):
        try:
            config = compose(name, overrides=sys.argv[1:])
            OmegaConf.to_container(config, resolve=True)
        except (HydraException, OmegaConfBaseException) as error:
            text = re.sub(r"\s*(full_key|object_type|reference_type)[:=]\S*", "", str(error))
            if match := re.match(r"Could not override '([^']+)'", text):
                known = flat(OmegaConf.to_container(compose(name)))
                text = f"unknown key {match[1]!r}{nearest(match[1], known)}"
            elif match := re.search(r"Could not find '([^/']+)/([^']+)'", text):
                group, name = match[1], match[2]
                known = sorted(p.stem for p in (folder / group).glob("*.yaml"))
                text = f"unknown {group} {name!r}{nearest(name, known)}; known: {', '.join(known)}"
            sys.exit(refuse(text))


def flat(config: Any, prefix: str = "") -> list[str]:
    """All dotted keys of a nested configuration."""
    keys = []
    for key, value in config.items() if isinstance(config, Mapping) else ():
        keys += [f"{prefix}{key}", *flat(value, f"{prefix}{key}.")]
    return keys
