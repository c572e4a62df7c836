"""Colours: how far they go, what has which, what is uploaded, and that environments keep apart."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from curl import shifts
from curl.schema import SettingsError
from curl.shifts.base import Walk
from curl.shifts.color import (
    EDGE,
    Color,
    first_of_equals,
    repainted,
    shrunk,
    surfaces_of,
    textures_of,
)
from support.looks import configured, episode, looking

TASKS = ("cartpole_swingup", "half_cheetah")
SEEDS = range(12)

pytestmark = pytest.mark.filterwarnings("ignore:.*DISPLAY environment variable:Warning")


def settings(**changes: Any) -> dict[str, dict[str, Any]]:
    return {"color": {"reach": 0.2, "contrast": 0.0, "drift": 0.0} | changes}


@pytest.fixture(scope="module")
def scenes() -> Iterator[dict[str, Any]]:
    """What is drawn of each task. Its textures may be painted: compare none of its frames."""
    with contextlib.ExitStack() as stack:
        envs = {task: stack.enter_context(looking(task)) for task in TASKS}
        for env in envs.values():
            env.reset(seed=0)
        yield {task: env.get_wrapper_attr("scene") for task, env in envs.items()}


def begun(scene: Any, seed: int, **changes: Any) -> Color:
    """The colours of an episode."""
    shift = Color(**settings(**changes)["color"])
    shift.begin(np.random.SeedSequence(seed))
    with shift.applied(scene, 0, 48):
        return shift


def color_of(env: gym.Env[Any, Any]) -> Color:
    shift = env.get_wrapper_attr("look").shifts["color"]
    assert isinstance(shift, Color)
    return shift


def painted(shift: Color, time: int = 0) -> list[np.ndarray]:
    """Colours of the textures, the materials and the geoms that are seen."""
    assert shift.walk is not None
    parts = [len(shift.textures), shift.model.nmat]
    textures, *rest = np.split(shift.walk.at(time), np.cumsum(parts))
    return [textures, *(p[seen] for p, seen in zip(rest, shift.surfaces, strict=True))]


def own(shift: Color) -> list[np.ndarray]:
    """As the model has them."""
    model, (materials, geoms) = shift.model, shift.surfaces
    textures = np.array([texture.mean for texture in shift.textures])
    return [textures, model.mat_rgba[materials, :3], model.geom_rgba[geoms, :3]]


# -- how far ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("reach", [0.1, 0.2, 0.5, 1.0])
def test_colours_lie_within_reach_and_use_all_of_it(
    task: str, reach: float, scenes: dict[str, Any]
) -> None:
    nearest, farthest = 1.0, 0.0
    for seed in SEEDS:
        shift = begun(scenes[task], seed, reach=reach)
        for before, after in zip(own(shift), painted(shift), strict=True):
            assert np.all((after >= 0) & (after <= 1))
            assert np.all(np.abs(after - before) <= reach + 1e-6)
            if before.size:
                nearest = min(nearest, np.abs(after - before).min())
                farthest = max(farthest, np.abs(after - before).max())
    assert nearest < 0.1 * reach and farthest > min(0.85 * reach, 0.6)


@pytest.mark.parametrize("task", TASKS)
def test_what_is_drawn_has_these_colours(task: str) -> None:
    """While a frame is drawn the model has them; where nothing has its own, it does not change."""
    with looking(task, settings(reach=1.0)) as env:
        env.reset(seed=3)
        shift, scene = color_of(env), env.get_wrapper_attr("scene")
        model = scene.model
        with shift.applied(scene, 0, 48):
            inside = model.mat_rgba.copy(), model.geom_rgba.copy()
        after = model.mat_rgba, model.geom_rgba
        for changed, same, seen, colours in zip(
            inside, after, shift.surfaces, painted(shift)[1:], strict=True
        ):
            np.testing.assert_array_equal(changed[seen, :3], colours.astype(np.float32))
            np.testing.assert_array_equal(changed[~seen], same[~seen])
            np.testing.assert_array_equal(changed[:, 3], same[:, 3])  # opacity
        assert sum(seen.sum() for seen in shift.surfaces) > 0


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("reach", "contrast"), [(1.0, 0.4), (0.2, 0.2)])
def test_all_else_differs_from_the_textures(
    task: str, reach: float, contrast: float, scenes: dict[str, Any]
) -> None:
    """Nearly always where any colour may be chosen; elsewhere it is no nearer than without."""
    least = []
    for value in (contrast, 0.0):
        apart = []
        for seed in SEEDS:
            textures, *others = painted(begun(scenes[task], seed, reach=reach, contrast=value))
            others = np.concatenate(others)
            apart.append(np.linalg.norm(others[:, None] - textures, axis=2).min())
        least.append(np.array(apart))
    assert np.mean(least[0] >= contrast) >= (0.9 if reach == 1 else 0.5)
    assert np.mean(least[0]) >= np.mean(least[1])


def test_geoms_of_one_colour_keep_one(scenes: dict[str, Any]) -> None:
    shift = begun(scenes["half_cheetah"], 0, reach=1.0)
    before, after = own(shift)[2], painted(shift)[2]
    assert len(np.unique(before, axis=0)) == len(np.unique(after, axis=0)) == 2
    for colour in np.unique(before, axis=0):
        assert len(np.unique(after[(before == colour).all(axis=1)], axis=0)) == 1


def test_the_first_of_equal_colours_stands_for_all() -> None:
    colours = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 1, 0]])
    np.testing.assert_array_equal(first_of_equals(colours), [0, 1, 0, 3, 1])


@pytest.mark.parametrize("task", TASKS)
def test_hard_changes_more_than_easy(task: str) -> None:
    with looking(task) as env:
        plain = np.stack([env.reset(seed=seed)[0] for seed in range(5)]).astype(int)
    change = {}
    for name in ("color_easy", "color_hard"):
        with looking(task, configured(name)) as env:
            frames = np.stack([env.reset(seed=seed)[0] for seed in range(5)])
        change[name] = np.abs(frames - plain).mean()
    assert 5 < change["color_easy"] < change["color_hard"] < 160


# -- textures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, 0.1, 0.4, 0.5, 1.0])
@pytest.mark.parametrize("shades", [(0, 204), (26, 51), (0, 255), (100, 100)])
def test_a_pattern_keeps_its_mean_and_its_order(value: float, shades: tuple[int, int]) -> None:
    texels = np.repeat(np.array(shades, np.uint8), 50)
    after = repainted(texels.mean() / 255, texels, value)[texels]
    assert after.mean() / 255 == pytest.approx(value, abs=0.5 / 255)
    low, high = int(after[0]), int(after[-1])
    room = 2 * 255 * min(value, 1 - value)
    assert high - low == pytest.approx(min(shades[1] - shades[0], room), abs=1)


@pytest.mark.parametrize(
    ("height", "width", "factor"),
    [(4800, 800, 5), (300, 300, 1), (600, 100, 1), (1, 1, 1), (512, 512, 2), (762, 127, 1)],
)
def test_textures_are_shrunk_by_a_whole_factor(height: int, width: int, factor: int) -> None:
    texels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    small = shrunk(texels)
    assert small.shape == (height // factor, width // factor, 3)
    assert factor == 1 or min(small.shape[:2]) >= EDGE
    first = texels[:factor, :factor].reshape(-1, 3).mean(axis=0)
    np.testing.assert_allclose(small[0, 0], first, atol=0.51)


@pytest.mark.parametrize("task", TASKS)
def test_the_sky_and_the_floor_take_their_colours(task: str) -> None:
    """As MuJoCo draws them: nothing lights the sky, and so its pixels are its texels."""
    with looking(task) as env:
        env.reset(seed=3)
        sky = env.get_wrapper_attr("scene").visible_geoms(48) == -1
        sky[10:] = False  # farther down haze and edges of geoms are mixed with it
        plain = env.render()
    assert sky.sum() > 100
    with looking(task, settings(reach=1.0)) as env:
        for seed in range(6):
            env.reset(seed=seed)
            shift, model = color_of(env), env.get_wrapper_attr("scene").model
            (number,) = [i for i, t in enumerate(shift.textures) if model.tex_type[t.number] == 2]
            texture, colour = shift.textures[number], painted(shift)[0][number]
            with texture.painted(model, colour):
                height, width = model.tex_height[texture.number], model.tex_width[texture.number]
                begin = model.tex_adr[texture.number]
                texels = model.tex_data[begin : begin + 3 * height * width].astype(int)
                texels = texels.reshape(-1, 3)
            shown = env.render()[sky]  # pyright: ignore
            assert np.all(shown >= texels.min(axis=0) - 2)
            assert np.all(shown <= texels.max(axis=0) + 2)
            assert (shown != plain[sky]).any()  # pyright: ignore


@pytest.mark.parametrize("task", TASKS)
def test_a_texture_is_uploaded_when_its_colour_changes_and_not_before(
    task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for drift, per_frame in ((0.0, 0), (0.03, 1)):
        with looking(task, settings(drift=drift)) as env:
            env.reset(seed=0)
            scene, uploads = env.get_wrapper_attr("scene"), []
            upload = scene.upload
            monkeypatch.setattr(scene, "upload", lambda t, u=upload, n=uploads: (n.append(t), u(t)))
            count = len(color_of(env).textures)
            env.reset(seed=1)
            assert len(uploads) == count
            for frames in range(1, 4):
                env.step(env.action_space.sample())
                env.render()  # the same once more
                assert len(uploads) == count * (1 + per_frame * frames)


def test_a_new_context_gets_the_colours_too() -> None:
    """dm_control makes one anew for a frame that is larger than all before."""
    with looking("cartpole_swingup", settings(reach=1.0)) as env:
        first = env.reset(seed=3)[0]
        scene = env.get_wrapper_attr("scene")
        old = scene.context
        scene.bare.physics._free_rendering_contexts()
        assert scene.context is not old
        np.testing.assert_array_equal(env.render(), first)  # pyright: ignore


# -- models ----------------------------------------------------------------------------------------


def test_a_model_without_materials_or_textures_has_colours_too() -> None:
    import mujoco

    model = mujoco.MjModel.from_xml_string(  # pyright: ignore
        "<mujoco><worldbody><geom size='1'/><geom size='1' rgba='1 0 0 1'/></worldbody></mujoco>"
    )
    assert textures_of(model) == []
    materials, geoms = surfaces_of(model)
    assert materials.shape == (0,) and geoms.tolist() == [True, True]


def test_a_geom_has_the_colour_of_its_material_unless_it_has_its_own() -> None:
    import mujoco

    model = mujoco.MjModel.from_xml_string(  # pyright: ignore
        """<mujoco><asset>
        <texture name="t" type="2d" builtin="flat" width="8" height="8" rgb1="1 0 0"/>
        <material name="textured" texture="t"/><material name="plain" rgba="0 1 0 1"/>
        </asset><worldbody>
        <geom size="1" material="textured"/><geom size="1" material="textured" rgba="1 1 0 1"/>
        <geom size="1" material="plain"/><geom size="1" material="plain" rgba="1 1 0 1"/>
        <geom size="1"/></worldbody></mujoco>"""
    )
    materials, geoms = surfaces_of(model)
    assert materials.tolist() == [False, True]
    assert geoms.tolist() == [False, False, False, True, True]
    (texture,) = textures_of(model)
    np.testing.assert_array_equal(texture.mean, [1, 0, 0])


# -- drift -----------------------------------------------------------------------------------------


def test_a_walk_stays_within_its_bounds_and_has_the_step_that_it_says() -> None:
    low, high = np.full(2000, 0.3), np.full(2000, 0.7)
    walk = Walk(np.full(2000, 0.5), low, high, 0.01, np.random.default_rng(0))
    path = np.array([walk.at(time) for time in range(300)])
    assert path.min() >= 0.3 and path.max() <= 0.7
    assert (path[-1] == 0.3).any() and (path[-1] == 0.7).any()  # clipped, and not reflected
    assert np.std(path[1] - path[0]) == pytest.approx(0.01, rel=0.05)
    assert np.std(path[4] - path[0]) == pytest.approx(0.02, rel=0.05)


def test_a_walk_is_a_function_of_the_time() -> None:
    def walk(deviation: float = 0.1) -> Walk:
        start = np.zeros((2, 3))
        return Walk(start, start - 1, start + 1, deviation, np.random.default_rng(0))

    once, again = walk(), walk()
    far = once.at(50)
    for time in (7, 0, 50, 49):
        np.testing.assert_array_equal(once.at(time), again.at(time))
    np.testing.assert_array_equal(again.at(50), far)
    np.testing.assert_array_equal(walk(0.0).at(1000), np.zeros((2, 3)))


@pytest.mark.parametrize("task", TASKS)
def test_colours_drift_within_reach_as_a_function_of_seed_and_time(task: str) -> None:
    shift = settings(reach=0.3, drift=0.03)
    with looking(task, shift) as env, looking(task, shift) as again:
        frames = episode(env, steps=6)[0]
        np.testing.assert_array_equal(episode(again, steps=6)[0], frames)
        color = color_of(env)
        colours = [np.concatenate(painted(color, time)) for time in (0, 8, 800)]
        steps = [np.abs(after - colours[0]).mean() for after in colours[1:]]
        assert 0 < steps[0] < 0.3 * 0.03 * np.sqrt(8) * 2 < steps[1]
        before = np.concatenate(own(color))
        assert np.abs(colours[2] - before).max() <= 0.3 + 1e-6
    with looking(task, settings(reach=0.3)) as env:
        constant = episode(env, steps=6)[0]
    np.testing.assert_array_equal(frames[0], constant[0])
    assert (frames[-1] != constant[-1]).any()


# -- neighbours ------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("drift", [0.0, 0.03])
def test_environments_keep_their_own_colours(task: str, drift: float) -> None:
    """Drawn in turns, with other seeds; one of them is not shifted."""
    looks = [settings(reach=1.0, drift=drift), settings(reach=1.0, drift=drift), None]
    alone = []
    for seed, look in enumerate(looks):
        with looking(task, look) as env:
            alone.append(episode(env, seed=seed)[0])
    with (
        looking(task, looks[0]) as first,
        looking(task, looks[1]) as second,
        looking(task, looks[2]) as third,
    ):
        envs = (first, second, third)
        actions = []
        for seed, env in enumerate(envs):
            np.testing.assert_array_equal(env.reset(seed=seed)[0], alone[seed][0])
            shape = (4, *(env.action_space.shape or ()))
            actions.append(np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32))
        for step in range(4):
            for seed, env in enumerate(envs):
                frame = env.step(actions[seed][step])[0]
                np.testing.assert_array_equal(frame, alone[seed][step + 1])


# -- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"reach": 0.0}, "shift.color.reach must lie in (0, 1]"),
        ({"reach": 1.5}, "shift.color.reach must lie in (0, 1]"),
        ({"contrast": -0.1}, "shift.color.contrast must lie in [0, 1.73205]"),
        ({"drift": 2.0}, "shift.color.drift must lie in [0, 1]"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        shifts.make(settings(**changes))
    assert said in str(caught.value) and "\n" not in str(caught.value)
