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
from torch import Tensor

from curl import agents, augmentations, objectives, schema, shifts
from curl.agents.base import Agent
from curl.checks import integer, needs_extra
from curl.data.batch import FrameStacks
from curl.hardware.device import choose_device, choose_precision, find_opengl
from curl.schema import SettingsError

PARTS = ("agent", "augmentation", "objective", "frame_stack", "render_size", "precision")
PARTS += ("updates_per_step", "encoder", "loop", "init_from", "init_parts")


def build_agent(
    config: Mapping[str, Any],
    *,
    action_dim: int,
    generator: torch.Generator,
    pretrained: Mapping[str, Tensor] | None = None,
) -> Agent:
    """The agent of a configuration, with its augmentations and objective.

    It lives on the device of `generator`, which is its source of noise and views. An agent is given
    those of the parts offered here that its constructor names. One that does not name a part which
    the configuration has chosen is refused: the label of such a run would not be true.

    Args:
        action_dim: A.
        generator: source of noise and views; its device is the agent's.
        pretrained: weights of the trunk to begin with; None: its own initialisation.

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
        "pretrained": pretrained,
        "frozen": config.get("encoder") == "frozen",
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
    if config.get("encoder") == "frozen":
        chosen["frozen"] = "encoder=finetune"
    if takes_over(config) == "trunk":
        chosen["pretrained"] = "init_from=null"
    return chosen


def takes_over(config: Mapping[str, Any]) -> str | None:
    """What a run takes over from `init_from` when it begins: trunk, agent, or None for nothing."""
    if config.get("init_from") is None or config.get("encoder") == "scratch":
        return None
    return config.get("init_parts", "trunk")


def checked(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` with the defaults of what it lacks, once all of it is known to fit together.

    Raises:
        SettingsError: in one line, with the dotted keys.
    """
    config = schema.checked(config)
    require_loop(config)
    for shift in (config["shift"], *(config["eval_shifts"] or {}).values()):
        shifts.make(shift)
    if config["logger"]["tensorboard"]:
        with _refusing("logger.tensorboard=true"):
            needs_extra("logger.tensorboard=true", "tensorboard", "tensorboard")
    parts = {name: config[name] for name in PARTS}
    _require_parts(json.dumps(parts, sort_keys=True, default=str))
    return config


def require_loop(config: Mapping[str, Any]) -> None:
    """`SettingsError` unless a run has what its loop needs, and nothing that it would ignore."""
    loop = config["loop"]
    needed = {"online": ["env_steps"], "offline": ["updates", "dataset"]}[loop]
    ignored = {"online": ["updates"], "offline": ["env_steps"]}[loop]
    if config["dataset"] is None:
        ignored.append("dataset_episodes")
    if loop == "online" and config["probes"]:
        raise SettingsError("probes=true has no meaning with loop=online; leave it false")
    for key in needed:
        if config[key] is None:
            from curl.data import layout  # Gymnasium, which a policy that only acts does without

            here = f"; recorded here: {', '.join(layout.local_names()) or 'none'}"
            raise SettingsError(f"{key} is null: loop={loop} needs it{here * (key == 'dataset')}")
    for key in ignored:
        if config[key] is not None:
            without = f"loop={loop}" if key != "dataset_episodes" else "dataset=null"
            raise SettingsError(f"{key}={config[key]} has no meaning with {without}; leave it null")
    if config["encoder"] != "finetune" and config["init_parts"] == "agent":
        raise SettingsError(
            f"encoder={config['encoder']} needs init_parts=trunk: init_parts=agent takes over the "
            "whole agent, which learns on as it is"
        )
    if config["init_from"] is None and config["init_parts"] == "agent":
        raise SettingsError("init_parts=agent needs init_from=RUN, the run whose agent learns on")


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
                agent = build_agent(config, action_dim=1, generator=torch.Generator())
            if agent.offline_only and config["loop"] == "online":
                name = config["agent"]["name"]
                raise SettingsError(
                    f"agent.name={name} learns from recorded actions: it needs loop=offline"
                )
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
