"""The schema of settings: every field, wrong values, and what saved configurations lack."""

from __future__ import annotations

import copy
import functools
import math
import re
import types
import typing
from pathlib import Path
from typing import Any, Literal, Unpack

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from pydantic.fields import FieldInfo

from curl import schema
from curl.agents.sac import SAC
from curl.learning.contrast import ContrastOptions
from curl.run import build, folder, policy, scoring
from curl.run.checkpoint import CheckpointError
from curl.schema import SettingsError
from support.paths import CONFIGS

FIELDS = dict(schema.fields())
LEAVES = [key for key in FIELDS if not any(other.startswith(f"{key}.") for other in FIELDS)]


@functools.cache
def default() -> dict[str, Any]:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = OmegaConf.to_container(compose("train"), resolve=True)
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}


def changed(key: str, *value: Any) -> dict[str, Any]:
    """The default configuration with another value of a dotted key, or without it."""
    config = copy.deepcopy(default())
    *groups, last = key.split(".")
    place = functools.reduce(lambda found, group: found[group], groups, config)
    place.pop(last, None)
    place |= {last: value[0]} if value else {}
    return config


def refusal(key: str, *value: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        build.checked(changed(key, *value))
    line = str(caught.value)
    assert "\n" not in line and "pydantic" not in line.lower()
    return line


# -- every field -----------------------------------------------------------------------------------


@pytest.mark.parametrize("key", FIELDS)
def test_every_field_has_a_description(key: str) -> None:
    assert FIELDS[key].description


def test_every_key_of_the_configuration_is_a_field_and_the_other_way_round() -> None:
    """The settings of agents, augmentations and objectives aside: those are their constructors'."""
    open_groups = ("agent.", "augmentation.query.", "augmentation.key.", "objective.")
    named = {key for key in schema.flat(default()) if not key.startswith(open_groups)}
    fields = {key for key in LEAVES if not key.startswith(open_groups)}
    assert named <= fields
    # The tasks that have a learning rate of their own name it, and without a shift there is none.
    assert fields - named == {"task.learning_rate", "shift"}


def test_the_default_configuration_is_left_as_it_is() -> None:
    found = build.checked(default())
    assert found | {"task": default()["task"]} == default()


@pytest.mark.parametrize("group", ["task", "objective", "augmentation", "agent"])
def test_fields_stand_in_the_yaml_with_a_comment(group: str) -> None:
    texts = {path: path.read_text() for path in sorted(CONFIGS.glob(f"{group}/*.yaml"))}
    for path, text in texts.items():
        for line in text.splitlines():
            found = re.match(r"\s*(?:- )?(\w+): +[^#\s]", line)
            if found and found[1] not in ("name", "label", "env_id"):
                assert re.search(r"\s# \S", line), f"{path.name}: {line}"


# -- wrong types and values ------------------------------------------------------------------------

NEVER = [[1], {"a": 1}, [], math.nan, math.inf, -math.inf]
WRONG: dict[Any, list[Any]] = {
    int: [*NEVER, "abc", "1", "", True, False, 1.5, 2.0, -1, 1e30],
    float: [*NEVER, "abc", "1", "", True, False, -1, 0, "nan", 10**400],
    bool: [*NEVER, 0, 1, "true", "false", ""],
    str: [*NEVER, 1, 0.5, True, ""],
    dict: [[1], [], math.nan, "abc", 1, True, {1: 2}],
}


def wrong_for(info: FieldInfo) -> list[Any]:
    """Values that a field must refuse, from its type hint alone."""
    hint = info.annotation
    parts = typing.get_args(hint) if isinstance(hint, types.UnionType) else [hint]
    parts = typing.get_args(hint) if typing.get_origin(hint) is typing.Union else parts
    origins = [typing.get_origin(part) or part for part in parts]
    if Literal in origins:
        sets = [[*NEVER, "nope", "", *([] if schema.Count in parts else [0]), True, -1, 1.5]]
    else:
        kinds = [
            typing.get_args(part)[0] if o is typing.Annotated else o
            for part, o in zip(parts, origins, strict=True)
        ]
        sets = [WRONG[kind] for kind in kinds if kind in WRONG]
    values = [value for value in sets[0] if all(repr(value) in map(repr, other) for other in sets)]
    return values if types.NoneType in origins else [*values, None]


CASES = [(key, value) for key in LEAVES for value in wrong_for(FIELDS[key])]


def test_there_are_many_cases() -> None:
    assert len(CASES) > 300 and {key for key, _ in CASES} == set(LEAVES)


@pytest.mark.parametrize("key", LEAVES)
def test_wrong_values_are_refused_by_name(key: str) -> None:
    for value in wrong_for(FIELDS[key]):
        line = refusal(key, value)
        assert line.startswith(f"{key} must be "), (value, line)
        assert schema.allowed(FIELDS[key]) in line and ", got " in line


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("seed", -1, "seed must be an integer >= 0, got -1"),
        ("seed", "x", "seed must be an integer >= 0, got 'x'"),
        (
            "env_steps",
            1e5,
            "env_steps must be an integer >= 1 or null, got 100000.0 (write 100000)",
        ),
        ("threads", -1, "threads must be an integer >= 0, got -1"),
        ("eval_processes", 0, "eval_processes must be auto or an integer >= 1, got 0"),
        ("env_timeout", 0, "env_timeout must be a finite number > 0, got 0"),
        ("updates_per_step", 0, "updates_per_step must be a finite number > 0, got 0"),
        ("video", 1, "video must be true or false, got 1"),
        ("run_dir", "", "run_dir must be a non-empty string, got ''"),
        ("task", 5, "task must be a group of settings, got 5"),
        ("augmentation.key", None, "augmentation.key must be a group of settings, got None"),
        (
            "precision",
            "float23",
            "precision must be one of auto, float32, bfloat16, got 'float23' "
            "(did you mean 'float32'?)",
        ),
    ],
)
def test_refusals_say_what_is_allowed(key: str, value: Any, line: str) -> None:
    assert refusal(key, value) == line


