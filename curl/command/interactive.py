"""`curl.train`: a run from Python, in a notebook or a script, from settings given there."""

from __future__ import annotations

import builtins
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from curl.command import CONFIGS
from curl.command.looks import with_looks
from curl.command.overrides import explained
from curl.run import start
from curl.run.guard import Signals

GROUPS = ("task", "agent", "augmentation", "objective")


def train(*settings: str | Mapping[str, Any]) -> Path:
    """Train an agent, or resume its run, until the budget `env_steps` is reached.

        folder = curl.train("experiment=laptop", "env_steps=20000")
        policy = curl.load(folder)

    In the main thread of a program Ctrl-C, SIGTERM and SIGUSR1 stop the run with a checkpoint, and
    then do what they did before. In IPython, so in notebooks, and in other threads all signals are
    left alone: an interrupt is a KeyboardInterrupt there, and the newest checkpoint is the last one
    that was due. An environment that hangs, and that nothing can interrupt, ends the process.

    Args:
        settings: see `configuration`.

    Returns:
        The folder of the run. The same settings resume it, or find that it is finished.

    Raises:
        ValueError: settings that are wrong, or a run that failed; one line says why.
        KeyboardInterrupt: Ctrl-C stopped the run.
    """
    config = configuration(*settings)
    signals, threads = Signals(owned=not in_ipython()), torch.get_num_threads()
    try:
        code = start.train(config, signals=signals)
    finally:
        signals.restore()
        torch.set_num_threads(threads)
    if code > 128:
        signal.raise_signal(code - 128)
    return Path(config["run_dir"])


def in_ipython() -> bool:
    """Whether IPython runs this program, as notebooks do."""
    return hasattr(builtins, "__IPYTHON__")


def configuration(*settings: str | Mapping[str, Any]) -> dict[str, Any]:
    """The whole configuration that settings mean, composed as `python -m curl train` does it.

    Args:
        settings: overrides as on the command line, such as "task=walker_walk" or "seed=3", and
            mappings of keys to values: {"task": "walker_walk", "agent.hidden_dim": 256}, or nested
            ones. Values in mappings overrule those in strings. A mapping that is a whole
            configuration, such as `policy.config`, is taken as it is, with the others' changes.

    Raises:
        ValueError: an unknown name, or something that is no setting; one line.
    """
    whole: Mapping[str, Any] | None = None
    overrides: list[str] = []
    values: dict[str, Any] = {}
    for given in settings:
        if isinstance(given, str):
            overrides.append(given)
        elif not isinstance(given, Mapping):
            raise ValueError(f"settings are strings such as 'seed=3' and mappings, got {given!r}")
        elif all(isinstance(given.get(group), Mapping) for group in GROUPS):
            whole = given
        else:
            for key, value in given.items():
                if names_a_choice(str(key), value):
                    overrides.append(f"{key}={'null' if value is None else value}")
                else:
                    values[str(key)] = os.fspath(value) if isinstance(value, Path) else value
    if whole is not None and overrides:
        raise ValueError(
            f"a whole configuration takes no overrides; give {', '.join(overrides)} as a mapping "
            "of dotted keys to values"
        )
    return with_values(whole, overrides, values)


def names_a_choice(key: str, value: Any) -> bool:
    """Whether `value` is the name of a file of the group `key`: of a folder of configs."""
    return (value is None or isinstance(value, str)) and (CONFIGS / key).is_dir()


def with_values(
    whole: Mapping[str, Any] | None, overrides: list[str], values: Mapping[str, Any]
) -> dict[str, Any]:
    """`whole`, or what Hydra composes with `overrides`, in which `values` are set."""
    before = GlobalHydra.instance().hydra  # the caller may be a program of Hydra's
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            config = compose("train", overrides) if whole is None else OmegaConf.create(dict(whole))
            OmegaConf.set_struct(config, False)
            for key, value in values.items():
                OmegaConf.update(config, key, value, merge=not isinstance(value, list))
            plain = OmegaConf.to_container(config, resolve=True)
    except Exception as error:  # Hydra's grammar raises AssertionErrors too
        raise ValueError(explained(error, overrides)) from None
    finally:
        GlobalHydra.instance().hydra = before
    assert isinstance(plain, dict)
    return with_looks({str(k): v for k, v in plain.items() if k not in ("experiment", "used")})
