"""`python -m curl export RUN --out FOLDER`: a policy that runs without this package."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from curl.checks import integer, needs_extra
from curl.command.parser import Parser, add_opengl, add_run, add_seed
from curl.command.stopping import Stop, stoppable
from curl.files import require_new, whole_folder
from curl.run import exporting
from curl.run.card import card_of, write_card
from curl.run.clock import AXES
from curl.run.exporting import ONNX_FILE, TORCH_FILE
from curl.run.folder import EVALUATION, METRICS, RunFolder, read_config
from curl.run.policy import Policy, load, make_env
from curl.schema import USED
from curl.study.runs import due, read_run

log = logging.getLogger("curl")


def parser() -> Parser:
    parser = Parser(
        "export",
        "Write the policy of a run as programs that need nothing of this package: "
        f"{TORCH_FILE}, for PyTorch,\nand {ONNX_FILE}, for ONNX Runtime. They take the frames of "
        "the environment as they are, and return\nactions in its own bounds. Beside them lie a "
        "card in JSON and a page that says how to use them.\nThe programs are compared with the "
        "checkpoint in an episode; nothing is left if they differ.",
        examples={
            "runs/cartpole_swingup/curl-crop-infonce/seed_1 --out policy": "The newest sound "
            "checkpoint of a run.",
        },
        codes={"128+n": "Signal n ended the command; nothing was written."},
    )
    add_run(parser)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="PATH",
        required=True,
        help="The folder to make. It must not exist yet, unless it is empty.",
    )
    parser.add_argument(
        "--onnx",
        action=argparse.BooleanOptionalAction,
        help=f"Whether {ONNX_FILE} is written, which needs the extra onnx. By default it is if the "
        "extra is installed.",
    )
    add_seed(parser, "The seed of the episode in which the programs are compared.")
    add_opengl(parser)
    return parser


def main(arguments: Sequence[str]) -> int:
    """The command. Refusals are raised as ValueError, OSError or OpenGLError.

    Returns:
        The exit code: 0, or 128 + n after signal n.
    """
    options = parser().parse_args(arguments)
    integer("--seed", options.seed, at_least=0)
    require_new(options.out)
    with_onnx = wants_onnx(options.onnx)
    unfinished: list[Path] = []

    def job(stop: Stop) -> int:
        with whole_folder(options.out) as folder:
            unfinished.append(folder)
            card = export(options, folder, with_onnx=with_onnx, stop=stop)
        show(options.out, card)
        return 0

    return stoppable(job, what="stopping; nothing is written", leave=lambda: discard(unfinished))


def discard(folders: Iterable[Path]) -> None:
    """Remove folders, whatever is in them."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def wants_onnx(asked: bool | None) -> bool:
    """Whether an ONNX file is written; `ValueError` if it was asked for and cannot be."""
    if asked is False:
        return False
    try:
        needs_extra("--onnx", "onnx", *exporting.EXTRA)
    except ValueError as error:
        if asked:
            raise
        log.warning("%s is not written: %s", ONNX_FILE, error)
        return False
    return True


def export(
    options: argparse.Namespace, folder: Path, *, with_onnx: bool, stop: Stop
) -> dict[str, Any]:
    """Fill a folder with the policy, once it acts as the checkpoint does; returns its card.

    Raises:
        InterruptedError: `stop` said so.
        ValueError: the run cannot be read, its environment fails, or the programs differ.
    """
    policy = load(options.run, device="cpu", precision="float32")
    with contextlib.closing(make_env(options.run, opengl=options.opengl)) as env:
        from curl.data.environment import constructor, own_actions  # after OpenGL was chosen

        space, environment = own_actions(env), constructor(env, policy.config["task"])
        stacks, actions = exporting.acted(policy, env, seed=options.seed, stop=stop)
    exact = exporting.exact(policy, stacks)
    rounding = float(np.abs(exact - policy.predict(stacks)).max())
    program = exporting.program_of(policy, space)
    exporting.write_torch(program, folder / TORCH_FILE)
    readers = {TORCH_FILE: exporting.read_torch}
    if with_onnx:
        interrupt(stop)
        exporting.write_onnx(program, folder / ONNX_FILE)
        readers[ONNX_FILE] = exporting.read_onnx
    allowed = exporting.tolerance(rounding)
    checks: dict[str, float] = {}
    for name, read in readers.items():
        interrupt(stop)
        act = read(folder / name)
        checks[name] = exporting.require_same(name, act, stacks, actions, space, allowed=allowed)
    card = card_of(
        policy,
        run=options.run,
        space=space,
        environment=environment,
        used=used_by(options.run),
        commits=commits_of(options.run),
        evaluations=list(evaluations_of(options.run, policy)),
        checks={
            "steps": len(stacks),
            "rounding": rounding,
            "tolerance": allowed,
            "largest_difference": checks,
        },
    )
    write_card(folder, card)
    interrupt(stop)
    return card


def interrupt(stop: Stop) -> None:
    """`InterruptedError` if `stop` says so."""
    if stop():
        raise InterruptedError("the export was interrupted")


# -- what the run's folder knows -------------------------------------------------------------------


def used_by(run: Path) -> dict[str, Any] | None:
    """What the run found on its machine; None if its folder does not say."""
    with contextlib.suppress(ValueError, OSError):
        return read_config(RunFolder.of(run).path).get(USED)
    return None


def commits_of(run: Path) -> list[str]:
    """The versions of the code that trained a run, where somebody noted them, else the last one."""
    try:
        return RunFolder.of(run).commits.read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        last = (used_by(run) or {}).get("commit")
        return [last] if isinstance(last, str) else []


def evaluations_of(run: Path, policy: Policy) -> Iterator[dict[str, Any]]:
    """The newest evaluation of the training up to the checkpoint, and that of `eval` if it has one.

    What cannot be read is left out: a policy is worth exporting without its scores.
    """
    folder, axis = RunFolder.of(run), policy.clock.axis
    with contextlib.suppress(ValueError, OSError):
        found = read_run(folder.path, str(folder.path))
        before = found.steps <= due(policy.clock.now, policy.config, axis)
        if found.axis == axis and before.any():
            last = int(before.sum()) - 1
            yield {
                "source": METRICS,
                "axis": axis,
                axis: int(found.steps[last]),
                "episodes": int(found.episodes[last]),
                "mean": float(found.returns[last]),
            }
    with contextlib.suppress(ValueError, OSError, LookupError, TypeError):
        result = json.loads(folder.evaluation.read_text(encoding="utf-8"))
        if {name: result.get(name) for name in AXES} == policy.clock.counts():
            kept = ("axis", *AXES, "episodes", "seed", "mean", "std", "interval", "returns")
            yield {"source": EVALUATION, **{name: result[name] for name in kept}}


def show(folder: Path, card: dict[str, Any]) -> None:
    """Print what was written."""
    for name, difference in card["checks"]["largest_difference"].items():
        size = (folder / name).stat().st_size / 1e6
        print(
            f"{name}: {size:.1f} MB, acts as the checkpoint does in {card['checks']['steps']} "
            f"steps (largest difference {difference:.1e})"
        )
    print(folder)
