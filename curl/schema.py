"""Every setting of a run, named once: its type, unit, bounds, and what a change of it means.

The settings of an agent, an augmentation or an objective are the arguments of its constructor, so
that a new one needs no line here: `signature_model` makes the same kind of model of a constructor.

A refusal is one line: which keys, what is wrong with their values, and what is allowed.
"""

from __future__ import annotations

import collections.abc
import difflib
import inspect
import types
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.fields import FieldInfo

M = TypeVar("M", bound=BaseModel)

USED = "used"
"""The key of config.yaml that records machine, axis and commit of a run; it is not a setting."""

STRICT = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)
FOREIGN: ConfigDict = {**STRICT, "arbitrary_types_allowed": True, "protected_namespaces": ()}
OPEN = ConfigDict(extra="allow")  # the other settings belong to a constructor
MOST_PROBLEMS = 5  # that one line names
UNKNOWN = ("extra_forbidden", "invalid_key")  # pydantic's names of an unknown key


class SettingsError(ValueError):
    """A refusal in one line that names settings by their dotted keys."""


def knob(
    description: str, *, resumable: bool = False, bookkeeping: bool = False, **options: Any
) -> Any:
    """A field of the schema.

    Args:
        description: what it is and its unit.
        resumable: a run may be resumed with another value.
        bookkeeping: another value makes no other experiment, so that `compare` may mix runs.
        options: bounds, and a `default`: what a configuration means that lacks the key, as one
            saved before the key existed does. Values of new runs stand in the YAML files.
    """
    marks: dict[str, Any] = {
        "resumable": resumable,
        "bookkeeping": resumable or bookkeeping,
    }
    return Field(description=description, json_schema_extra=marks, **options)


Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Text = Annotated[str, Field(min_length=1)]


class Settings(BaseModel):
    """A group of settings: no other keys, no conversions between types, no infinite numbers."""

    model_config = STRICT


class Task(Settings):
    name: Text = knob("name of the task, as reports call it")
    env_id: Text = knob("Gymnasium id of the environment")
    action_repeat: Positive = knob("env steps per agent step")
    learning_rate: float | None = knob(
        "the agent's learning rate on this task, for Adam", gt=0, default=None
    )
    camera: int | None = knob("number of the camera that draws the frames", ge=0, default=None)
    kwargs: dict[str, Any] | None = knob(
        "more arguments of the environment's constructor", default=None
    )
    max_episode_steps: Positive | None = knob(
        "env steps after which an episode is cut off", default=None
    )


class Agent(Settings):
    model_config = OPEN

    name: Text = knob("file of curl/agents")
    label: Text = knob("what reports call it")


class View(Settings):
    model_config = OPEN

    name: Text = knob("file of curl/augmentations")


class Augmentation(Settings):
    label: Text = knob("what reports call it")
    query: View = knob("what draws the views of the critic and the query encoder")
    key: View = knob("what draws the views of the key encoder")


class Objective(Settings):
    model_config = OPEN

    name: Text = knob("file of curl/objectives, or none")


class Replay(Settings):
    capacity: Positive = knob("size of the replay buffer in transitions")
    device: Literal["auto", "cpu"] = knob("where transitions are stored", resumable=True)


class Logger(Settings):
    wandb: Literal["auto", "online", "offline", "disabled"] = knob(
        "how wandb is used", resumable=True
    )
    project: Text = knob("wandb project", resumable=True)
    tensorboard: bool = knob(
        "whether the run folder gets a file of events for TensorBoard",
        resumable=True,
        default=False,
    )


class Scene(Settings):
    """What it takes to build the environment of a run."""

    model_config = ConfigDict(extra="ignore")

    task: Task = knob("the environment")
    render_size: Positive = knob("edge of a frame in pixels")
    shadow_size: Literal["auto"] | Count | None = knob(
        "edge of MuJoCo's shadow map in texels; 0: no shadows"
    )
    reflections: bool = knob("whether MuJoCo draws reflections in the floor", default=True)
    shift: dict[str, dict[str, Any]] = knob(
        "how the environment looks: names of files of curl/shifts, each with its settings",
        default_factory=dict,
    )


