"""Train an agent: `python train.py task=walker_walk seed=3`. Every knob: configs/train.yaml.

The one place where everything is built. The same command in the same folder resumes the run.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # no traceback of the slow imports

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from curl.command import sweep
from curl.command.overrides import explained, hydra_program
from curl.data.seeding import seed_everything
from curl.errors import exits_with_one_line, refuse
from curl.hardware.device import (
    choose_opengl,
    choose_precision,
    load_renderer,
    machine,
    prepare_device,
    renders_in_software,
)
from curl.hardware.limits import available_cores
from curl.hardware.processor import Threads, keep_freed_memory
from curl.run.build import build_agent, checked, require_machine
from curl.run.folder import (
    CHECKPOINTS,
    METRICS,
    VIDEOS,
    InUseError,
    RunFolder,
    differing,
    locked,
    refuse_another_run,
    save_config,
)


def train(config: dict[str, Any]) -> int:
    """One run from a plain configuration; returns the process's exit code.

    What can be known to be wrong is refused before anything is opened or written.
    """
    keep_freed_memory()
    config = checked(config)
    device = require_machine(config["device"], config["opengl"])
    folder = Path(config["run_dir"])
    refuse_another_run(folder, config)
    with contextlib.ExitStack() as stack, noting_failure(folder):
        return build_and_run(config, device, stack)


@contextlib.contextmanager
def noting_failure(folder: Path) -> Iterator[None]:
    """Leave the reason of a failure in the folder of a run that was begun, or named by a sweep."""
    try:
        yield
    except InUseError:
        raise
    except Exception as error:
        if RunFolder(folder).config.exists():
            with contextlib.suppress(OSError):
                RunFolder(folder).failure.write_text(f"{error}\n")
        raise


def build_and_run(config: dict[str, Any], device: torch.device, stack: contextlib.ExitStack) -> int:
    """Build every part and run the trainer; `stack` closes what was opened, come what may.

    The run's folder comes last, so that a run that cannot be built leaves none.
    """
    threads = Threads(config["threads"])
    prepare_device(device)
    backend = choose_opengl(config["opengl"], device)
    load_renderer(backend)

    from curl.data.environment import environment_settings, make_env
    from curl.data.replay import ReplayBuffer
    from curl.run.checkpoint import Checkpoints
    from curl.run.evaluation import Evaluator
    from curl.run.logger import Logger
    from curl.run.online import Trainer

    folder = Path(config["run_dir"])
    generator = seed_everything(config["seed"], device)
    environment = environment_settings(config, renders_in_software(backend, device))
    env = make_env(**environment)
    stack.callback(env.close)
    action_dim = int(env.action_space.shape[0])  # pyright: ignore[reportOptionalSubscript]
    agent = build_agent(config, action_dim=action_dim, generator=generator)
    replay_device = device if config["replay"]["device"] == "auto" else torch.device("cpu")
    replay = ReplayBuffer(
        capacity=config["replay"]["capacity"],
        frame_size=config["render_size"],
        action_dim=action_dim,
        frame_stack=config["frame_stack"],
        device=replay_device,
        target=device,
    )
    stack.enter_context(locked(folder))
    RunFolder(folder).failure.unlink(missing_ok=True)
    precision = choose_precision(config["precision"], device)
    used = {
        "machine": machine(device),
        "opengl": backend,
        "shadow_size": environment["shadow_size"],
        "device": str(device),
        "precision": str(precision).removeprefix("torch."),
    }
    save_config(folder, config, used)
    logger = Logger(folder=folder, budget=config["env_steps"], config=config, **config["logger"])
    stack.callback(logger.close)
    logger.announce(
        f"{environment['env_id']}, {config['env_steps']:,} env steps, on {device} "
        f"({precision}, {backend})",
        f"Results go to {folder}: {METRICS}, {VIDEOS} and {CHECKPOINTS}.",
        "Ctrl-C stops with a checkpoint; the same command resumes the run.",
        *([config["about"]] if config["about"] else []),
    )
    parallel = min(config["eval_episodes"], available_cores()) if device.type == "cuda" else 1
    processes = config["eval_processes"]
    evaluator = Evaluator(
        settings=environment,
        episodes=config["eval_episodes"],
        frame_stack=config["frame_stack"],
        device=device,
        processes=parallel if processes == "auto" else processes,
    )
    stack.callback(evaluator.close)
    threads.adapt()  # to what happened while everything was built
    trainer = Trainer(
        agent=agent,
        threads=threads,
        env=env,
        evaluator=evaluator,
        replay=replay,
        logger=logger,
        checkpoints=Checkpoints(folder),
        generator=generator,
        config=config,
        seed=config["seed"],
        env_steps=config["env_steps"],
        batch_size=config["batch_size"],
        updates_per_step=config["updates_per_step"],
        initial_steps=config["initial_steps"],
        eval_every=config["eval_every"],
        checkpoint_every=config["checkpoint_every"],
        save_replay=config["save_replay"],
        log_every=config["log_every"],
        video=config["video"],
        env_timeout=config["env_timeout"],
    )
    stopped_by = trainer.run()
    return 0 if stopped_by is None else 128 + stopped_by


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
            train=train,
        )
    elif code := exits_with_one_line(train, plain):
        raise SystemExit(code)


if __name__ == "__main__":
    # configs/hydra/launcher/ray.yaml means to be the plugin's own, with other values
    warnings.filterwarnings("ignore", message="(?s).*validated against ConfigStore schema")
    sweep.fail_on_missing_extra(sys.argv[1:])
    try:
        hydra_program(main)
    finally:
        sweep.leave()
