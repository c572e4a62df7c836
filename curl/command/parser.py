"""The shape that all commands share: their help, their refusals, and the options that several have.

A command is a module of this package with the name that the user types, and an underscore behind it
where Python has that word for itself. Its `main` takes the arguments behind that name and returns
the exit code of the process.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from curl.errors import nearest, refuse

COMMANDS = {
    "train": "Train an agent, resume a run, or sweep over many runs.",
    "eval": "Evaluate saved agents in new episodes.",
    "compare": "Compare the recorded results of many runs, with statistics.",
    "status": "Show how far runs are, and which of them failed.",
    "report": "Draw the curves of runs that are still going, and when they will end.",
    "views": "Draw what every augmentation makes of one observation.",
    "inspect": "Look inside a saved agent: what it sees, knows and expects, and what is wrong.",
    "record": "Record the episodes of a saved agent as a dataset.",
    "import": "Import a folder of V-D4RL as a dataset.",
    "join": "Join several datasets into one.",
    "dataset": "Show what a dataset holds.",
    "export": "Write the policy of a saved agent for programs without this package.",
}
ENV_TIMEOUT = 300.0  # seconds
SEEDS = "Any integer from 0 on is a seed."


class Parser(argparse.ArgumentParser):
    """The parser of one command.

    Args:
        command: its name, a key of COMMANDS.
        description: what it does, in whole sentences.
        examples: arguments, and what they do.
        codes: exit code -> when it ends with it, besides 0, 2 and 130.
    """

    def __init__(
        self,
        command: str,
        description: str,
        *,
        examples: Mapping[str, str],
        codes: Mapping[str, str] | None = None,
    ) -> None:
        self.command = f"python -m curl {command}"
        super().__init__(
            prog=self.command,
            description=description,
            epilog="\n\n".join(
                (self._examples(examples), exit_codes(codes or {}), others(command))
            ),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            add_help=False,
        )
        self.add_argument("-h", "--help", action="help", help="Show this help.")

    def error(self, message: str) -> NoReturn:
        """Exit with code 2 and one line, where argparse would print the usage as well."""
        if found := re.match(r"unrecognized arguments: (-\S*)", message):
            name = found[1].split("=")[0]
            message = f"unknown option {name!r}{nearest(name, self._option_string_actions)}"
        raise SystemExit(refuse(f"{message} (see: {self.command} --help)"))

    def _examples(self, examples: Mapping[str, str]) -> str:
        lines = ["examples:"]
        for arguments, meaning in examples.items():
            lines += [f"  {self.command} {arguments}".rstrip(), f"      {meaning}"]
        return "\n".join(lines)


def exit_codes(more: Mapping[str, str]) -> str:
    """The paragraph of a help that lists exit codes."""
    codes = {
        "0": "Everything was done.",
        "2": "Something was refused or failed; one line on standard error says what.",
        "130": "Ctrl-C ended the command.",
    }
    listed = sorted((codes | dict(more)).items(), key=lambda pair: int(pair[0].split("+")[0]))
    lines = [f"  {code:<6} {meaning}" for code, meaning in listed]
    traceback = "CURL_TRACEBACK=1 in the environment shows the traceback of a refusal."
    return "\n".join(["exit codes:", *lines, traceback])


def others(command: str) -> str:
    """The paragraph of a help that names the other commands."""
    names = ", ".join(name for name in COMMANDS if name != command)
    return f"other commands: {names}; `python -m curl COMMAND --help` explains each."


# -- options that several commands have ------------------------------------------------------------


def add_runs(parser: Parser, what: str = "", default: Sequence[Path] | None = None) -> None:
    """RUN ...: the runs to work on; `what` says which other paths the command takes."""
    more: dict[str, Any] = {} if default is None else {"default": list(default)}
    told = "" if default is None else f" The default is {', '.join(map(str, default))}."
    parser.add_argument(
        "runs",
        nargs="+" if default is None else "*",
        type=Path,
        metavar="RUN",
        help=f"The folder of a run, or a folder that holds runs at any depth.{what}{told}",
        **more,
    )


def add_run(parser: Parser) -> None:
    """RUN: the one saved agent to work on."""
    parser.add_argument(
        "run",
        type=Path,
        metavar="RUN",
        help="The folder of a run, of which the newest sound checkpoint is taken, or a state file "
        "of a checkpoint.",
    )


def add_env_timeout(parser: Parser, what: str) -> None:
    """--env-timeout SECONDS, after which `what` ends."""
    parser.add_argument(
        "--env-timeout",
        type=seconds,
        metavar="SECONDS",
        default=ENV_TIMEOUT,
        help=f"How long the environment may take to answer before {what} ends. The default is "
        f"{ENV_TIMEOUT:g}.",
    )


def add_out(parser: Parser, what: str, default: Path | None = None) -> None:
    """--out PATH: what the command writes."""
    told = "" if default is None else f" The default is {default}."
    parser.add_argument("--out", type=Path, metavar="PATH", default=default, help=f"{what}{told}")


def add_dataset(parser: Parser) -> None:
    """--dataset NAME: the dataset that the command writes."""
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        required=True,
        help="The name of the new dataset: an optional namespace, a name and a version, as "
        "cartpole_swingup/expert-v0. It is written to the folder MINARI_DATASETS_PATH, which is "
        "~/.minari/datasets unless the environment says otherwise.",
    )


def add_seed(parser: Parser, what: str, option: str = "--seed") -> None:
    parser.add_argument(
        option, type=number, metavar="N", default=0, help=f"{what} {SEEDS} The default is 0."
    )


def add_device(parser: Parser) -> None:
    parser.add_argument(
        "--device",
        default="auto",
        help="Where the agent computes: auto, cpu, cuda or cuda:<number>. "
        "The default, auto, takes the first GPU if there is one.",
    )


def add_opengl(parser: Parser) -> None:
    parser.add_argument(
        "--opengl",
        default="auto",
        help="What draws the frames: auto, egl, osmesa or glfw. The default, auto, takes EGL if "
        "it is installed, else OSMesa. MUJOCO_GL in the environment overrules this.",
    )


# -- what a user may write behind an option --------------------------------------------------------


def number(text: str) -> int:
    """An integer."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be an integer, got {text!r}") from None


def numbers(text: str) -> list[int]:
    """Integers, as 1,2,3."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        line = f"must be integers with commas between them, as 1,2,3; got {text!r}"
        raise argparse.ArgumentTypeError(line) from None


def names(text: str) -> list[str]:
    """Names, as noise,blur."""
    return [part.strip() for part in text.split(",") if part.strip()]


def seconds(text: str) -> float:
    """A duration: a finite number that is not negative."""
    with contextlib.suppress(ValueError):
        if 0 <= (value := float(text)) < math.inf:
            return value
    raise argparse.ArgumentTypeError(f"must be a number of seconds, got {text!r}")
