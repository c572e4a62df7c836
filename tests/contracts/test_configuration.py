"""Configuration: every YAML composes, the defaults are the paper's, every knob is commented."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import gymnasium as gym
import pytest
import shimmy  # noqa: F401  registers dm_control's tasks
import torch
from omegaconf import OmegaConf

from curl import schema
from curl.agents.base import Agent
from curl.agents.bc import BC
from curl.agents.drqv2 import DrQV2
from curl.agents.iql import IQL
from curl.agents.sac import SAC
from curl.learning.contrast import Contrast, ContrastOptions
from curl.run.build import build_agent
from curl.schema import flat
from support.configuration import composed
from support.paths import CONFIGS

GROUPS = ("task", "agent", "augmentation", "objective", "shift", "experiment")
FILES = [(group, path) for group in GROUPS for path in sorted(CONFIGS.glob(f"{group}/*.yaml"))]
CHOICES = [(group, path.stem) for group, path in FILES]


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_choice_composes(group: str, name: str) -> None:
    """Nothing stays open, no key is added, and a choice is named as its file is."""
    config = composed(f"{group}={name}")
    assert "???" not in str(config) and "${" not in str(config)
    assert config.keys() == composed().keys()
    if group not in ("experiment", "shift"):  # shifts are named within their own group
        # shift_small is shift with the sizes of the small preset, and its runs are called so.
        named = {"shift_small": "shift"}.get(name, name)
        assert named == config[group].get("label", config[group].get("name"))


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_choice_is_what_the_schema_says(group: str, name: str) -> None:
    """And nothing is left to the schema's defaults, which are for older configurations."""
    config = composed(f"{group}={name}")
    assert schema.checked(config).keys() == config.keys()
    for group in ("replay", "logger", "augmentation"):
        assert schema.checked(config)[group] == config[group]
    assert schema.checked(config)["task"].keys() - config["task"].keys() <= {"learning_rate"}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("experiment/*.yaml")), ids=lambda p: p.stem)
def test_an_experiment_overrules_the_defaults(path: Path) -> None:
    config = composed(f"experiment={path.stem}")
    wanted = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(wanted, dict)
    wanted.pop("defaults", None), wanted.pop("hydra", None)
    found = flat(config)
    for key, value in flat(wanted).items():
        assert found[key] == value or "${" in str(value)


@pytest.mark.parametrize(
    ("group", "name"),
    [choice for choice in CHOICES if choice[0] not in ("task", "shift", "experiment")],
)
def test_every_choice_builds_an_agent(group: str, name: str) -> None:
    """Networks are made small where they can be, for speed."""
    config = composed(f"{group}={name}")
    small = {size: 8 for size in ("hidden_dim", "latent_dim") if size in config["agent"]}
    config = config | {"agent": config["agent"] | small}
    agent = build_agent(config, action_dim=2, generator=torch.Generator())
    assert isinstance(agent, Agent)


AUGMENTATIONS = sorted(path.stem for path in CONFIGS.glob("augmentation/*.yaml"))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_key_view_follows_the_query_view(name: str) -> None:
    """One size is enough; a part of the key view can still be set alone."""
    views = composed(f"augmentation={name}", "augmentation.query.size=36")["augmentation"]
    key, query = views["key"], views["query"]
    if key["name"] == query["name"]:
        assert key == query
    key = key["steps"][0] if key["name"] == "compose" else key
    assert key["size"] == query["size"] == 36
    if "steps" not in views["key"]:
        alone = composed(f"augmentation={name}", "augmentation.key.size=36")["augmentation"]
        assert (alone["query"] | {"size": 36}) == query and alone["query"]["size"] != 36


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_small_preset_takes_any_augmentation(name: str) -> None:
    config = composed("experiment=laptop", f"augmentation={name}")
    label = OmegaConf.load(CONFIGS / f"augmentation/{name}.yaml").label
    assert config["augmentation"]["label"] == label
    assert config["augmentation"]["query"]["size"] == config["render_size"] == 44


