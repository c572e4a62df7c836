"""One line about a wrong command line, where Hydra would print a page or a traceback."""

from __future__ import annotations

import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf

from curl.command import (
    CONFIGS,
    labels,  # noqa: F401  which configs/train.yaml needs
)
from curl.errors import BAD_INPUT, nearest, refuse

GRAMMAR = re.compile(  # how the parser of overrides begins when it does not understand one
    r"mismatched input|extraneous input|no viable alternative|missing EQUAL|token recognition"
)


sweep_began = threading.Event()
"""All runs of a sweep were checked: what Hydra raises from now on is a failed launcher or run."""


class RunFailedError(HydraException):
    """A run of a sweep failed, and the others continued."""


def hydra_exit_code(main: Callable[[], Any]) -> int:
    """Run `main`, decorated by Hydra, on `sys.argv`; returns the exit code of the process.

    What Hydra would print as a page, or as a traceback, becomes one line and code 2, or code 1
    once a sweep's runs are under way.
    """
    sweep_began.clear()
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # it raises instead of printing
    try:
        main()
    except RunFailedError as error:
        refuse(error)
        return 1
    except SystemExit as error:
        if error.code == 1 and not_ours(error):
            return BAD_INPUT
        raise
    except BrokenPipeError:
        raise  # the help, into a pipe that nobody reads
    except Exception as error:
        if os.environ.get("CURL_TRACEBACK") or not not_ours(error):
            raise
        if sweep_began.is_set():  # a job of SLURM that was killed, for example
            refuse(error)
            return 1
        return refuse(explained(error))
    return 0


def not_ours(error: BaseException) -> bool:
    """Whether Hydra raised `error` by itself: before a run began, about what the user typed."""
    frames = traceback.walk_tb(error.__traceback__)
    return all(frame.f_code.co_name != "run_job" for frame, _ in frames)


def explained(
    error: BaseException, overrides: Sequence[str] | None = None, configs: Path = CONFIGS
) -> str:
    """What Hydra or OmegaConf has against overrides, in one line.

    Args:
        overrides: what was given; None: the arguments of the program that are no options.
    """
    if overrides is None:
        overrides = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    text = str(error)
    if found := re.search(r"Could not override '([^']+)'", text):
        return f"unknown key {found[1]!r}{nearest(found[1], default_keys(configs))}"
    if found := re.search(r"Could not find '(.+)/([^/']+)'", text):
        group, name = found[1], found[2]
        listed = re.search(r"Available options in '[^']*':\n((?:\t.*\n?)*)", text)
        known = listed[1].split() if listed else []
        return f"unknown {group} {name!r}{nearest(name, known)}; known: {', '.join(known)}"
    if found := re.search(r"Ambiguous value for argument '([^']+)'", text):
        return f"{found[1]} holds several values: give -m to sweep over them, or quote the value"
    nameless = [argument for argument in overrides if argument.startswith("=")]
    if nameless or GRAMMAR.search(text):
        named = re.search(r"Error parsing override '(.*?)'\n", text)
        typed = named[1] if named else " ".join(nameless or overrides)
        return f"cannot read {typed!r}: write key=value, and \"key='value'\" where it is no word"
    key = re.search(r"full_key: *(\S+)", text)
    lines = text.strip().split("\n\n")[0].splitlines()
    lines = [line for line in lines if not re.match(r"\s*(full_key|object_type|reference)", line)]
    line = " ".join(" ".join(lines).split()) or type(error).__name__
    return f"{key[1]}: {line}" if key else line


def default_keys(configs: Path) -> list[str]:
    """The dotted keys of the default configuration."""
    GlobalHydra.instance().clear()  # this process ends here
    with initialize_config_dir(str(configs.resolve()), version_base="1.3"):
        return dotted(OmegaConf.to_container(compose("train")))


def dotted(config: Any, prefix: str = "") -> list[str]:
    """All dotted keys of a nested configuration."""
    keys = []
    for key, value in config.items() if isinstance(config, Mapping) else ():
        keys += [f"{prefix}{key}", *dotted(value, f"{prefix}{key}.")]
    return keys