@pytest.mark.parametrize("key", [key for key in FIELDS if FIELDS[key].is_required()])
def test_a_missing_key_is_named(key: str) -> None:
    line = refusal(key)
    assert line.startswith(f"{key} is missing ({FIELDS[key].description}): it must be ")


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("env_stepz", "env_steps"),
        ("capacity", "replay.capacity"),
        ("action_repeat", "task.action_repeat"),
        ("task.actionrepeat", "task.action_repeat"),
        ("replay.capacty", "replay.capacity"),
        ("logger.projekt", "logger.project"),
        ("augmentation.querry", "augmentation.query"),
        ("agent.hidden_dims", "agent.hidden_dim"),
        ("augmentation.query.sise", "augmentation.query.size"),
    ],
)
def test_a_misspelt_key_is_refused_with_the_nearest(key: str, meant: str) -> None:
    assert f"unknown key {key!r}; did you mean {meant}?" in refusal(key, 1)


@pytest.mark.parametrize("key", ["foo", "task.foo", "logger.foo", "replay.foo", "objective.xyz"])
def test_an_unknown_key_is_refused_anywhere(key: str) -> None:
    assert f"unknown key {key!r}; known: " in refusal(key, 1)


def test_several_problems_make_one_line() -> None:
    config = changed("seed", -1) | {"batch_size": 0, "foo": 1}
    with pytest.raises(SettingsError) as caught:
        schema.checked(config)
    parts = str(caught.value).split("; ")
    assert parts[0].startswith("seed") and parts[1].startswith("batch_size")
    assert parts[2].startswith("unknown key 'foo'")


@pytest.mark.parametrize("config", [None, 5, "text", [], [{}]])
def test_what_is_no_configuration_is_refused(config: Any) -> None:
    with pytest.raises(SettingsError, match="must be a group of settings"):
        schema.checked(config)


