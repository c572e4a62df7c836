"""Light: how far lights turn, how bright they are, and when there are shadows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from curl import shifts
from curl.schema import SettingsError
from curl.shifts.light import Light
from support.looks import looking

TASKS = ("cartpole_swingup", "half_cheetah")
NOTHING = {"angle": 0.0, "dimmest": 1.0, "brightest": 1.0, "shadowless": 0.0}
SEEDS = range(40)

pytestmark = pytest.mark.filterwarnings("ignore:.*DISPLAY environment variable:Warning")


def lights(scene: Any) -> dict[str, np.ndarray]:
    model, head = scene.model, scene.model.vis.headlight
    found = {part: getattr(model, f"light_{part}") for part in ("ambient", "diffuse", "specular")}
    found |= {f"head {part}": getattr(head, part) for part in ("ambient", "diffuse", "specular")}
    found |= {"place": scene.data.light_xpos, "direction": scene.data.light_xdir}
    return {k: v.copy() for k, v in (found | {"shadows": model.light_castshadow}).items()}


def shifted(scene: Any, seed: int, **changes: float) -> dict[str, np.ndarray]:
    light = Light(**(NOTHING | changes))
    light.begin(np.random.SeedSequence(seed))
    with light.applied(scene, 0, 48):
        return lights(scene)


@pytest.mark.parametrize("task", TASKS)
def test_light_changes_as_much_as_it_may(task: str) -> None:
    with looking(task) as env:
        env.reset(seed=0)
        scene = env.get_wrapper_attr("scene")
        before = lights(scene)
        angles, factors, shadows = [], [], []
        for seed in SEEDS:
            after = shifted(scene, seed, angle=45.0, dimmest=0.5, brightest=1.5, shadowless=0.5)
            cosines = np.sum(before["direction"] * after["direction"], axis=1)
            angles.extend(np.degrees(np.arccos(np.clip(cosines, -1, 1))))
            for part in ("diffuse", "head diffuse"):
                ratio = after[part] / before[part]
                np.testing.assert_allclose(ratio, ratio.flat[0], rtol=1e-5)
                factors.append(ratio.flat[0])
            np.testing.assert_allclose(
                after["head ambient"] / before["head ambient"], factors[-1], rtol=1e-5
            )
            shadows.append(after["shadows"].any())
            # It shines at the point at which it shone.
            moved = after["place"] - before["place"]
            turned = after["direction"] - before["direction"]
            if math.hypot(*turned[0]) > 1e-3:
                distance = -moved[0] @ turned[0] / (turned[0] @ turned[0])
                np.testing.assert_allclose(moved[0], -distance * turned[0], atol=1e-6)
                assert distance > 0
        for name, values in lights(scene).items():
            np.testing.assert_array_equal(values, before[name])
    assert 35 < max(angles) <= 45 + 1e-3 and min(angles) < 10
    assert 0.5 - 1e-6 <= min(factors) < 0.6 and 1.3 < max(factors) <= 1.5 + 1e-6
    assert 0.25 < np.mean(shadows) < 0.75


@pytest.mark.parametrize("task", TASKS)
def test_frames_become_no_brighter_and_no_darker_than_the_factors(task: str) -> None:
    shift = {"light": NOTHING | {"dimmest": 0.5, "brightest": 1.5}}
    with looking(task) as plain, looking(task, shift) as env:
        for seed in range(5):
            before, after = plain.reset(seed=seed)[0].astype(float), env.reset(seed=seed)[0]
            assert np.all(after <= 1.5 * before + 3) and np.all(after >= 0.5 * before - 3)
            assert (after != before).any()


def test_light_that_does_not_change_draws_the_same_frame() -> None:
    for task in TASKS:
        with looking(task) as plain, looking(task, {"light": NOTHING}) as env:
            np.testing.assert_array_equal(env.reset(seed=1)[0], plain.reset(seed=1)[0])


def test_shadows_that_are_off_stay_off() -> None:
    with looking("cartpole_swingup") as env:
        env.reset(seed=0)
        scene = env.get_wrapper_attr("scene")
        scene.simplify(0, True)
        assert not shifted(scene, 0)["shadows"].any()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"angle": 90.0}, "shift.light.angle must lie in [0, 80]"),
        ({"dimmest": 0.0}, "shift.light.dimmest must lie in (0, 1]"),
        ({"brightest": 0.9}, "shift.light.brightest must lie in [1, inf)"),
        ({"shadowless": 1.1}, "shift.light.shadowless must lie in [0, 1]"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        shifts.make({"light": NOTHING | changes})
    assert said in str(caught.value) and "\n" not in str(caught.value)
