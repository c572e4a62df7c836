"""The composition root: every part of a run is built here, once, from a plain configuration.

Nothing here knows Hydra or the command line, so that any program can train an agent. The same
configuration in the same folder resumes the run.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from curl.data.seeding import seed_everything
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
from curl.run.clock import words
from curl.run.folder import (
    CHECKPOINTS,
    METRICS,
    VIDEOS,
    InUseError,
    RunFolder,
    locked,
    refuse_another_run,
    save_config,
)
from curl.run.guard import Signals
from curl.run.inputs import Inputs, take_over, taken_in
from curl.schema import SettingsError
from curl.version import commit

if TYPE_CHECKING:
    from curl.data.dataset import Dataset
    from curl.data.replay import ReplayBuffer
    from curl.run.loop import Trainer

log = logging.getLogger("curl")


def train(config: Mapping[str, Any], *, signals: Signals | None = None) -> int:
    """Train the agent of a configuration, or resume its run.

    Args:
        config: nested plain values, as configs/train.yaml composes them. What is missing has its
            default, where curl/schema.py has one.
        signals: takes the signals that ask to stop; None: `Signals()`, which takes them in a
            program's main thread until the run has ended. A caller who hands in its own decides
            when to `restore` them; `Signals(owned=False)` leaves the handlers of a host program,
            such as a notebook, alone.

    Returns:
        The exit code of a program that trains: 0, or 128 + n if signal n stopped the run.

    Raises:
        ValueError: a configuration that cannot be trained, which is refused before anything is
            opened or written; a run that failed (`RunError`); another process that works on the
            run (`InUseError`). All of them are one line.
        OpenGLError: nothing on this machine can draw frames.
        MemoryError: the replay buffer does not fit.
    """
    keep_freed_memory()
    config = checked(config)
    device = require_machine(config["device"], config["opengl"])
    folder = Path(config["run_dir"])
    refuse_another_run(folder, config)
    inputs = taken_in(config)
    with contextlib.ExitStack() as stack, noting_failure(folder):
        if signals is None:
            signals = Signals()
            stack.callback(signals.restore)  # after everything else is closed
        return build_and_run(config, inputs, device, stack, signals)


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


def build_and_run(
    config: dict[str, Any],
    inputs: Inputs,
    device: torch.device,
    stack: contextlib.ExitStack,
    signals: Signals,
) -> int:
    """Build every part and run the trainer.

    The run's folder comes last, so that a run that cannot be built leaves none.

    Args:
        config: a complete configuration.
        inputs: what it names, a dataset or another run.
        stack: closes what was opened, whatever happens.

    Returns:
        The exit code, see `train`.
    """
    threads = Threads(config["threads"])
    prepare_device(device)
    backend = choose_opengl(config["opengl"], device)
    load_renderer(backend)
    # Only now: these import the packages that draw, which find the renderer as it is set up here.
    from curl.data.environment import environment_settings
    from curl.run.checkpoint import Checkpoints
    from curl.run.evaluation import Evaluator, senseless
    from curl.run.logger import Logger

    folder = Path(config["run_dir"])
    generator = seed_everything(config["seed"], device)
    environment = environment_settings(config, renders_in_software(backend, device))
    looks = config["eval_shifts"] or {}
    if looks or (config["loop"] == "offline" and config["shift"]):
        # The offline loop would open the environment no sooner than at its first evaluation.
        for name, why in senseless(environment, looks).items():
            raise SettingsError(f"eval_shifts: {name} makes no sense here: {why}")
    build_loop = {"online": online, "offline": offline}[config["loop"]]
    loop = build_loop(config, inputs.dataset, environment, device, stack)
    axis = loop.kind.axis
    agent = build_agent(
        config, action_dim=loop.action_dim, generator=generator, pretrained=inputs.trunk
    )
    take_over(agent, inputs)
    stack.enter_context(locked(folder))
    RunFolder(folder).failure.unlink(missing_ok=True)
    precision = choose_precision(config["precision"], device)
    used = {
        "machine": machine(device),
        "opengl": backend,
        "shadow_size": environment["shadow_size"],
        "device": str(device),
        "precision": str(precision).removeprefix("torch."),
        "axis": axis,
        "commit": commit(),
    }
    save_config(folder, config, used)
    logger = Logger(
        folder=folder,
        axis=axis,
        budget=config[axis],
        config=config,
        **config["logger"],
    )
    stack.callback(logger.close)
    logger.announce(
        f"{loop.what}, {config[axis]:,} {words(axis)}, on {device} ({precision}, {backend})",
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
    trainer = loop.kind(
        agent=agent,
        threads=threads,
        evaluator=evaluator,
        logger=logger,
        checkpoints=Checkpoints(folder),
        generator=generator,
        config=config,
        signals=signals,
        seed=config["seed"],
        eval_every=config["eval_every"],
        checkpoint_every=config["checkpoint_every"],
        log_every=config["log_every"],
        video=config["video"],
        looks=looks,
        env_timeout=config["env_timeout"],
        **{axis: config[axis]},  # the setting and the argument are called like the axis
        **loop.parts,
    )
    stopped_by = trainer.run()
    return 0 if stopped_by is None else 128 + stopped_by


@dataclass(frozen=True)
class Loop:
    """A training loop before it is built.

    Attributes:
        kind: the class of its trainer.
        parts: what that takes besides the parts of every trainer.
        action_dim: A.
        what: what the agent learns from, for the first line that a run prints.
    """

    kind: type[Trainer]
    parts: dict[str, Any]
    action_dim: int
    what: str


def online(
    config: Mapping[str, Any],
    found: Dataset | None,
    environment: Mapping[str, Any],
    device: torch.device,
    stack: contextlib.ExitStack,
) -> Loop:
    """Opens the environment, and allocates the replay buffer."""
    from curl.data.environment import make_env
    from curl.data.replay import ReplayBuffer
    from curl.run.online import OnlineTrainer

    env = make_env(**environment)
    stack.callback(env.close)
    action_dim = int(env.action_space.shape[0])  # pyright: ignore[reportOptionalSubscript]
    replay = ReplayBuffer(
        capacity=config["replay"]["capacity"],
        frame_size=config["render_size"],
        action_dim=action_dim,
        **storage(config, device),
    )
    settings = ("batch_size", "updates_per_step", "initial_steps", "save_replay")
    parts = {"env": env, "replay": replay, **{name: config[name] for name in settings}}
    what = environment["env_id"]
    if found is not None:
        found.require(action_dim=action_dim)
        parts |= {"prior": filled(found, config, device), "dataset": found.digests}
        what += f" and {found.name}"
    elif config["init_parts"] == "agent":
        log.warning("dataset is null: the agent learns on from the run's own experience alone")
    return Loop(OnlineTrainer, parts, action_dim, what)


def offline(
    config: Mapping[str, Any],
    found: Dataset | None,
    environment: Mapping[str, Any],
    device: torch.device,
    stack: contextlib.ExitStack,
) -> Loop:
    """Reads the dataset. Evaluations open the environment."""
    from curl.run.offline import OfflineTrainer
    from curl.run.probes import FEWEST, Probes

    assert found is not None  # `checked` has seen to it
    used = config["dataset_episodes"] or len(found)
    if config["probes"] and used < FEWEST:
        # No refusal: the preset of pretraining asks for probes, whatever the dataset.
        log.warning("no probes: they need %d episodes, and the run has %d", FEWEST, used)
    replay = filled(found, config, device)
    parts: dict[str, Any] = {
        "replay": replay,
        "dataset": found.digests,
        "batch_size": config["batch_size"],
    }
    if config["probes"]:
        parts["probes"] = Probes(
            replay=replay,
            dataset=found,
            settings=environment,
            episodes=config["dataset_episodes"],
            seed=config["seed"],
        )
    what = f"{len(replay):,} transitions of {found.name} ({environment['env_id']})"
    return Loop(OfflineTrainer, parts, found.origin.action_dim, what)


def filled(dataset: Dataset, config: Mapping[str, Any], device: torch.device) -> ReplayBuffer:
    """A buffer with the episodes of a dataset that the run uses."""
    return dataset.replay(episodes=config["dataset_episodes"], **storage(config, device))


def storage(config: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """How a buffer of transitions stacks its frames, and where it lies."""
    on = device if config["replay"]["device"] == "auto" else torch.device("cpu")
    return {"frame_stack": config["frame_stack"], "device": on, "target": device}
