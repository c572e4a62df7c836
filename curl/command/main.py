"""`python -m curl COMMAND ...`: finds the command by its name and runs it."""

from __future__ import annotations

import functools
import importlib
import keyword
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import NoReturn

from curl.command.parser import COMMANDS
from curl.errors import BAD_INPUT, nearest, program, refuse
from curl.version import VERSION


def run(arguments: Sequence[str]) -> NoReturn:
    """The command that `arguments` begin with, as this process's program.

    The command is imported first: during that, Ctrl-C still ends the process at once.
    """
    program(find(arguments))


def main(arguments: Sequence[str]) -> int:
    """Run the command that `arguments` begin with; returns its exit code."""
    return find(arguments)()


def find(arguments: Sequence[str]) -> Callable[[], int]:
    """What `arguments` ask for. Only the command that they name is imported."""
    if not arguments:
        return functools.partial(show, page(), BAD_INPUT)
    name, *rest = arguments
    if name in ("-h", "--help", "help"):
        if rest and name == "help":
            return find([rest[0], "--help"])
        return functools.partial(show, page())
    if name == "--version":
        return functools.partial(show, f"curl {VERSION}")
    if name not in COMMANDS:
        known = ", ".join(COMMANDS)
        return functools.partial(
            refuse, f"unknown command {name!r}{nearest(name, COMMANDS)}; known: {known}"
        )
    return functools.partial(module(name).main, rest)


def module(name: str) -> ModuleType:
    """The module of a command. It is imported here."""
    found = f"{name}_" if keyword.iskeyword(name) else name
    return importlib.import_module(f"curl.command.{found}")


def show(text: str, code: int = 0) -> int:
    """Print a text; returns the exit code."""
    print(text)
    return code


def page() -> str:
    """The help of the program, with one line for every command."""
    lines = [f"  {name:<9} {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "usage: python -m curl COMMAND [ARGUMENT ...]",
            "",
            "CURL in PyTorch: agents that learn continuous control from pixels.",
            "",
            "commands:",
            *lines,
            "",
            "`python -m curl COMMAND --help` explains a command, with examples and exit codes.",
            "`python -m curl --version` prints the version.",
        ]
    )