def test_label_and_folder_name_the_run() -> None:
    config = composed("task=walker_walk", "objective=none", "augmentation=crop_reference", "seed=7")
    assert config["label"] == "curl-crop_reference-none"
    assert config["run_dir"] == "runs/walker_walk/curl-crop_reference-none/seed_7"
    assert composed()["run_dir"] == "runs/cartpole_swingup/curl-crop-infonce/seed_1"


@pytest.mark.parametrize(
    ("task", "action_repeat", "learning_rate"),
    [
        ("finger_spin", 2, 1e-3),
        ("cartpole_swingup", 8, 1e-3),
        ("reacher_easy", 4, 1e-3),
        ("cheetah_run", 4, 2e-4),
        ("walker_walk", 2, 1e-3),
        ("ball_in_cup_catch", 4, 1e-3),
    ],
)
def test_the_six_tasks_have_the_papers_settings(
    task: str, action_repeat: int, learning_rate: float
) -> None:
    config = composed(f"task={task}")
    domain, name = task.rsplit("_", 1)
    assert config["task"]["env_id"] == f"dm_control/{domain}-{name}-v0"
    assert config["task"]["action_repeat"] == action_repeat
    assert config["agent"]["learning_rate"] == learning_rate


def test_defaults_are_table_3() -> None:
    config = composed()
    agent = {
        "discount": 0.99,
        "strides": [2, 1, 1, 1],
        "filters": 32,
        "hidden_dim": 1024,
        "latent_dim": 50,
        "learning_rate": 1e-3,
        "alpha_learning_rate": 1e-4,
        "alpha_beta1": 0.5,
        "initial_temperature": 0.1,
        "critic_tau": 0.01,
        "encoder_tau": 0.05,
        "actor_update_every": 2,
        "target_update_every": 2,
        "second_encoder_step": False,
        "joint": False,
    }
    assert {name: config["agent"][name] for name in agent} == agent
    run = {
        "initial_steps": 1000,
        "updates_per_step": 1,
        "batch_size": 512,
        "frame_stack": 3,
        "render_size": 100,
        "eval_episodes": 10,
    }
    assert {name: config[name] for name in run} == run
    assert config["replay"]["capacity"] == 100_000
    assert config["augmentation"]["query"] == config["augmentation"]["key"]
    assert config["augmentation"]["query"] == {"name": "crop", "size": 84}
    assert config["objective"] == {"name": "infonce"}


def test_the_reference_preset_differs_in_its_second_step_alone() -> None:
    paper, reference = composed()["agent"], composed("agent=curl_reference")["agent"]
    differing = {name for name in paper if paper[name] != reference[name]}
    assert differing == {"label", "second_encoder_step"}
    assert reference["second_encoder_step"] is True


def test_the_small_agent_differs_in_sizes_and_in_two_settings_of_drq() -> None:
    paper, small = composed()["agent"], composed("agent=curl_small")["agent"]
    differing = {name for name in paper if paper[name] != small[name]}
    drq = {"convolution_init", "alpha_learning_rate"}
    assert differing == {"label", "strides", "hidden_dim"} | drq


@pytest.mark.parametrize(
    "path",
    [CONFIGS / "agent/curl_small.yaml", CONFIGS / "experiment/laptop.yaml"],
    ids=lambda p: p.stem,
)
def test_the_small_preset_says_that_it_is_not_the_papers(path: Path) -> None:
    assert re.search(r"\bnot\b(\s|#)+the(\s|#)+paper's", path.read_text())
    assert composed("experiment=laptop")["label"].startswith("curl_small-")


