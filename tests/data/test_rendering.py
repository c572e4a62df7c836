"""What MuJoCo's scenes tell shifts: which geom is seen where, and how much of a pixel it covers."""

from __future__ import annotations

import contextlib
from typing import Any

import mujoco
import numpy as np
import pytest

from support.looks import looking

pytestmark = pytest.mark.filterwarnings("ignore:.*DISPLAY environment variable:Warning")

TASKS = ("finger_turn_easy", "walker_walk", "half_cheetah")
SIZE = 64


def begun(env: Any) -> Any:
    env.reset(seed=0)
    return env.get_wrapper_attr("scene")


@pytest.mark.parametrize("task", TASKS)
def test_visible_geoms_are_those_that_mujoco_sees(task: str) -> None:
    """Sky is -1 there and here; sites and tendons, which are no geoms, are -2 here."""
    with looking(task, size=SIZE) as env:
        scene = begun(env)
        found = scene.visible_geoms(SIZE)
        with contextlib.closing(mujoco.Renderer(scene.model, SIZE, SIZE)) as renderer:
            renderer.enable_segmentation_rendering()
            renderer.update_scene(scene.data, scene.camera)
            number, kind = np.moveaxis(renderer.render(), -1, 0)
        geom = (kind == mujoco.mjtObj.mjOBJ_GEOM) | (kind == -1)
        np.testing.assert_array_equal(found, np.where(geom, number, -2))
        assert set(np.unique(found)) >= {-1, 0, 1}
        assert task != "finger_turn_easy" or (found == -2).any()
        np.testing.assert_array_equal(scene.visible_geoms(SIZE), found)


@pytest.mark.parametrize("task", TASKS)
def test_what_is_covered_is_where_geoms_are_seen(task: str) -> None:
    with looking(task, size=SIZE) as env:
        scene = begun(env)
        geoms = scene.visible_geoms(SIZE)
        for chosen in ([], [0], [0, 1, 2]):
            without = np.isin(np.arange(scene.model.ngeom), chosen)
            covered = scene.coverage(SIZE, without)
            assert covered.shape == (SIZE, SIZE) and covered.dtype == np.uint8
            inside = ~np.isin(geoms, [-1, *chosen])
            assert np.mean((covered >= 128) == inside) > 0.97
            assert {0, 255} < set(np.unique(covered)), "edges are antialiased"
            assert np.mean((covered == 0) | (covered == 255)) > 0.85


@pytest.mark.parametrize("task", TASKS)
def test_nothing_of_it_changes_frames(task: str) -> None:
    with looking(task, size=SIZE) as env:
        scene = begun(env)
        before = np.array(env.render())
        scene.visible_geoms(SIZE)
        np.testing.assert_array_equal(env.render(), before)  # pyright: ignore
        scene.coverage(SIZE, np.ones(scene.model.ngeom, bool))
        np.testing.assert_array_equal(env.render(), before)  # pyright: ignore
        with scene.without_sky():
            dark = np.array(env.render())
        sky = scene.visible_geoms(SIZE) == -1
        np.testing.assert_array_equal(env.render(), before)  # pyright: ignore
        assert np.median(dark[sky]) == 0 < np.median(before[sky])


def test_what_is_hidden_behind_something_is_not_covered() -> None:
    """All geoms but the floor count for nothing, but hide it."""
    with looking("walker_walk", size=SIZE) as env:
        scene = begun(env)
        without = np.arange(scene.model.ngeom) > 0
        covered, geoms = scene.coverage(SIZE, without), scene.visible_geoms(SIZE)
        assert np.mean(covered[geoms == 0] >= 128) > 0.97
        assert np.mean(covered[geoms > 0] < 128) > 0.9
