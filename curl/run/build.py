"""What a configuration means: its agent, built in one place, and whether all of it fits together.

`checked` finds what is wrong before anything is opened: an environment, a run folder, wandb. It
draws views of a dummy frame stack and builds an agent that it throws away, because no list of rules
would know what a new augmentation or objective cannot do.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from curl import agents, augmentations, objectives, schema
from curl.agents.base import Agent
from curl.checks import integer
from curl.data.batch import FrameStacks
from curl.hardware.device import choose_device, choose_precision, find_opengl
from curl.schema import SettingsError

PARTS = ("agent", "augmentation", "objective", "frame_stack", "render_size", "precision")
PARTS += ("updates_per_step",)


def build_agent(config: Mapping[str, Any], *, action_dim: int, generator: torch.Generator) -> Agent:
    """The agent of a configuration, with its augmentations and objective.

    It lives on the device of `generator`, which is its source of noise and views. An agent is given
    those of the parts offered here that its constructor names. One that does not name a part which
    the configuration has chosen is refused: the label of such a run would not be true.

    Raises:
        SettingsError: a setting that is unknown, missing or refused, or a part that the agent does
            not use; the line names its dotted key.
    """
    settings = {key: value for key, value in config["agent"].items() if key != "label"}
    agents.require_use(settings["name"], chosen_parts(config), where="agent")
    sizes: dict[str, Any] = {"action_dim": action_dim, "latent_dim": None}
    if "latent_dim" in settings or config["objective"]["name"] != "none":
        # Objectives need it first.
        sizes["latent_dim"] = integer("agent.latent_dim", settings.get("latent_dim"))
    objective = objectives.make(**config["objective"], **sizes, where="objective")
    offered = {
        "channels": 3 * config["frame_stack"],
        "action_dim": action_dim,
        "query": augmentations.make(**config["augmentation"]["query"], where="augmentation.query"),
        "key": augmentations.make(**config["augmentation"]["key"], where="augmentation.key"),
        "objective": objective,
        "generator": generator,
        "precision": choose_precision(config["precision"], generator.device),
        "updates_per_step": config.get("updates_per_step", 1),
    }
    return agents.make(**settings, offered=offered, where="agent")


def chosen_parts(config: Mapping[str, Any]) -> dict[str, str]:
    """The parts that a configuration has chosen -> what it would say if it had chosen none."""
    query, key = (config["augmentation"][side] for side in ("query", "key"))
    chosen: dict[str, str] = {}
    if config["objective"]["name"] != "none":
        chosen["objective"] = "objective=none"
    if query["name"] != "none":
        chosen["query"] = "augmentation=none"
    if key != query:
        chosen["key"] = "an augmentation whose key view is like its query view"
    if config["precision"] not in ("auto", "float32"):
        chosen["precision"] = "precision=float32"
    return chosen


def checked(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` with the defaults of what it lacks, once all of it is known to fit together.

    Raises:
        SettingsError: in one line, with the dotted keys.
    """
    config = schema.checked(config)
    parts = {name: config[name] for name in PARTS}
    _require_parts(json.dumps(parts, sort_keys=True, default=str))
    return config


def require_machine(device: str, opengl: str) -> torch.device:
    """The device of that name, if it is on this machine, and so is what draws.

    Raises:
        ValueError: no such device here. OpenGLError: nothing can draw.
    """
    find_opengl(opengl)
    return choose_device(device)


@functools.cache
def _require_parts(parts: str) -> None:
    """Draw views and build the agent of `parts`, JSON, which many runs of a sweep share."""
    config = json.loads(parts)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the work is small, and other processes may need the cores
    try:
        with torch.random.fork_rng(devices=()):
            sizes = {
                f"augmentation.{side}": _size_of_views(config, side) for side in ("query", "key")
            }
            if len(set(sizes.values())) > 1:
                told = ", ".join(f"{side}: {size} pixels" for side, size in sizes.items())
                raise SettingsError(f"query and key views must have the same size; {told}")
            with _refusing("the agent cannot be built"):
                build_agent(config, action_dim=1, generator=torch.Generator())
    finally:
        torch.set_num_threads(threads)


def _size_of_views(config: Mapping[str, Any], side: str) -> int:
    """The edge of the views that a side of the augmentation draws; `SettingsError` if it cannot."""
    where = f"augmentation.{side}"
    augmentation = augmentations.make(**config["augmentation"][side], where=where)
    edge, depth = config["render_size"], config["frame_stack"]
    wanted = (1, 3 * depth, augmentation.size, augmentation.size)
    what = f"{where} cannot draw views of frames of render_size={edge}"
    with _refusing(what, prefix=f"{what}: "):
        frames = torch.zeros(depth, edge, edge, 3, dtype=torch.uint8)
        stacks = FrameStacks(frames, torch.arange(depth)[None])
        for view in (augmentation(stacks, torch.Generator()), augmentation.evaluate(stacks)):
            if tuple(view.shape) != wanted:
                raise ValueError(f"a view is {list(view.shape)}, not {list(wanted)}")
    return augmentation.size


@contextmanager
def _refusing(what: str, prefix: str = "") -> Iterator[None]:
    """Whatever a part raises becomes a `SettingsError`.

    Its own refusals stand after `prefix`, any other exception after `what`.
    """
    try:
        yield
    except ValueError as error:
        raise SettingsError(f"{prefix}{error}") from None
    except (ArithmeticError, LookupError, TypeError, RuntimeError, MemoryError) as error:
        raise SettingsError(f"{what}: {(str(error).splitlines() or [repr(error)])[0]}") from error