def test_defaults_are_drqv2_s() -> None:
    """Yarats et al. 2021, table 1 of the appendix, for tasks that are easy."""
    config = composed("agent=drqv2")
    agent = {
        "strides": [2, 1, 1, 1],
        "filters": 32,
        "hidden_dim": 1024,
        "latent_dim": 50,
        "discount": 0.99,
        "steps": 3,
        "learning_rate": 1e-4,
        "actor_learning_rate": 1e-4,
        "critic_tau": 0.01,
        "noise_start": 1.0,
        "noise_end": 0.1,
        "noise_steps": 100_000,
        "noise_clip": 0.3,
    }
    assert {name: config["agent"][name] for name in agent} == agent
    run = {"batch_size": 256, "updates_per_step": 0.5, "initial_steps": 2000}
    assert {name: config[name] for name in run} == run
    assert config["label"] == "drqv2-shift-none"
    assert config["augmentation"]["query"] == {"name": "shift", "size": 84, "pad": 4}


def test_what_an_agent_prescribes_can_be_overruled() -> None:
    given = ("augmentation=crop", "objective=infonce", "batch_size=32", "initial_steps=10")
    for config in (composed("agent=drqv2", *given), composed(*given, "agent=drqv2")):
        assert config["label"] == "drqv2-crop-infonce"
        assert (config["batch_size"], config["initial_steps"]) == (32, 10)
        assert config["updates_per_step"] == 0.5


def test_the_small_drqv2_fits_the_small_preset() -> None:
    """The same sizes of networks, batches and updates as the other small agents."""
    config = composed("experiment=laptop", "agent=drqv2_small", "objective=none")
    other = composed("experiment=laptop", "objective=none")
    assert config["label"] == "drqv2_small-shift-none"
    assert config["augmentation"] == other["augmentation"]
    sizes = ("batch_size", "updates_per_step", "initial_steps", "render_size", "frame_stack")
    assert {name: config[name] for name in sizes} == {name: other[name] for name in sizes}
    networks = ("strides", "filters", "hidden_dim", "latent_dim", "discount", "learning_rate")
    agents = config["agent"], other["agent"]
    assert len({str([agent[name] for name in networks]) for agent in agents}) == 1


@pytest.mark.parametrize(
    ("kind", "name"), [(SAC, "curl"), (DrQV2, "drqv2"), (BC, "bc"), (IQL, "iql")]
)
def test_defaults_in_code_do_not_disagree(kind: type, name: str) -> None:
    """Those of the contrast, which all agents take as they are, too."""
    config = composed(f"agent={name}")
    config = config["agent"] | {"updates_per_step": config["updates_per_step"]}
    found = {**inspect.signature(Contrast).parameters, **inspect.signature(kind).parameters}
    for name, parameter in found.items():
        if name in config and parameter.default is not inspect.Parameter.empty:
            default = parameter.default
            assert (list(default) if isinstance(default, tuple) else default) == config[name], name
    options = ContrastOptions.__annotations__.keys()
    assert options <= config.keys() and options <= found.keys()


@pytest.mark.parametrize("task", [name for group, name in CHOICES if group == "task"])
def test_every_task_is_registered(task: str) -> None:
    """A key that nothing reads would be a misspelt one."""
    config = composed(f"task={task}")["task"]
    gym.spec(config["env_id"])
    assert isinstance(config["action_repeat"], int) and config["action_repeat"] >= 1
    keys = {"name", "env_id", "action_repeat", "camera", "kwargs", "max_episode_steps"}
    assert keys <= config.keys() <= keys | {"learning_rate"}


@pytest.mark.parametrize(
    "path", [CONFIGS / "train.yaml", *sorted(CONFIGS.glob("agent/*.yaml"))], ids=lambda p: p.stem
)
def test_every_knob_has_a_comment(path: Path) -> None:
    """Names and labels are no knobs, nor is what train.yaml tells Hydra."""
    knobs = path.read_text().split("\nhydra:")[0]
    for line in knobs.splitlines():
        found = re.match(r"\s*(\w+): +[^#\s]", line)
        if found and found[1] not in ("name", "label"):
            assert re.search(r"\s# \S", line), f"{path.name}: {line}"