class Policy(Scene):
    """What it takes to build an agent and let it act: all that an evaluation reads of a run."""

    agent: Agent = knob("what acts and learns")
    augmentation: Augmentation = knob("what draws views")
    objective: Objective = knob("the auxiliary loss")
    frame_stack: Positive = knob("frames per observation")
    precision: Literal["auto", "float32", "bfloat16"] = knob(
        "dtype of convolutions and hidden layers"
    )
    updates_per_step: float = knob("gradient updates per agent step", gt=0, default=1)
    encoder: Literal["finetune", "frozen", "scratch"] = knob(
        "what becomes of the trunk of init_from", default="finetune"
    )


class Run(Policy):
    """All settings of a run."""

    model_config = ConfigDict(extra="forbid")

    seed: int = knob("seed of every random number", ge=0, bookkeeping=True)
    loop: Literal["online", "offline"] = knob(
        "online: the agent acts in the environment; offline: it learns from the dataset alone",
        default="online",
    )
    env_steps: Positive | None = knob("budget of the online loop in env steps", resumable=True)
    updates: Positive | None = knob(
        "budget of the offline loop in updates", resumable=True, default=None
    )
    dataset: Text | None = knob("name of a recorded dataset", default=None)
    dataset_episodes: Positive | None = knob(
        "how many of its episodes are used, the first ones; null: all", default=None
    )
    init_from: Text | None = knob(
        "folder of a run, or one of its state files, to begin from", bookkeeping=True, default=None
    )
    init_parts: Literal["trunk", "agent"] = knob(
        "what is taken over from init_from: its convolutions, or all that it has learned",
        default="trunk",
    )
    initial_steps: Positive = knob("agent steps of random actions before learning")
    batch_size: Positive = knob("transitions per update")
    device: str = knob(
        "auto, cpu, cuda or cuda:<number>", pattern=r"^(auto|cpu|cuda(:[0-9]+)?)$", resumable=True
    )
    opengl: Literal["auto", "egl", "osmesa", "glfw"] = knob("what draws frames", resumable=True)
    threads: int = knob(
        "CPU threads of PyTorch; 0: the cores that other processes leave free", ge=0, resumable=True
    )
    replay: Replay = knob("the replay buffer")
    eval_every: Positive = knob("steps on the axis of the run between evaluations", resumable=True)
    eval_episodes: Positive = knob("episodes per evaluation", resumable=True)
    eval_processes: Literal["auto"] | Positive = knob(
        "environments evaluated in parallel", resumable=True
    )
    checkpoint_every: Positive = knob(
        "steps on the axis of the run between checkpoints", resumable=True
    )
    save_replay: bool = knob("whether checkpoints hold the replay buffer", resumable=True)
    log_every: Positive = knob(
        "steps on the axis of the run between rows of training metrics", resumable=True
    )
    env_timeout: float = knob(
        "seconds that an environment may take to answer", gt=0, resumable=True
    )
    eval_shifts: dict[str, dict[str, dict[str, Any]]] | None = knob(
        "other looks that each evaluation plays as well: names of files of configs/shift",
        resumable=True,
        default=None,
    )
    video: bool = knob("whether evaluations leave an MP4", resumable=True)
    probes: bool = knob(
        "whether evaluations of the offline loop decode rewards and states from the encoder",
        resumable=True,
        default=False,
    )
    logger: Logger = knob("where metrics go", resumable=True)
    about: Text | None = knob("what a run says when it begins", resumable=True, default=None)
    label: Text = knob("what reports call this variant", bookkeeping=True)
    run_dir: Text = knob("folder of the run", resumable=True)


# -- what a field says ---------------------------------------------------------------------------