# -- constructors' settings ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("agent.hidden_dim", 0, "agent.hidden_dim must be an integer >= 1, got 0"),
        ("agent.hidden_dim", "8", "agent.hidden_dim must be an integer, got '8'"),
        ("agent.hidden_dim", True, "agent.hidden_dim must be an integer, got True"),
        ("agent.joint", 1, "agent.joint must be true or false, got 1"),
        ("agent.discount", 2, r"agent.discount must lie in \[0, 1\], got 2"),
        ("agent.strides", 2, "agent.strides must be a list, each an integer, got 2"),
        ("agent.strides", [2, True], r"agent.strides must be a list, each an integer, got \["),
        ("agent.learning_rate", "x", "agent.learning_rate must be a finite number, got 'x'"),
        ("agent.name", "sacc", "agent.name must be one of .*; got 'sacc'"),
        ("agent.channels", 9, "unknown key 'agent.channels'"),
        ("agent.generator", 9, "unknown key 'agent.generator'"),
        ("agent.latent_dim", None, "agent.latent_dim must be an integer"),
        ("augmentation.query.name", "crap", "augmentation.query.name .*did you mean 'crop'"),
        ("augmentation.query.size", "84", "augmentation.query.size must be an integer, got '8"),
        ("augmentation.key.size", 0, "augmentation.key.size must be an integer >= 1, got 0"),
        ("augmentation.key.size", 60, "augmentation.query: 84 pixels, augmentation.key: 60 pixels"),
        ("objective.name", "infonse", "objective.name must be one of .*did you mean 'infonce'"),
        ("objective.margin", 1, "unknown key 'objective.margin'"),
        ("render_size", 50, "augmentation.query cannot draw views .* render_size=50: a crop of 84"),
    ],
)
def test_parts_are_checked_by_their_constructors(key: str, value: Any, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        build.checked(changed(key, value))


def test_steps_of_a_composition_are_named() -> None:
    steps = [{"name": "crop", "size": 84}, {"name": "gaussian", "sigma": -1}]
    with pytest.raises(ValueError, match=r"augmentation.key.steps\[1\].sigma must lie"):
        build.checked(changed("augmentation.key", {"name": "compose", "steps": steps}))
    steps[1] = {"name": "gaussian", "sigma": "x"}
    with pytest.raises(ValueError, match=r"augmentation.key.steps\[1\].sigma must be a finite"):
        build.checked(changed("augmentation.key", {"name": "compose", "steps": steps}))


def test_an_objective_without_its_settings_is_refused() -> None:
    with pytest.raises(ValueError, match=r"objective\.offset is missing: it must be an integer"):
        build.checked(changed("objective", {"name": "temporal", "hidden_dim": 8}))


def test_none_has_no_settings() -> None:
    with pytest.raises(ValueError, match=r"unknown key 'objective\.margin'"):
        build.checked(changed("objective", {"name": "none", "margin": 1}))


def test_views_that_break_are_refused_whatever_they_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    """An augmentation of a stranger, which raises no ValueError."""
    from curl.augmentations.crop import Crop

    def broken(*_: Any) -> Any:
        raise IndexError("index 3 is out of bounds\nfor dimension 0")

    monkeypatch.setattr(Crop, "evaluate", broken)
    build._require_parts.cache_clear()
    line = refusal_of_parts()
    assert line == (
        "augmentation.query cannot draw views of frames of render_size=100: "
        "index 3 is out of bounds"
    )


def refusal_of_parts() -> str:
    with pytest.raises(ValueError) as caught:
        build.checked(default())
    return str(caught.value)


def test_a_view_of_another_shape_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from curl.augmentations.crop import Crop

    monkeypatch.setattr(Crop, "evaluate", lambda self, stacks: stacks.whole())
    build._require_parts.cache_clear()
    assert "a view is [1, 9, 100, 100], not [1, 9, 84, 84]" in refusal_of_parts()


def test_parts_are_tried_once_for_all_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Any] = []
    make = build.build_agent
    monkeypatch.setattr(build, "build_agent", lambda *a, **k: built.append(a) or make(*a, **k))
    build._require_parts.cache_clear()
    for seed in range(5):
        build.checked(changed("seed", seed))
    build.checked(changed("agent.hidden_dim", 8))
    assert len(built) == 2


def test_trying_the_parts_draws_no_random_numbers() -> None:
    build._require_parts.cache_clear()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    build.checked(default())
    assert torch.equal(before, torch.get_rng_state())


def test_the_signature_is_the_schema() -> None:
    model = schema.signature_model(SAC, ("channels", "query"))
    assert "discount" in model.model_fields and "channels" not in model.model_fields


def test_a_constructor_that_passes_the_rest_on_has_the_settings_of_both() -> None:
    class Base:
        def __init__(self, *, rate: float, steps: int = 3, **contrast: Unpack[ContrastOptions]):
            pass

    class Between(Base):
        pass

    class Method(Between):
        def __init__(self, *, alpha: float = 2.5, steps: int = 1, **base: Any):
            super().__init__(steps=steps, **base)

    fields = schema.signature_model(Method, ("rate",)).model_fields
    own = {name: fields[name].default for name in ("alpha", "steps")}
    assert own == {"alpha": 2.5, "steps": 1}
    assert fields.keys() == own.keys() | ContrastOptions.__annotations__.keys()
    with pytest.raises(SettingsError, match="rate"):
        schema.require(schema.signature_model(Method), {"alpha": 1.0}, "agent")


