"""`python -m curl train OVERRIDE ...`: one run or a sweep, whose settings Hydra composes."""

from __future__ import annotations

import os
import sys
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from curl.command import CONFIGS, sweep
from curl.command.looks import with_looks
from curl.command.overrides import explained, hydra_exit_code
from curl.command.parser import Parser
from curl.errors import exits_with_one_line, refuse
from curl.run.folder import differing
from curl.run.guard import Signals
from curl.run.start import train


def parser() -> Parser:
    """For the help, and for what is no option: Hydra itself reads the arguments."""
    groups = {
        folder.name: ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
        for folder in sorted(CONFIGS.iterdir())
        if folder.is_dir() and folder.name != "hydra"
    }
    listed = "\n\n".join(f"{name}=\n{wrapped(names)}" for name, names in groups.items())
    parser = Parser(
        "train",
        "Train an agent. The same command in the same folder resumes a run that was stopped, and "
        "a run\nthat has reached its budget is left as it is. Results go to "
        "runs/<task>/<label>/seed_<seed>.\n\n"
        "An override is key=value. `--cfg job` shows every key with its value, and "
        "configs/train.yaml says\nwhat they mean. These keys choose a file of configs/<key>:\n\n"
        f"{listed}",
        examples={
            "task=walker_walk seed=3": "One run on another task and with another seed.",
            "experiment=laptop env_steps=20000 device=cpu": "The small preset for a laptop, "
            "shortened.",
            "objective=none": "The matched control: SAC without the contrastive loss.",
            "-m objective=infonce,none seed=1,2,3": "A sweep: six runs, one after another.",
            "task=walker_walk --cfg job": "What the settings of a run would be. Nothing is "
            "trained.",
        },
        codes={
            "1": "A run of a sweep failed; the others continued.",
            "3": "The environment hung; the same command continues from the checkpoint.",
            "128+n": "Signal n stopped the run; it left a checkpoint, from which it resumes.",
        },
    )
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="A setting: key=value.")
    parser.add_argument(
        "-m",
        "--multirun",
        action="store_true",
        help="Sweep: an override may hold several values with commas between them, and every "
        "combination is a run.",
    )
    parser.add_argument(
        "-c",
        "--cfg",
        choices=("job", "hydra", "all"),
        help="Show the settings of the run, of Hydra, or both, and train nothing.",
    )
    parser.add_argument(
        "--hydra-help", action="store_true", help="Show all options of Hydra, and train nothing."
    )
    return parser


def wrapped(text: str) -> str:
    return textwrap.fill(text, 96, initial_indent="    ", subsequent_indent="    ")


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit code. Refusals are raised as ValueError, or printed."""
    ours = parser()
    if {"-h", "--help"}.intersection(arguments):
        ours.print_help()
        return 0
    hydras = get_args_parser()
    hydras.error = ours.error  # one line instead of two pages
    hydras.parse_args(list(arguments))
    # configs/hydra/launcher/ray.yaml means to be the plugin's own, with other values
    warnings.filterwarnings("ignore", message="(?s).*validated against ConfigStore schema")
    sweep.fail_on_missing_extra(arguments)
    before, sys.argv = sys.argv, [ours.command, *arguments]
    try:
        return hydra_exit_code(run)
    finally:
        sys.argv = before
        sweep.leave()


def train_here(config: dict[str, Any]) -> int:
    """Train in this process, whose signals are the run's until the process ends."""
    return train(config, signals=Signals())


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")
def run(config: DictConfig) -> None:
    """One run, alone or of a sweep, with the settings that Hydra has composed."""
    try:
        resolved = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise SystemExit(refuse(explained(error))) from None
    assert isinstance(resolved, dict)
    plain = {str(key): value for key, value in resolved.items() if key != "experiment"}
    try:
        plain = with_looks(plain)
    except ValueError as error:
        raise SystemExit(refuse(error)) from None
    job = HydraConfig.get()
    if job.mode == RunMode.MULTIRUN:
        os.chdir(job.runtime.cwd)  # a Ray worker is elsewhere
        folder = Path(plain["run_dir"])
        sweep.run_one(
            plain,
            launcher=job.launcher["_target_"].split(".")[-1],
            command=[sys.executable, "-m", "curl", "train", *job.overrides.task],
            done=sweep.finished(folder, plain) and not differing(folder, plain),
            train=train_here,
        )
    elif code := exits_with_one_line(train_here, plain):
        raise SystemExit(code)
