"""Cameras: how far they move, that they show the robot, and that they stay above the floor."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from curl import shifts
from curl.data.environment import make_env
from curl.schema import SettingsError
from curl.shifts.camera import Camera, floor_of, rotation
from support.looks import looking

TASKS = ("cartpole_swingup", "half_cheetah", "reacher_easy")  # from the side and from above
NOTHING = {"angle": 0.0, "roll": 0.0, "nearer": 0.0, "farther": 0.0, "field_of_view": 0.0}
ALL = {"angle": 27.0, "roll": 20.0, "nearer": 0.15, "farther": 0.45, "field_of_view": 0.15}
SEEDS = range(40)

pytestmark = pytest.mark.filterwarnings("ignore:.*DISPLAY environment variable:Warning")


@pytest.fixture(scope="module")
def scenes() -> Iterator[dict[str, Any]]:
    with contextlib.ExitStack() as stack:
        envs = {task: stack.enter_context(looking(task)) for task in TASKS}
        for env in envs.values():
            env.reset(seed=0)
        yield {task: env.get_wrapper_attr("scene") for task, env in envs.items()}


def pose(scene: Any) -> tuple[np.ndarray, np.ndarray, float]:
    """Place [3], axes [3, 3] and field of view, degrees, of the camera that draws."""
    number = scene.camera
    axes = scene.data.cam_xmat[number].reshape(3, 3).copy()
    return scene.data.cam_xpos[number].copy(), axes, float(scene.model.cam_fovy[number])


def shifted(scene: Any, seed: int, **changes: float) -> tuple[np.ndarray, np.ndarray, float]:
    camera = Camera(**(NOTHING | changes))
    camera.begin(np.random.SeedSequence(seed))
    with camera.applied(scene, 0, 48):
        return pose(scene)


def circled(scene: Any) -> tuple[np.ndarray, float]:
    """The point on the line of sight that a zoom shows, and the distance to it."""
    place, axes, _ = pose(scene)
    nearer, _, _ = shifted(scene, 0, nearer=0.5)
    camera = Camera(**(NOTHING | {"nearer": 0.5}))
    camera.begin(np.random.SeedSequence(0))
    distance = float(np.linalg.norm(nearer - place)) / (1 - camera.zoom)
    return place - distance * axes[:, 2], distance


def degrees(cosine: Any) -> float:
    return math.degrees(math.acos(min(max(float(cosine), -1.0), 1.0)))


@pytest.mark.parametrize("task", TASKS)
def test_a_camera_moves_as_far_as_it_may_and_looks_at_the_same_point(
    task: str, scenes: dict[str, Any]
) -> None:
    scene = scenes[task]
    pivot, distance = circled(scene)
    _, axes, view = pose(scene)
    angles, zooms, views = [], [], []
    for seed in SEEDS:
        place, turned, its_view = shifted(scene, seed, **ALL)
        np.testing.assert_allclose(turned @ turned.T, np.eye(3), atol=1e-9)
        far = float(np.linalg.norm(place - pivot))
        np.testing.assert_allclose(place - far * turned[:, 2], pivot, atol=1e-6 + 1e-6 * distance)
        angles.append(degrees(axes[:, 2] @ turned[:, 2]))
        zooms.append(far / distance)
        views.append(its_view / view)
    both = degrees(math.cos(math.radians(27)) ** 2)  # horizontally and vertically at once
    assert 20 < max(angles) <= both + 1e-3
    assert 0.85 - 1e-6 <= min(zooms) < 0.95 and 1.35 < max(zooms) <= 1.45 + 1e-6
    assert 0.85 - 1e-6 <= min(views) < 0.9 and 1.1 < max(views) <= 1.15 + 1e-6


@pytest.mark.parametrize("task", TASKS)
def test_a_roll_turns_about_the_line_of_sight_alone(task: str, scenes: dict[str, Any]) -> None:
    place, axes, _ = pose(scenes[task])
    rolls = []
    for seed in SEEDS:
        its_place, turned, _ = shifted(scenes[task], seed, roll=20.0)
        np.testing.assert_allclose(its_place, place, atol=1e-9)
        np.testing.assert_allclose(turned[:, 2], axes[:, 2], atol=1e-9)
        rolls.append(degrees(axes[:, 0] @ turned[:, 0]))
    assert 15 < max(rolls) <= 20 + 1e-6 and min(rolls) < 5


@pytest.mark.parametrize("task", TASKS)
def test_no_camera_goes_below_the_floor(task: str, scenes: dict[str, Any]) -> None:
    scene = scenes[task]
    floor = floor_of(scene.model, scene.data)
    assert math.isfinite(floor)
    heights = [shifted(scene, seed, angle=80.0, farther=2.0)[0][2] for seed in SEEDS]
    assert min(heights) > floor


def test_a_camera_that_does_not_move_draws_the_same_frame() -> None:
    for task in TASKS:
        with looking(task) as plain, looking(task, {"camera": NOTHING}) as env:
            np.testing.assert_array_equal(env.reset(seed=1)[0], plain.reset(seed=1)[0])


def test_a_free_camera_moves_too_and_is_put_back() -> None:
    """Gymnasium's Reacher has no camera."""
    frames = {}
    for name, shift in (("plain", {}), ("moved", {"camera": ALL}), ("still", {"camera": NOTHING})):
        env = make_env(env_id="Reacher-v5", action_repeat=1, render_size=48, shift=shift)
        try:
            frames[name] = [env.reset(seed=seed)[0] for seed in (1, 2, 1)]
            scene = env.get_wrapper_attr("scene")
            assert scene.camera == -1
            if name == "moved":
                camera, vis = scene.free_camera(48), scene.model.vis.global_
                before = camera.azimuth, camera.elevation, camera.distance, vis.fovy
                look = env.get_wrapper_attr("look")
                with look.applied(scene, 0, 48):
                    azimuth, elevation, distance, fovy = (
                        camera.azimuth,
                        camera.elevation,
                        camera.distance,
                        vis.fovy,
                    )
                assert 0 < abs(azimuth - before[0]) <= 27
                assert 0 < abs(elevation - before[1]) <= 27
                assert 0.85 <= distance / before[2] <= 1.45 and distance != before[2]
                assert 0.85 <= fovy / before[3] <= 1.15 and fovy != before[3]
                assert (camera.azimuth, camera.elevation, camera.distance, vis.fovy) == before
        finally:
            env.close()
    np.testing.assert_array_equal(frames["still"], frames["plain"])
    np.testing.assert_array_equal(frames["moved"][0], frames["moved"][2])
    assert all((m != p).any() for m, p in zip(frames["moved"], frames["plain"], strict=True))


@pytest.mark.parametrize("axis", range(3))
def test_rotations_turn_counter_clockwise(axis: int) -> None:
    turned = rotation(axis, 90) @ np.eye(3)[(axis + 1) % 3]
    np.testing.assert_allclose(turned, np.eye(3)[(axis + 2) % 3], atol=1e-12)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"angle": 91.0}, "shift.camera.angle must lie in [0, 90]"),
        ({"roll": -1.0}, "shift.camera.roll must lie in [0, 180]"),
        ({"nearer": 1.0}, "shift.camera.nearer must lie in [0, 0.9]"),
        ({"farther": -0.1}, "shift.camera.farther must lie in [0, inf)"),
        ({"field_of_view": 1.0}, "shift.camera.field_of_view must lie in [0, 0.9]"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        shifts.make({"camera": NOTHING | changes})
    assert said in str(caught.value) and "\n" not in str(caught.value)
