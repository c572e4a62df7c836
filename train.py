"""Train an agent: `python train.py task=walker_walk seed=3`. Every knob: configs/train.yaml.

This file reads the command line with Hydra; curl/run/start.py builds and trains. The same command
in the same folder resumes the run.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # no traceback of the slow imports

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from curl.command import sweep
from curl.command.overrides import explained, hydra_program
from curl.errors import exits_with_one_line, refuse
from curl.run.folder import differing
from curl.run.guard import Signals
from curl.run.start import train


def train_here(config: dict[str, Any]) -> int:
    """Train in this process, whose signals are the run's until the process ends."""
    return train(config, signals=Signals())


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(config: DictConfig) -> None:
    try:
        resolved = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise SystemExit(refuse(explained(error))) from None
    assert isinstance(resolved, dict)
    plain = {str(key): value for key, value in resolved.items() if key != "experiment"}
    job = HydraConfig.get()
    if job.mode == RunMode.MULTIRUN:
        os.chdir(job.runtime.cwd)  # a Ray worker is elsewhere
        folder = Path(plain["run_dir"])
        sweep.run_one(
            plain,
            launcher=job.launcher["_target_"].split(".")[-1],
            command=[sys.executable, __file__, *job.overrides.task],
            done=sweep.finished(folder, plain) and not differing(folder, plain),
            train=train_here,
        )
    elif code := exits_with_one_line(train_here, plain):
        raise SystemExit(code)


if __name__ == "__main__":
    # configs/hydra/launcher/ray.yaml means to be the plugin's own, with other values
    warnings.filterwarnings("ignore", message="(?s).*validated against ConfigStore schema")
    sweep.fail_on_missing_extra(sys.argv[1:])
    try:
        hydra_program(main)
    finally:
        sweep.leave()
