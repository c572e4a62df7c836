"""`python -m curl inspect RUN`: look inside a saved agent, and write a page about it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from curl.checks import integer, positive
from curl.command.parser import (
    Parser,
    add_device,
    add_env_timeout,
    add_opengl,
    add_out,
    add_run,
    add_seed,
    number,
)
from curl.command.stopping import Stop, stoppable
from curl.errors import HUNG, refuse
from curl.hardware.device import choose_device, choose_opengl, load_renderer, prepare_device
from curl.run.guard import Watchdog
from curl.tables import make_console

OUT = Path("report")


def parser() -> Parser:
    parser = Parser(
        "inspect",
        "Look inside a saved agent: what it retrieves, looks at, knows and expects, and what is "
        "wrong with\nit. It plays new episodes in the environment of the run, measures, prints "
        "its findings, and writes\na page with pictures. It changes nothing in the run.",
        examples={
            "runs/cartpole_swingup/curl-crop-infonce/seed_1": "The newest sound checkpoint of a "
            "run; the page is report/report.html.",
            "runs/cartpole_swingup/curl-crop-infonce/seed_1 --episodes 12 --out early": "More "
            "episodes than the default, and another folder.",
        },
        codes={
            str(HUNG): "The environment did not answer; nothing was written.",
            "128+n": "Signal n ended the command; nothing was written.",
        },
    )
    add_run(parser)
    add_out(parser, "A folder for report.html, report.md and the figures.", OUT)
    parser.add_argument(
        "--episodes",
        type=number,
        metavar="N",
        default=6,
        help="How many episodes of each of three kinds are played: with the mean actions of the "
        "agent, with actions that it draws, and with random ones. The default is 6, and 2 is the "
        "least.",
    )
    add_seed(parser, "The seed of the episodes and of everything that is drawn.")
    add_env_timeout(parser, "the command")
    add_device(parser)
    add_opengl(parser)
    return parser


def main(arguments: Sequence[str]) -> int:
    """The command. Refusals are raised as ValueError, OSError or OpenGLError.

    Returns:
        The exit code: 0, 3 if the environment did not answer, or 128 + n after signal n.
    """
    options = parser().parse_args(arguments)
    integer("--episodes", options.episodes, at_least=2)
    integer("--seed", options.seed, at_least=0)
    positive("--env-timeout", options.env_timeout)
    if options.out.exists() and not options.out.is_dir():
        raise ValueError(f"--out {options.out} is a file; it must be a folder")
    device = choose_device(options.device)
    prepare_device(device)
    load_renderer(choose_opengl(options.opengl, device))
    from curl.inspection import report  # after the OpenGL backend has been chosen
    from curl.inspection.inspect import inspect
    from curl.study import rendering

    def job(stop: Stop) -> int:
        watchdog = Watchdog(timeout=options.env_timeout, on_hang=leave)
        try:
            seen = inspect(
                options.run,
                episodes=options.episodes,
                seed=options.seed,
                device=options.device,
                opengl=options.opengl,
                stop=stop,
                watchdog=watchdog,
            )
        except TimeoutError as error:
            refuse(error)
            return HUNG
        finally:
            watchdog.close()
        report.write(seen, options.out)
        console = make_console()
        rendering.terminal(report.title(seen), report.sections(seen), console)
        console.print(Text(f"\nreport: {options.out / report.PAGE}"), soft_wrap=True)
        return 0

    return stoppable(job, what="stopping; nothing is written", leave=lambda: None)


def leave(cause: str) -> None:
    """End the process: nothing can be raised in an environment that hangs in C."""
    refuse(cause)
    os._exit(HUNG)
