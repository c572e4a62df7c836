"""Other backgrounds: the robot's own pixels stay, and those behind it become a moving picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
from PIL import Image

from curl import shifts
from curl.data.environment import make_env
from curl.schema import SettingsError
from curl.shifts.background import is_floor, over
from support.looks import configured, episode, looking

pytestmark = pytest.mark.filterwarnings("ignore:.*DISPLAY environment variable:Warning")

TASKS = ("cartpole_swingup", "ball_in_cup_catch", "walker_walk", "half_cheetah")


def settings(name: str, **other: Any) -> dict[str, dict[str, Any]]:
    return {"background": configured(name)["background"] | other}


def solid(mask: np.ndarray) -> np.ndarray:
    """Pixels all of whose neighbours are set too: those that no edge runs through."""
    padded = np.pad(mask, 1)
    height, width = mask.shape
    windows = [padded[r : r + height, c : c + width] for r in range(3) for c in range(3)]
    return np.logical_and.reduce(windows)


@pytest.mark.parametrize("name", ["background_easy", "background_hard"])
@pytest.mark.parametrize("task", TASKS)
def test_the_robot_stays_and_the_background_changes(name: str, task: str) -> None:
    """By MuJoCo's own segmentation; edges apart, which a frame shows mixed with what is behind."""
    floor = configured(name)["background"]["floor"]
    with looking(task, size=84) as plain, looking(task, settings(name), size=84) as env:
        for seed in (0, 1):
            for look in (plain, env):
                look.reset(seed=seed)
            scene = plain.get_wrapper_attr("scene")
            for step in range(3):
                before, after = (look.render().astype(int) for look in (plain, env))  # pyright: ignore
                geoms = scene.visible_geoms(84)
                model = scene.model
                behind = [-1, *(np.flatnonzero(is_floor(model)) if floor else [])]
                replaced = np.isin(geoms, behind)
                robot, sky = solid(~replaced), solid(replaced)
                assert robot.sum() > 0 and sky.sum() > 500
                np.testing.assert_array_equal(after[robot], before[robot])
                changed = np.abs(after - before)[sky].sum(axis=1) > 3
                assert changed.mean() > 0.8, (seed, step)
                for look in (plain, env):
                    look.step(np.ones(env.action_space.shape, np.float32))  # pyright: ignore


@pytest.mark.parametrize("task", TASKS)
def test_edges_have_no_fringe_of_the_old_background(task: str, tmp_path: Path) -> None:
    """Before a black picture and before a white one, each pixel differs by what is free of it."""
    seen = {}
    for colour in (0, 255):
        folder = tmp_path / str(colour)
        folder.mkdir()
        Image.new("RGB", (8, 8), (colour, colour, colour)).save(folder / "a.png")
        with looking(task, settings("background_hard", folder=str(folder)), size=84) as env:
            seen[colour] = env.reset(seed=0)[0].astype(int)
            scene = env.get_wrapper_attr("scene")
            free = 255 - scene.coverage(84, is_floor(scene.model)).astype(int)
    assert 0 < np.mean((free > 0) & (free < 255)) < 0.2
    np.testing.assert_allclose((seen[255] - seen[0])[..., 0], free, atol=1)
    # What is free of the robot is black, and not the old floor or sky.
    assert seen[0][free == 255].max() == 0
    assert np.all(
        seen[0][(free > 0) & (free < 255)] <= 255 - free[(free > 0) & (free < 255)][:, None] + 1
    )


@pytest.mark.parametrize("task", ["cartpole_swingup", "half_cheetah"])
@pytest.mark.parametrize("name", ["background_easy", "background_hard"])
def test_pictures_move_with_time_alone(name: str, task: str) -> None:
    """They move while nothing else does, and stand still at speed 0."""
    moved = {}
    for speed in (0.0, 0.25, 1.0):
        with looking(task, settings(name, speed=speed)) as env:
            env.reset(seed=2)
            (shift,) = env.get_wrapper_attr("look").shifts.values()
            scene = env.get_wrapper_attr("scene")
            frames = []
            for time in (0, 8, 16):
                with shift.applied(scene, time, 48):
                    frames.append(shift.behind(np.array(scene.draw(48)), scene, time).astype(int))
            moved[speed] = [np.abs(frame - frames[0]).mean() for frame in frames[1:]]
    assert moved[0.0] == [0, 0]
    assert 0 < moved[0.25][0] < moved[1.0][1] and moved[0.25][1] > 0


