"""Every shift of `configs/shift` on a task of each suite: seeds, rewards, states, neighbours."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curl import shifts
from curl.registry import find
from curl.run.checkpoint import Checkpoints
from curl.run.start import train
from curl.shifts.base import SceneShift, Shift
from support.configuration import composed
from support.looks import configured, episode, looking
from support.paths import CONFIGS
from support.programs import SETTINGS, timeless

FILES = sorted((CONFIGS / "shift").glob("*.yaml"))
NAMES = [path.stem for path in FILES]
SHIFTED = [name for name in NAMES if name != "none"]
MUJOCO = ("cartpole_swingup", "half_cheetah")  # dm_control and Gymnasium
TASKS = (*MUJOCO, "pendulum")  # the last one has two dimensions

pytestmark = pytest.mark.filterwarnings("ignore:.*DISPLAY environment variable:Warning")


def kind(name: str) -> type[Shift]:
    (file,) = configured(name)
    return find(Shift, "curl.shifts", file)


def makes_sense(name: str, task: str) -> bool:
    return task in MUJOCO or not issubclass(kind(name), SceneShift)


CASES = [(name, task) for name in SHIFTED for task in TASKS if makes_sense(name, task)]
SENSELESS = [(name, task) for name in SHIFTED for task in TASKS if not makes_sense(name, task)]


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    """The episode of each task as it is."""
    found = {}
    for task in TASKS:
        with looking(task) as env:
            found[task] = episode(env)
    return found


# -- looks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "task"), CASES)
def test_a_shift_changes_frames_and_nothing_else(
    name: str, task: str, plain: dict[str, Any]
) -> None:
    frames, rewards, states = plain[task]
    with looking(task, configured(name)) as env:
        shifted, its_rewards, its_states = episode(env)
        assert env.get_wrapper_attr("display")().std() > 0
    assert shifted.dtype == np.uint8 and shifted.shape == frames.shape
    np.testing.assert_array_equal(its_rewards, rewards)
    np.testing.assert_array_equal(its_states, states)
    later = slice(1, None)  # the first frame is not late
    assert np.abs(shifted[later].astype(int) - frames[later]).mean() > 0.5
    assert shifted.std() > 3, "nothing is left to be seen"


@pytest.mark.parametrize(("name", "task"), CASES)
def test_the_same_seed_has_the_same_look_and_another_seed_another(name: str, task: str) -> None:
    with looking(task, configured(name)) as env, looking(task, configured(name)) as again:
        first = episode(env)[0]
        np.testing.assert_array_equal(episode(again)[0], first)
        other = episode(env, seed=4)[0]
        np.testing.assert_array_equal(episode(env)[0], first)
        assert (other != first).any()


@pytest.mark.parametrize(("name", "task"), CASES)
def test_a_frame_does_not_depend_on_how_often_it_is_drawn(name: str, task: str) -> None:
    """Neither on videos, nor on what others draw in between."""
    with looking(task, configured(name)) as env:
        first = episode(env)[0]
        action = np.random.default_rng(3).uniform(-1, 1, (4, *env.action_space.shape))  # pyright: ignore
        np.testing.assert_array_equal(env.reset(seed=3)[0], first[0])
        for number, each in enumerate(action.astype(np.float32), 1):
            env.get_wrapper_attr("display")()
            env.render()
            np.testing.assert_array_equal(env.step(each)[0], first[number])
            np.testing.assert_array_equal(env.render(), first[number])  # pyright: ignore


@pytest.mark.parametrize(("name", "task"), CASES)
def test_no_shift_reaches_another_environment(name: str, task: str, plain: dict[str, Any]) -> None:
    """One beside it, made before and drawn in between, and one that is made afterwards."""
    with looking(task) as beside:
        beside.reset(seed=3)
        with looking(task, configured(name)) as env:
            shifted = episode(env)[0]
            np.testing.assert_array_equal(episode(beside)[0], plain[task][0])
            np.testing.assert_array_equal(episode(env)[0], shifted)
            with looking(task) as after:
                np.testing.assert_array_equal(episode(after)[0], plain[task][0])
        np.testing.assert_array_equal(episode(beside)[0], plain[task][0])


@pytest.mark.parametrize("task", MUJOCO)
@pytest.mark.parametrize("name", SHIFTED)
def test_the_model_is_as_it_was(name: str, task: str) -> None:
    with looking(task, configured(name)) as env:
        env.reset(seed=3)
        scene = env.get_wrapper_attr("scene")
        before = numbers(scene.model) | numbers(scene.data)
        env.render()
        env.get_wrapper_attr("display")()
        after = numbers(scene.model) | numbers(scene.data)
        for field, values in before.items():
            np.testing.assert_array_equal(after[field], values, err_msg=field)


def numbers(owner: Any) -> dict[str, np.ndarray]:
    """Copies of all arrays of a model or its data."""
    found = {field: getattr(owner, field, None) for field in dir(owner) if field[0] != "_"}
    return {k: copy.copy(v) for k, v in found.items() if isinstance(v, np.ndarray)}


@pytest.mark.parametrize("name", SHIFTED)
def test_a_look_outlives_the_model(name: str) -> None:
    """dm_control's environments may compile another one at a reset."""
    from dm_control.suite import cartpole

    with looking("cartpole_swingup", configured(name)) as env:
        first = episode(env)[0]
        scene = env.get_wrapper_attr("scene")
        old = scene.model
        scene.bare.physics.reload_from_xml_string(*cartpole.get_model_and_assets())
        assert scene.model is not old
        scene.simplify(64, True)  # as `looking` did with the first one
        np.testing.assert_array_equal(episode(env)[0], first)


