"""Every task of `configs/task`: its frames repeat, nothing outside changes them, the robot is seen.

One task per suite is tried in every run of the tests, all of them in the slow ones.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import pytest
import yaml

from curl.data.environment import environment_settings, make_env
from curl.data.rendering import DmControlScene, GymnasiumMujocoScene
from support.paths import CONFIGS

FILES = sorted((CONFIGS / "task").glob("*.yaml"))
TASKS = {path.stem: yaml.safe_load(path.read_text()) for path in FILES}
QUICK = ("cartpole_swingup", "half_cheetah", "pendulum")  # one per suite
OTHERS = ("dm_control/reacher-easy-v0", "Hopper-v5")  # opened in between
SIZE = 40

pytestmark = pytest.mark.filterwarnings("ignore:.*DISPLAY environment variable:Warning")


def parameter(name: str) -> Any:
    marks = [] if name in QUICK else [pytest.mark.slow]
    if TASKS[name]["env_id"] == "CarRacing-v3" and importlib.util.find_spec("Box2D") is None:
        marks.append(pytest.mark.skip("no Box2D"))
    return pytest.param(name, marks=marks)


EVERY = [parameter(name) for name in TASKS]
MUJOCO = [parameter(n) for n in TASKS if TASKS[n]["env_id"].startswith(("dm_control/", "Half"))]


@contextlib.contextmanager
def made(**settings: Any) -> Iterator[gym.Env]:
    defaults = {"action_repeat": 4, "render_size": SIZE, "shadow_size": 64}
    with contextlib.closing(make_env(**defaults | settings)) as env:
        yield env


def task(name: str) -> contextlib.AbstractContextManager[gym.Env]:
    config = {"task": TASKS[name], "render_size": SIZE, "shadow_size": 64}
    return made(**environment_settings(config, software=True))


def actions(env: gym.Env, count: int) -> np.ndarray:
    shape = (count, *env.action_space.shape)  # pyright: ignore
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def disturb() -> None:
    """Make, step and close environments of both ways of drawing with MuJoCo."""
    for env_id in OTHERS:
        with made(env_id=env_id) as other:
            other.reset(seed=7)
            other.step(actions(other, 1)[0])


def frames(env: gym.Env, between: Any = lambda: None) -> np.ndarray:
    """Six frames of an episode; `between` is called amid it."""
    shown = [env.reset(seed=3)[0]]
    for number, action in enumerate(actions(env, 5)):
        if number in (1, 3):
            between()
        shown.append(env.step(action)[0])
    return np.stack(shown)


@pytest.mark.parametrize("name", EVERY)
def test_instances_show_the_same_and_others_in_between_change_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    with task(name) as env, task(name) as again:
        undisturbed = frames(env)
        assert undisturbed.std((1, 2, 3)).min() > 0  # something is drawn in each
        np.testing.assert_array_equal(frames(again, disturb), undisturbed)
        np.testing.assert_array_equal(frames(env, disturb), undisturbed)


@pytest.mark.parametrize("env_id", [*OTHERS, "InvertedPendulum-v5"])
def test_mixed_libraries_draw_side_by_side(env_id: str) -> None:
    """Each draws in its own context, whichever was drawn, made or closed last."""
    with made(env_id=env_id) as env, contextlib.ExitStack() as stack:
        expected = frames(env)
        beside = [stack.enter_context(made(env_id=other)) for other in OTHERS]
        theirs = [frames(other) for other in beside]

        def step_beside() -> None:
            for other in beside:
                other.reset(seed=1)

        np.testing.assert_array_equal(frames(env, step_beside), expected)
        for other, before in zip(beside, theirs, strict=True):
            np.testing.assert_array_equal(frames(other), before)


# -- cameras -------------------------------------------------------------------------------------


def robot_pixels(env: Any) -> int:
    """How many of 100 x 100 pixels show something that moves (not floor, sky or goal)."""
    scene: Any = env.get_wrapper_attr("scene")
    if isinstance(scene, DmControlScene):
        data, camera = scene.bare.physics.data.ptr, scene.bare.render_kwargs["camera_id"]
    else:
        data, camera = scene.renderer.data, scene.renderer.camera_id
        camera = scene.renderer.viewer.cam if camera == -1 else camera
    with contextlib.closing(mujoco.Renderer(scene.model, 100, 100)) as renderer:
        renderer.enable_segmentation_rendering()
        renderer.update_scene(data, camera)
        objects, kinds = np.moveaxis(renderer.render(), -1, 0)
    geometry = 5  # mjOBJ_GEOM
    moving = scene.model.body_weldid[scene.model.geom_bodyid] != 0
    return int(moving[objects[kinds == geometry]].sum())


@pytest.mark.parametrize("name", MUJOCO)
def test_the_robot_stays_in_view_over_an_episode(name: str) -> None:
    with task(name) as env:
        env.reset(seed=5)
        seen, over, undrawn = [robot_pixels(env)], False, env.env  # steps without drawing
        chosen = np.random.default_rng(1).uniform(-1, 1, (500, *env.action_space.shape))
        for number, action in enumerate(chosen.astype(np.float32), 1):
            if not over:
                *_, terminated, truncated, _ = undrawn.step(action)
                over = terminated or truncated
                if number % 60 == 0 or over:
                    seen.append(robot_pixels(env))
        assert over and len(seen) > 3
        assert min(seen) >= 5, seen  # point_mass is a small ball


@pytest.mark.parametrize(
    "env_id",
    [
        "HalfCheetah-v5",
        "Hopper-v5",
        pytest.param("Walker2d-v5", marks=pytest.mark.slow),
        pytest.param("Ant-v5", marks=pytest.mark.slow),
        pytest.param("Humanoid-v5", marks=pytest.mark.slow),
        pytest.param("Swimmer-v5", marks=pytest.mark.slow),
    ],
)
def test_the_camera_follows_a_robot_that_walks_away(env_id: str) -> None:
    with made(env_id=env_id) as env:
        env.reset(seed=1)
        bare: Any = env.unwrapped
        here = robot_pixels(env)
        position = bare.data.qpos.copy()
        position[0] += 30
        bare.set_state(position, bare.data.qvel)
        assert here > 50 and robot_pixels(env) == pytest.approx(here, rel=0.3)


@pytest.mark.parametrize(
    "env_id",
    [
        "InvertedPendulum-v5",
        "Reacher-v5",
        pytest.param("InvertedDoublePendulum-v5", marks=pytest.mark.slow),
        pytest.param("Pusher-v5", marks=pytest.mark.slow),
    ],
)
def test_a_model_without_cameras_is_seen_from_the_same_place_each_time(env_id: str) -> None:
    with made(env_id=env_id) as env, made(env_id=env_id) as again:
        again.reset(seed=9)
        again.step(actions(again, 1)[0])
        np.testing.assert_array_equal(frames(again), frames(env))
        assert robot_pixels(env) > 20


def test_a_camera_is_chosen_by_its_number() -> None:
    shown = []
    for env_id in ("dm_control/cartpole-swingup-v0", "Humanoid-v5"):
        for camera in (None, 0, 1):
            with made(env_id=env_id, camera=camera) as env:
                shown.append(env.reset(seed=1)[0])
        first, zero, one = shown[-3:]
        np.testing.assert_array_equal(first, zero)
        assert (zero != one).any()


@pytest.mark.parametrize(
    ("env_id", "camera", "line"),
    [
        (
            "dm_control/cartpole-swingup-v0",
            2,
            "task.camera=2: dm_control/cartpole-swingup-v0 has the cameras 0 (fixed), "
            "1 (lookatcart)",
        ),
        ("Humanoid-v5", 9, "task.camera=9: Humanoid-v5 has the cameras 0 (track), 1 (unnamed)"),
        ("Reacher-v5", 0, "task.camera=0: Reacher-v5 has no cameras"),
        ("Pendulum-v1", 0, "task.camera=0: Pendulum-v1 has no cameras to choose from"),
        ("HalfCheetah-v5", -1, "task.camera must be an integer >= 0, got -1"),
        ("HalfCheetah-v5", "track", "task.camera must be an integer >= 0, got 'track'"),
    ],
)
def test_an_unknown_camera_is_refused_with_those_that_there_are(
    env_id: str, camera: Any, line: str
) -> None:
    with pytest.raises(ValueError) as caught, made(env_id=env_id, camera=camera):
        pass
    assert line in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [
        ("HalfCheetah-v5", {"camera_name": "track"}),
        ("HalfCheetah-v5", {"camera_id": 0}),
        ("dm_control/cartpole-swingup-v0", {"render_kwargs": {"camera_id": 1}}),
    ],
)
def test_a_camera_of_the_environments_own_arguments(env_id: str, kwargs: dict[str, Any]) -> None:
    with made(env_id=env_id, kwargs=kwargs) as env:
        camera = env.unwrapped.render_kwargs["camera_id"] if "cart" in env_id else 0
        with made(env_id=env_id, camera=camera) as other:
            np.testing.assert_array_equal(env.reset(seed=1)[0], other.reset(seed=1)[0])
    with (
        pytest.raises(ValueError, match=r"task.camera=0 and the camera .* set task.camera=null"),
        made(env_id=env_id, camera=0, kwargs=kwargs),
    ):
        pass


@pytest.mark.parametrize("env_id", ["dm_control/cheetah-run-v0", "HalfCheetah-v5"])
def test_the_shadow_map_is_as_large_as_asked_for(env_id: str) -> None:
    """Everywhere; a small one changes the frames next to nothing."""
    shown = {}
    for size in (None, 256):
        with made(env_id=env_id, shadow_size=size) as env:
            quality = env.get_wrapper_attr("scene").model.vis.quality
            assert quality.shadowsize == size or size is None
            shown[size] = frames(env).astype(float)
    assert np.abs(shown[256] - shown[None]).mean() < 1.5


@pytest.mark.parametrize("name", [p for p in MUJOCO if "half" not in p.values[0]])
def test_frames_are_dm_controls_own(name: str) -> None:
    """Cameras are kept from frame to frame, and made anew for a model that was compiled anew."""
    with task(name) as env:
        bare = env.unwrapped

        def own() -> np.ndarray:
            return bare.physics.render(**bare.render_kwargs)  # pyright: ignore

        np.testing.assert_array_equal(env.reset(seed=3)[0], own())
        for action in actions(env, 3):
            np.testing.assert_array_equal(env.step(action)[0], own())
        before = own()
        other = copy.copy(bare.physics.model)  # pyright: ignore
        other.geom_rgba[:] = [1, 0, 0, 1]
        bare.physics._reload_from_model(other)  # pyright: ignore
        shown = env.step(actions(env, 1)[0])[0]
        assert (shown != before).any()
        np.testing.assert_array_equal(shown, own())


def test_a_wrapper_of_the_environment_has_the_last_word() -> None:
    class Negative(gym.Wrapper):
        def render(self) -> Any:
            return 255 - self.env.render()  # pyright: ignore

    env_id = "dm_control/reacher-easy-v0"
    gym.register("negative-v0", lambda **kwargs: Negative(gym.make(env_id, **kwargs)))
    try:
        with made(env_id=env_id) as env, made(env_id="negative-v0") as wrapped:
            np.testing.assert_array_equal(255 - frames(wrapped), frames(env))
    finally:
        del gym.registry["negative-v0"]


@pytest.mark.parametrize("env_id", ["dm_control/cheetah-run-v0", "HalfCheetah-v5"])
def test_shadows_and_reflections_can_be_left_out(env_id: str) -> None:
    """Each changes the frames, in few places."""
    shown: dict[tuple[int, bool], np.ndarray] = {}
    for size, reflections in ((256, True), (0, True), (256, False), (0, False)):
        with made(env_id=env_id, shadow_size=size, reflections=reflections) as env:
            shown[size, reflections] = frames(env).astype(float)
    plain = shown.pop((0, False))
    assert (shown[256, False] - plain).min() < -50  # a shadow is darker than what it falls on
    assert np.abs(shown[0, True] - plain).max() > 50
    assert all(np.abs(frame - plain).mean() < 3 for frame in shown.values())


@pytest.mark.parametrize("env_id", ["dm_control/cheetah-run-v0", "HalfCheetah-v5", "Pendulum-v1"])
def test_frames_for_people_change_no_frame_for_the_agent(env_id: str) -> None:
    with made(env_id=env_id) as env:
        expected = frames(env)
        large = env.get_wrapper_attr("display")()
        assert large.shape[0] >= 256 and large.dtype == np.uint8 and large.std() > 5
        np.testing.assert_array_equal(
            frames(env, lambda: env.get_wrapper_attr("display")()), expected
        )


def test_a_broken_opengl_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """MuJoCo's scenes have a floor, a sky and a robot: one colour means that nothing was drawn."""
    black = np.zeros((SIZE, SIZE, 3), np.uint8)
    monkeypatch.setattr(GymnasiumMujocoScene, "draw", lambda self, size: black)
    monkeypatch.setattr(DmControlScene, "draw", lambda self, size: black)
    for env_id in OTHERS:
        with (
            pytest.raises(ValueError, match=rf"{env_id} is drawn in one colour, \[0, 0, 0\]"),
            made(env_id=env_id),
        ):
            pass