# -- saved configurations --------------------------------------------------------------------------


def test_a_resume_may_change_what_the_schema_says() -> None:
    changes = {key: "another" for key in folder.RESUMABLE if key in LEAVES}
    now = functools.reduce(lambda config, key: _with(config, key, changes[key]), changes, default())
    assert folder.differences(default(), now) == []
    assert {"env_steps", "logger.wandb", "threads", "run_dir"} <= changes.keys()
    assert not {"seed", "batch_size", "replay.capacity", "label"} & folder.RESUMABLE


def _with(config: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    config = copy.deepcopy(config)
    *groups, last = key.split(".")
    functools.reduce(lambda found, group: found[group], groups, config)[last] = value
    return config


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("batch_size", 9, "batch_size=512 (there: 9)"),
        ("agent.discount", 0.5, "agent.discount=0.99 (there: 0.5)"),
        ("task.action_repeat", 2, "task.action_repeat=8 (there: 2)"),
        ("old", 1, "old=no such setting (there: 1)"),
        ("agent.old", 1, "agent.old=no such setting (there: 1)"),
    ],
)
def test_differences_are_told_by_dotted_key(key: str, value: Any, told: str) -> None:
    assert folder.differences(changed(key, value), default()) == [told]


def test_what_an_older_version_did_not_know_has_its_default() -> None:
    older = changed("task.camera")
    assert folder.differences(older, default()) == []
    assert folder.differences(older, changed("task.camera", 1)) == ["task.camera=1 (there: None)"]


def test_what_an_older_version_lacks_without_a_default_is_told() -> None:
    told = ["batch_size=512 (there: no such setting)"]
    assert folder.differences(changed("batch_size"), default()) == told


def test_the_record_of_the_machine_is_no_setting() -> None:
    assert folder.differences(default() | {"used": {"machine": {"x": 1}}}, default()) == []


@pytest.mark.parametrize("before", [{}, {1: 2}, {"task": 5}, {"agent": [1]}, {"seed": {"a": 1}}])
def test_differences_from_anything_are_told(before: Any) -> None:
    assert folder.differences(before, default())


def test_bookkeeping_is_what_a_resume_may_change_and_what_differs_between_seeds() -> None:
    assert {"seed", "label", "init_from"} == schema.BOOKKEEPING - folder.RESUMABLE


def test_what_an_evaluation_reads_is_checked_and_nothing_else() -> None:
    saved = changed("seed", "damaged") | {"from_a_later_version": 1}
    assert schema.checked(saved, schema.Policy)["seed"] == "damaged"
    with pytest.raises(SettingsError, match="frame_stack must be an integer >= 1, got -1"):
        schema.checked(saved | {"frame_stack": -1}, schema.Policy)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("frame_stack", -1, "frame_stack must be an integer >= 1, got -1"),
        ("task.old", 1, "unknown key 'task.old'"),
        ("agent.old", 1, "unknown key 'agent.old'"),
        ("agent.hidden_dim", 0, "agent.hidden_dim must be an integer >= 1, got 0"),
    ],
)
def test_an_evaluation_says_whose_settings_it_does_not_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: Any, told: str
) -> None:
    """Before an environment is opened where that can be known, and in one line."""
    counters = {"agent_steps": 1, "env_steps": 8}
    state = {"config": changed(key, value), "agent": {}, "counters": counters}
    monkeypatch.setattr(policy, "read_state", lambda _: state)
    small = {"agent.latent_dim": 4, "task.env_id": "Pendulum-v1"}
    for name, number in small.items():
        state["config"] = _with(state["config"], name, number)
    path = tmp_path / "checkpoints" / "state-8.pt"
    path.parent.mkdir()
    path.touch()
    with pytest.raises(CheckpointError) as caught:
        scoring.evaluate_run(
            path,
            episodes=1,
            seed=0,
            video=False,
            device=torch.device("cpu"),
            backend="egl",
            processes=1,
        )
    line = str(caught.value)
    assert line.startswith(f"{path} has settings that this version does not take: ")
    assert told in line and "\n" not in line


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("task/*.yaml")), ids=lambda path: path.stem)
def test_every_task_file_passes(path: Path) -> None:
    task = yaml.safe_load(path.read_text())
    if "learning_rate" in task:
        task["learning_rate"] = float(task["learning_rate"])  # YAML 1.1 reads 2e-4 as a text
    schema.checked(default() | {"task": task})