@pytest.mark.parametrize(("name", "task"), SENSELESS)
def test_what_makes_no_sense_is_refused_in_one_line(name: str, task: str) -> None:
    refused = pytest.raises(ValueError, match=r"^shift\.\w+: Pendulum-v1 is not drawn by MuJoCo")
    with refused as caught, looking(task, configured(name)):
        pass
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("task", TASKS)
def test_without_a_shift_not_a_pixel_changes(task: str, plain: dict[str, Any]) -> None:
    """No shift, none, and a configuration of a version that knew of no shifts."""
    with looking(task, configured("none")) as env:
        np.testing.assert_array_equal(episode(env)[0], plain[task][0])
        scene = env.get_wrapper_attr("scene")
        drawn = scene.draw(len(plain[task][0][0]))
        if task in MUJOCO:  # others are resized
            np.testing.assert_array_equal(env.render(), drawn)  # pyright: ignore


# -- together --------------------------------------------------------------------------------------


def all_of(names: list[str]) -> dict[str, dict[str, Any]]:
    return {key: value for name in names for key, value in configured(name).items()}


@pytest.mark.parametrize("task", TASKS)
def test_all_shifts_together_in_any_order(task: str, plain: dict[str, Any]) -> None:
    names = [name for name in SHIFTED if makes_sense(name, task)]
    frames = []
    for ordered in (names, names[::-1]):
        with looking(task, all_of(sorted(ordered, reverse=ordered is not names))) as env:
            shifted, rewards, states = episode(env)
            frames.append(shifted)
            np.testing.assert_array_equal(rewards, plain[task][1])
            np.testing.assert_array_equal(states, plain[task][2])
    if len(all_of(names)) == len(names):  # else the last one of a kind counts
        np.testing.assert_array_equal(*frames)


def test_a_look_does_not_depend_on_what_else_is_shifted() -> None:
    """The rectangle is where it is alone."""
    settings = (configured("occlusion"), all_of(["occlusion", "delay"]))
    first = []
    for setting in settings:
        with looking("pendulum", setting) as env:
            first.append(env.reset(seed=5)[0])
    np.testing.assert_array_equal(*first)


@pytest.mark.parametrize(
    ("overrides", "label"),
    [
        ([], ""),
        (["shift=none"], ""),
        (["shift=noise"], "-noise"),
        (["shift=[noise,blur]", "shift.noise.severity=5"], "-noise-blur"),
        (["shift=[none,delay]"], "-delay"),
    ],
)
def test_shifts_are_chosen_together_and_label_the_run(overrides: list[str], label: str) -> None:
    config = composed(*overrides)
    assert config["label"] == f"curl-crop-infonce{label}"
    assert config["run_dir"] == f"runs/cartpole_swingup/curl-crop-infonce{label}/seed_1"
    if "shift.noise.severity=5" in overrides:
        assert config["shift"] == {
            "noise": {"label": "noise", "severity": 5},
            "blur": {"label": "blur", "severity": 3},
        }


# -- a run -----------------------------------------------------------------------------------------


def test_a_run_under_shifts_resumes_exactly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Within an episode, whose frames are drawn again from its seed and its actions."""
    settings = SETTINGS | {"replay.capacity": 100, "initial_steps": 5, "checkpoint_every": 300}
    overrides = [f"{key}={value}" for key, value in settings.items()]
    together = ",".join(name for name in SHIFTED if not name.endswith("_hard"))
    config = composed(*overrides, f"shift=[{together}]")
    assert len(config["shift"]) == len({key for name in SHIFTED for key in configured(name)})
    frames = []
    for folder, budgets in (("whole", [1600]), ("resumed", [700, 1600])):
        for budget in budgets:
            run = config | {"env_steps": budget, "run_dir": str(tmp_path / folder)}
            assert train(run) == 0
        found = Checkpoints(tmp_path / folder).load()
        assert found is not None
        frames.append(np.concatenate([part["frames"].numpy() for part in found[1]]))
    assert "a new episode begins" not in caplog.text
    np.testing.assert_array_equal(*frames)
    whole, resumed = (
        [row for row in timeless(tmp_path / folder) if row["kind"] in ("train", "episode")]
        for folder in ("whole", "resumed")
    )
    assert whole == resumed


def test_a_run_of_a_version_without_shifts_has_none() -> None:
    from curl.schema import checked, complete

    config = composed()
    old = {key: value for key, value in config.items() if key != "shift"}
    assert checked(old)["shift"] == {}
    assert complete(old) == complete(config)


# -- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIFTED)
def test_a_file_is_named_as_its_label_and_sets_every_argument(name: str) -> None:
    """Defaults live in YAML alone."""
    ((file, settings),) = configured(name).items()
    assert settings["label"] == name
    arguments = inspect.signature(kind(name)).parameters
    assert list(settings)[1:] == list(arguments)
    assert all(p.default is p.empty for p in arguments.values())
    assert name == file or name.startswith(f"{file}_")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_knob_has_a_comment(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ")
    for line in lines:
        if ": " in line and not line.strip().startswith(("#", "label:")):
            assert " # " in line, line


def test_every_shift_is_configured() -> None:
    folder = Path(shifts.__file__).parent
    files = {path.stem for path in folder.glob("*.py")} - {"__init__", "base"}
    assert files == {file for name in SHIFTED for file in configured(name)}


def test_a_sheet_of_them_can_be_compared() -> None:
    """The labels of all are distinct, since reports tell runs apart by them."""
    labels = [next(iter(configured(name).values()))["label"] for name in SHIFTED]
    assert len(set(labels)) == len(labels)