def test_a_display_shows_the_same_picture() -> None:
    with looking("walker_walk", settings("background_hard"), size=64) as env:
        for seed in range(3):
            small = env.reset(seed=seed)[0].astype(float)
            large = env.get_wrapper_attr("display")()
            assert large.shape == (256, 256, 3)
            coarse = large.reshape(64, 4, 64, 4, 3).mean(axis=(1, 3))
            assert np.abs(coarse - small).mean() < 8


def test_the_file_of_an_episode_comes_from_its_seed(tmp_path: Path) -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    for number, colour in enumerate(colours):
        Image.new("RGB", (9, 9), colour).save(tmp_path / f"{number}.png")
    seen = {}
    with (
        looking("cartpole_swingup", settings("background_hard", folder=str(tmp_path))) as env,
        looking("cartpole_swingup", settings("background_hard", folder=str(tmp_path))) as beside,
    ):
        for seed in range(8):
            first = env.reset(seed=seed)[0]
            np.testing.assert_array_equal(beside.reset(seed=seed)[0], first)
            seen[seed] = tuple(first[0, 0].tolist())
    assert set(seen.values()) == set(colours)


def test_two_environments_with_other_looks_do_not_disturb_one_another() -> None:
    with looking("walker_walk", settings("background_hard")) as one:
        alone = episode(one)[0]
        with looking("walker_walk", settings("background_easy")) as other:
            one.reset(seed=3)
            other.reset(seed=3)
            both = episode(other)[0]
            np.testing.assert_array_equal(episode(one)[0], alone)
            np.testing.assert_array_equal(episode(other)[0], both)


@pytest.mark.parametrize("task", ["reacher_easy", "fish_swim", "humanoid_walk"])
def test_a_camera_that_sees_no_sky_is_refused_in_one_line(task: str) -> None:
    refused = pytest.raises(ValueError, match=r"^shift\.background: .* sees no sky; ")
    with refused as caught, looking(task, settings("background_easy")):
        pass
    assert "\n" not in str(caught.value)
    with looking(task, settings("background_hard")) as env:
        assert len(np.unique(env.reset(seed=0)[0].reshape(-1, 3), axis=0)) > 10


def test_gymnasium_environments_are_looked_at_as_they_begin() -> None:
    """Before the first reset their bodies would lie in one point, and the floor be unseen."""
    shift = settings("background_easy")
    make_env(env_id="Walker2d-v5", action_repeat=4, render_size=48, shift=shift).close()
    with pytest.raises(ValueError, match="the camera of Swimmer-v5 sees no sky"):
        make_env(env_id="Swimmer-v5", action_repeat=4, render_size=48, shift=shift)


FLOORS = """
<mujoco>
  <statistic extent="4"/>
  <asset><hfield name="hills" nrow="2" ncol="2" size="1 1 1 1"/></asset>
  <worldbody>
    <geom name="plane" type="plane" size="1 1 1"/>
    <geom name="hills" type="hfield" hfield="hills"/>
    <geom name="wall" type="box" size="3 0.1 1" pos="0 3 0"/>
    <geom name="slab" type="box" size="2 2 0.1" pos="0 0 -3"/>
    <geom name="target" type="sphere" size="2"/>
    <geom name="rail" type="capsule" size="0.02 3"/>
    <geom name="beam" type="box" size="3 0.1 0.1"/>
    <geom name="base" type="box" size="0.3 0.3 0.3"/>
    <body name="fixed"><geom name="fixed wall" type="box" size="0.1 3 3"/></body>
    <body name="robot"><freejoint/><geom name="torso" type="box" size="3 3 3"/></body>
  </worldbody>
</mujoco>
"""


def test_floor_is_what_stands_still_and_is_wide() -> None:
    model = mujoco.MjModel.from_xml_string(FLOORS)
    names = {model.geom(int(geom)).name for geom in np.flatnonzero(is_floor(model))}
    assert names == {"plane", "hills", "wall", "slab", "fixed wall"}


def test_over_keeps_what_is_covered_and_shows_the_picture_elsewhere() -> None:
    drawn = np.array([[[200, 100, 50], [100, 50, 25], [9, 9, 9]]], np.uint8)
    covered = np.array([[255, 128, 0]], np.uint8)
    picture = np.full((1, 3, 3), 255, np.uint8)
    mixed = over(drawn, covered, picture)
    np.testing.assert_array_equal(mixed, [[[200, 100, 50], [227, 177, 152], [255, 255, 255]]])


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"folder": "nowhere"}, "shift.background.folder 'nowhere' is no folder"),
        ({"speed": -1.0}, "shift.background.speed must lie in [0, inf)"),
        ({"floor": "yes please"}, "shift.background.floor"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(other: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        shifts.make(settings("background_easy", **other))
    assert said in str(caught.value) and "\n" not in str(caught.value)