def fields(model: type[BaseModel] = Run, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every field by its dotted key, groups before what they hold."""
    for name, info in model.model_fields.items():
        yield f"{prefix}{name}", info
        if (group := _group(info)) is not None:
            yield from fields(group, f"{prefix}{name}.")


def marked(mark: str) -> frozenset[str]:
    """The dotted keys whose field says `mark`: resumable or bookkeeping."""
    return frozenset(key for key, info in fields() if _marks(info)[mark])


def within(key: str, keys: Collection[str]) -> bool:
    """Whether a dotted key, or a group that holds it, is one of `keys`."""
    parts = key.split(".")
    return any(".".join(parts[:count]) in keys for count in range(1, len(parts) + 1))


def flat(config: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings -> dotted key -> value."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= (
            flat(value, f"{prefix}{key}.")
            if isinstance(value, Mapping)
            else {f"{prefix}{key}": value}
        )
    return found


def _marks(info: FieldInfo) -> dict[str, Any]:
    assert isinstance(info.json_schema_extra, dict)
    return info.json_schema_extra


def _group(info: FieldInfo) -> type[BaseModel] | None:
    kind = info.annotation
    return kind if inspect.isclass(kind) and issubclass(kind, BaseModel) else None


# -- checking ------------------------------------------------------------------------------------


def checked(config: Mapping[str, Any], model: type[BaseModel] = Run) -> dict[str, Any]:
    """A copy of `config`, whose types and bounds are right, with the defaults of what it lacks.

    Raises:
        SettingsError: unknown or missing keys, wrong types, values out of bounds.
    """
    require(model, config)
    return _complete(model, config)


def _complete(model: type[BaseModel], config: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(config)
    for name, info in model.model_fields.items():
        if (group := _group(info)) is not None:
            found[name] = _complete(group, found[name])
        elif name not in found:
            found[name] = info.get_default(call_default_factory=True)
    return found


def require(model: type[M], values: Any, where: str = "") -> M:
    """`values` as `model`; `SettingsError` with keys below the dotted key `where`."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = list(dict.fromkeys(_problems(model, values, error, where)))
    more = len(problems) - MOST_PROBLEMS
    line = "; ".join(problems[:MOST_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")
    raise SettingsError(line)


def constructor_of(kind: type) -> tuple[dict[str, inspect.Parameter], dict[str, Any]]:
    """The parameters of a class's constructor by name, and their type hints.

    A constructor that passes the rest of its keywords on to the class that it extends, as
    `**rest: Any`, has the parameters of that class besides its own.
    """
    parameters = dict(inspect.signature(kind).parameters)
    hints = typing.get_type_hints(kind.__init__)
    rest = [name for name, p in parameters.items() if p.kind is p.VAR_KEYWORD]
    if not rest or hints.get(rest[0]) is not Any:
        return parameters, hints
    del parameters[rest[0]]
    owner = next(each for each in kind.__mro__ if "__init__" in vars(each))
    extended, its_hints = constructor_of(kind.__mro__[kind.__mro__.index(owner) + 1])
    return extended | parameters, its_hints | hints


def signature_model(constructor: type, offered: Iterable[str] = ()) -> type[BaseModel]:
    """A model of the settings that a constructor takes, except those that are `offered` to it.

    Types are those of its type hints; bounds are the constructor's own to check. Keywords that it
    gathers as `**options: Unpack[Options]`, where `Options` is a `TypedDict`, are settings too.
    """
    parameters, hints = constructor_of(constructor)
    given: dict[str, Any] = {}
    for name, parameter in parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            given |= _unpacked(hints.get(name))
        if name in offered or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        default = ... if parameter.default is parameter.empty else parameter.default
        given[name] = (_listed(hints.get(name, Any)), default)
    return create_model(constructor.__name__, __config__=FOREIGN, **given)


def _unpacked(hint: Any) -> dict[str, Any]:
    """The fields of the `TypedDict` that `Unpack[...]` names; none for any other hint."""
    if typing.get_origin(hint) is not typing.Unpack:
        return {}
    (options,) = typing.get_args(hint)
    required = options.__required_keys__
    return {
        name: (_listed(kind), ... if name in required else None)
        for name, kind in typing.get_type_hints(options).items()
    }


def _listed(hint: Any) -> Any:
    """The type hint with lists instead of tuples, because YAML has no tuples."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple and arguments[1:] == (...,):
        return collections.abc.Sequence[arguments[0]]
    if origin in (typing.Union, types.UnionType):
        return typing.Union[tuple(_listed(part) for part in arguments)]  # noqa: UP007
    return hint


def complete(config: Mapping[Any, Any]) -> dict[str, Any]:
    """Dotted key -> value of a configuration, with the defaults of the keys that it lacks.

    The configuration may be anything that a config.yaml held, of an older version too.
    """
    defaults: dict[str, Any] = {}
    for key, info in fields():
        if not info.is_required():
            defaults |= flat({key: info.get_default(call_default_factory=True)})
    return defaults | flat(config)


# -- refusing in one line ------------------------------------------------------------------------


def _problems(
    model: type[BaseModel], values: Any, error: ValidationError, where: str
) -> Iterator[str]:
    """What is wrong, in one sentence per key."""
    for problem in error.errors(include_url=False, include_input=False, include_context=False):
        key, group, info, value = where, model, None, values
        for part in problem["loc"]:
            if group is None or part not in group.model_fields:
                break
            info, key = group.model_fields[str(part)], f"{key}.{part}" if key else str(part)
            value = value.get(part) if isinstance(value, Mapping) else None
            group = _group(info)
        last = problem["loc"][-1] if problem["loc"] else ""
        if problem["type"] in UNKNOWN and group is not None:
            yield unknown(str(last), group, key)
        elif problem["type"] == "missing" and info is not None:
            meaning = f" ({info.description})" if info.description else ""
            yield f"{key} is missing{meaning}: it must be {allowed(info)}"
        elif info is None:
            yield f"{key or 'a configuration'} must be a group of settings, got {shown(value)}"
        else:
            yield refusal(key, info, value)


def unknown(name: str, model: type[BaseModel], where: str = "") -> str:
    """A refusal of a key that `model`, which belongs at `where`, lacks: the nearest, or all."""
    above = f"{where}." if where else ""
    own = {key: f"{above}{key}" for key in model.model_fields}
    inner = {key.rsplit(".", 1)[-1]: key for key, _ in fields(model, above)}
    for keys in (own, inner):
        if near := difflib.get_close_matches(name, keys, n=1):
            return f"unknown key {f'{above}{name}'!r}; did you mean {keys[near[0]]}?"
    return f"unknown key {f'{above}{name}'!r}; known: {', '.join(own.values()) or '(none)'}"


def refusal(key: str, info: FieldInfo, value: Any) -> str:
    """Which key, what it must be, and what it is."""
    options = [option for option in _options(info.annotation) if isinstance(option, str)]
    near = difflib.get_close_matches(value, options, n=1) if isinstance(value, str) else []
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    if isinstance(value, float) and value.is_integer() and "integer" in allowed(info):
        hint = f" (write {int(value)})"
    return f"{key} must be {allowed(info)}, got {shown(value)}{hint}"


def shown(value: Any) -> str:
    """A value in a message: one line, not too long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 100 else f"{text[:97]}..."


def allowed(info: FieldInfo) -> str:
    """What a field may be, in words; where a pattern says so, the description is those words."""
    if any(getattr(bound, "pattern", None) for bound in info.metadata):
        return str(info.description)
    return _words(info.annotation, info.metadata)


def _words(hint: Any, bounds: Iterable[Any] = ()) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _words(arguments[0], [*arguments[1:], *bounds])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_words(part, bounds) for part in arguments)
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}" if arguments[1:] else str(arguments[0])
    kind = origin or hint
    limits = {name: value for bound in bounds for name, value in _limits(bound)}
    if kind in (int, float):
        noun = "an integer" if kind is int else "a finite number"
        signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
        told = [f"{sign} {limits[name]}" for name, sign in signs.items() if name in limits]
        return " ".join([noun, *(" and ".join(told),) * bool(told)])
    if kind is str:
        return "a non-empty string" if limits.get("min_length") else "a string"
    if kind is bool:
        return "true or false"
    if kind is types.NoneType or kind is None:
        return "null"
    if inspect.isclass(kind) and issubclass(kind, (collections.abc.Mapping, BaseModel)):
        return "a group of settings"
    if inspect.isclass(kind) and issubclass(kind, collections.abc.Sequence):
        items = f", each {_words(arguments[0])}" if arguments else ""
        return f"a list{items}"
    return getattr(kind, "__name__", str(kind))


def _options(hint: Any) -> list[Any]:
    """The words among what a type hint allows."""
    if typing.get_origin(hint) is Literal:
        return list(typing.get_args(hint))
    return [option for part in typing.get_args(hint) for option in _options(part)]


def _limits(bound: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(bound, FieldInfo):
        for inner in bound.metadata:
            yield from _limits(inner)
    for name in ("ge", "gt", "le", "lt", "min_length"):
        if getattr(bound, name, None) is not None:
            yield name, getattr(bound, name)


BOOKKEEPING = marked("bookkeeping")
