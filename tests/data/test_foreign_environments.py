"""Any Gymnasium environment: a package that is not ours is used as it is, or refused in a line."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from curl.data import rendering
from curl.data.environment import (
    episode_length,
    frames_per_second,
    make_env,
    own_actions,
    taken_action,
)
from curl.run.evaluation import make_stacked_env
from support import foreign
from support.paths import ROOT
from support.programs import assert_refused, command, rows, run

MODULE = "foreign_pixels"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that holds the package, importable here and registered on import alone."""
    folder = tmp_path_factory.mktemp("elsewhere")
    foreign.write(folder)
    registered = dict(gym.registry)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    sys.modules.pop(MODULE, None)
    gym.registry.clear()
    gym.registry.update(registered)


@contextlib.contextmanager
def made(name: str, **settings: Any) -> Iterator[Any]:
    env_id = name if ":" in name else f"{MODULE}:foreign/{name}-v0"
    defaults = {"action_repeat": 1, "render_size": 32}
    with contextlib.closing(make_env(env_id=env_id, **defaults | settings)) as env:
        yield env


@pytest.fixture(autouse=True)
def importable(package: Path) -> None:
    """Every test here may import the package."""


def refusal(name: str, **settings: Any) -> str:
    with pytest.raises(ValueError) as caught, made(name, **settings):
        pass
    return " ".join(str(caught.value).split())


# -- ids, arguments, limits ----------------------------------------------------------------------


@pytest.mark.parametrize("env_id", [f"{MODULE}:foreign/Plain-v0", f"{MODULE}:Plain-v0"])
def test_a_module_is_imported_for_its_environments(env_id: str) -> None:
    with made(env_id) as env:
        first, _ = env.reset(seed=1)
        second, reward, *_ = env.step(np.ones(2, np.float32))
        assert first.shape == (32, 32, 3) and (first != second).any()
        assert type(reward) is float


def test_arguments_reach_the_constructor() -> None:
    with made("Plain", kwargs={"gain": 3.0}) as env, made("Plain") as plain:
        for each in (env, plain):
            each.reset(seed=1)
        action = np.zeros(2, np.float32)
        assert env.step(action)[1] == pytest.approx(3 * plain.step(action)[1])
    with made("NeedsArgument", kwargs={"level": "seven"}) as env:
        assert env.unwrapped.level == "seven"


@pytest.mark.parametrize(
    ("name", "kwargs", "parts"),
    [
        ("Plain", {"gian": 1}, ("foreign/Plain-v0", "gian", "task.kwargs")),
        ("NeedsArgument", {}, ("foreign/NeedsArgument-v0", "'level'", "task.kwargs")),
        ("Plain", {"render_mode": "human"}, ("task.kwargs cannot hold 'render_mode'",)),
        ("Plain", {"max_episode_steps": 3}, ("task.kwargs cannot hold 'max_episode_steps'",)),
        ("Plain", {7: 3}, ("task.kwargs cannot hold 7",)),
        ("NoRenderMode", {}, ("rgb_array", "render_mode")),
        ("Broken", {}, ("foreign/Broken-v0", "RuntimeError: the robot is not plugged in")),
        ("BrokenReset", {}, ("foreign/BrokenReset-v0", "OSError: no level file")),
        ("nowhere:Plain-v0", {}, ("unknown environment 'nowhere:Plain-v0'",)),
        (f"{MODULE}:foreign/Plane-v0", {}, (f"unknown environment '{MODULE}:foreign/Plane-v0'",)),
    ],
)
def test_what_cannot_be_made_is_refused(
    name: str, kwargs: dict[Any, Any], parts: tuple[str, ...]
) -> None:
    line = refusal(name, kwargs=kwargs)
    assert all(part in line for part in parts), line


@pytest.mark.parametrize("name", ["Endless", "SelfEnding"])
def test_an_environment_without_a_time_limit_is_refused(name: str) -> None:
    """SelfEnding would end by itself, but nothing says so."""
    line = refusal(name)
    assert f"foreign/{name}-v0 has no time limit" in line and "task.max_episode_steps" in line


@pytest.mark.parametrize("name", ["Endless", "SelfEnding", "Long", "Plain"])
def test_max_episode_steps_is_the_limit_in_control_steps(name: str) -> None:
    with made(name, max_episode_steps=7, action_repeat=3) as env:
        env.reset(seed=1)
        ends = [env.step(np.zeros(2, np.float32))[2:4] for _ in range(3)]
        assert ends == [(False, False), (False, False), (False, True)]
        assert episode_length(env) == 7


def test_dm_controls_own_limit_is_one_and_its_lack_is_refused() -> None:
    with made("shimmy:dm_control/reacher-easy-v0", shadow_size=16):
        pass
    line = refusal("shimmy:dm_control/lqr-lqr_2_1-v0", shadow_size=16)
    assert "no time limit" in line
    with made("shimmy:dm_control/lqr-lqr_2_1-v0", shadow_size=16, max_episode_steps=5):
        pass


@pytest.mark.parametrize("value", [0, -1, 2.5, "many", True])
def test_an_impossible_limit_is_refused(value: Any) -> None:
    assert "task.max_episode_steps must be an integer >= 1" in refusal(
        "Plain", max_episode_steps=value
    )


# -- actions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("Unbounded", ("component 0", "low=-inf", "high=inf")),
        ("HalfBounded", ("component 0", "low=0", "high=inf")),
        ("TooWide", ("component 0", "low=-3e+38", "high=3e+38")),
        ("Stuck", ("component 1", "low=0.5", "high=0.5", "low < high")),
        ("MatrixStuck", ("component 0, 1", "low=0", "high=0")),
        ("Integers", ("int64", "a Box of floats")),
        ("Bytes", ("uint8", "a Box of floats")),
        ("DictAction", ("Dict", "a Box of floats")),
        ("Choices", ("Discrete(3)", "a Box of floats")),
        ("NoAction", ("no component",)),
    ],
)
def test_actions_that_are_not_continuous_and_bounded_are_refused(
    name: str, parts: tuple[str, ...]
) -> None:
    line = refusal(name)
    assert f"foreign/{name}-v0" in line and all(part in line for part in parts), line


@pytest.mark.parametrize(
    ("name", "shape", "components"),
    [("Plain", (2,), 2), ("Matrix", (2, 3), 6), ("Scalar", (), 1), ("Doubles", (2,), 2)],
)
def test_actions_of_any_shape_are_flattened_and_rescaled(
    name: str, shape: tuple[int, ...], components: int
) -> None:
    with made(name) as env:
        assert env.action_space.shape == (components,)
        env.reset(seed=1)
        space = env.unwrapped.action_space
        for value, bound in ((-1, space.low), (1, space.high), (0, (space.low + space.high) / 2)):
            env.step(np.full(components, value, np.float32))
            assert env.unwrapped.action.shape == shape == own_actions(env).shape
            assert np.array_equal(env.unwrapped.action, taken_action(env))
            np.testing.assert_allclose(env.unwrapped.action, bound, atol=1e-6)


# -- frames --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Grey", "GreyChannel"])
def test_greyscale_becomes_three_equal_channels(name: str) -> None:
    with made(name, render_size=64) as env, made("Plain", render_size=64) as colour:
        frame, expected = env.reset(seed=1)[0], colour.reset(seed=1)[0]
        assert (frame == frame[..., :1]).all()
        np.testing.assert_array_equal(frame[..., 0], expected.mean(-1).astype(np.uint8))


def test_the_alpha_channel_is_dropped() -> None:
    with made("Rgba", render_size=64) as env, made("Plain", render_size=64) as colour:
        np.testing.assert_array_equal(env.reset(seed=1)[0], colour.reset(seed=1)[0])


@pytest.mark.parametrize("name", ["Oblong", "Odd", "Tiny", "DictObservation", "Plain"])
def test_frames_of_any_size_become_squares_and_videos(name: str) -> None:
    with made(name, render_size=31) as env:
        frame, _ = env.reset(seed=1)
        assert frame.shape == (31, 31, 3) and frame.dtype == np.uint8
        large = env.get_wrapper_attr("display")()
        assert large.dtype == np.uint8 and large.shape[0] % 2 == large.shape[1] % 2 == 0
        assert min(large.shape[:2]) >= 2


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("Float", "float32 [64, 64, 3]"),
        ("Wider", "int64 [64, 64, 3]"),
        ("Planes", "uint8 [3, 64, 64]"),
        ("RendersNone", "None"),
        ("Several", "list"),
        ("Text", "str"),
    ],
)
def test_other_frames_are_refused(name: str, found: str) -> None:
    line = refusal(name)
    assert f"foreign/{name}-v0 renders {found}; frames must be uint8 [height, width, 3]" in line


def test_frames_drawn_into_the_same_memory_stay_as_they_were() -> None:
    settings = {"env_id": f"{MODULE}:foreign/Reused-v0", "action_repeat": 1, "render_size": 64}
    with contextlib.closing(make_stacked_env(settings, 3)) as env:
        env.reset(seed=1)
        for _ in range(3):
            stack = np.asarray(env.step(np.full(2, 1, np.float32))[0])
        assert (stack[0] != stack[1]).any() and (stack[1] != stack[2]).any()


def test_a_first_frame_of_one_colour_is_warned_of_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("curl"), "propagate", True)
    rendering.warn_of_one_colour.cache_clear()
    for name in ("Black", "Black", "Plain"):
        with made(name) as env:
            env.reset(seed=1)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1 and f"{MODULE}:foreign/Black-v0 has one colour, [0, 0, 0]" in lines[0]


# -- rewards, ends, time -------------------------------------------------------------------------


def test_a_reward_is_one_number() -> None:
    with made("ArrayReward", action_repeat=4) as env:
        env.reset(seed=1)
        reward = env.step(np.zeros(2, np.float32))[1]
        assert type(reward) is float and reward == 2.0
    with made("TwoRewards") as env:
        env.reset(seed=1)
        with pytest.raises(ValueError, match=r"TwoRewards-v0 .* is not one number"):
            env.step(np.zeros(2, np.float32))


def test_statistics_of_the_environment_do_not_collide_with_ours() -> None:
    with made("OwnStatistics", max_episode_steps=3, action_repeat=2) as env:
        env.reset(seed=1)
        action = np.zeros(2, np.float32)
        total = env.step(action)[1]
        _, reward, _, truncated, info = env.step(action)
        assert truncated and info["episode"]["l"] == 3
        assert info["episode"]["r"] == pytest.approx(total + reward)


def test_the_rate_of_a_video_is_exact() -> None:
    with made("Plain", action_repeat=3) as env:
        assert frames_per_second(env, 3) == Fraction(20, 3)
    with made("gymnasium:Pendulum-v1", action_repeat=8) as env:
        assert frames_per_second(env, 8) == Fraction(5, 2)  # 0.05 s a step
    with made("shimmy:dm_control/humanoid-run-v0", action_repeat=4, shadow_size=16) as env:
        assert frames_per_second(env, 4) == Fraction(10)  # 0.025 s a step


# -- whole runs ----------------------------------------------------------------------------------


def settings(name: str, **changes: Any) -> dict[str, Any]:
    """Overrides for a short run, of Hydra's form."""
    mapping = {"task": "pendulum", "task__env_id": f"{MODULE}:foreign/{name}-v0"}
    mapping |= {"task__action_repeat": 3, "env_steps": 100, "initial_steps": 10, "batch_size": 4}
    mapping |= {"eval_every": 40, "checkpoint_every": 40, "log_every": 20, "eval_episodes": 2}
    return mapping | changes


def test_a_whole_run_and_its_evaluation(package: Path, tmp_path: Path) -> None:
    seed = 10**25  # any integer is one
    changes = settings("NeedsArgument", task__kwargs="{level: 3}", task__max_episode_steps=20)
    changes["seed"] = seed
    done = run(command(tmp_path, **changes, video=True), PYTHONPATH=str(package))
    assert done.returncode == 0, done.stderr
    recorded = rows(tmp_path)
    assert sorted(path.name for path in (tmp_path / "videos").iterdir())[-1] == "00000100.mp4"
    evaluations = [row for row in recorded if row["kind"] == "evaluation"]
    # episodes have 20 env steps: agent steps of 3, 3, 3, 3, 3, 3 and 2
    assert [row["env_steps"] for row in evaluations] == [0, 40, 80, 100]
    assert all(len(row["returns"]) == 2 for row in evaluations)
    episodes = [(row["env_steps"], row["length"]) for row in recorded if row["kind"] == "episode"]
    assert episodes == [(20 * n, 7) for n in range(1, 6)]
    assert recorded[-1]["agent_steps"] == 35
    done = run(command(tmp_path, **changes | {"env_steps": 125}), PYTHONPATH=str(package))
    assert done.returncode == 0 and "resumed at 100 env steps" in done.stdout, done.stderr
    assert rows(tmp_path)[: len(recorded)] == recorded
    assert [row["env_steps"] for row in rows(tmp_path)][-1] == 126
    out = tmp_path / "out.json"
    arguments = [sys.executable, str(ROOT / "eval.py"), str(tmp_path), "--out", str(out)]
    arguments += ["--episodes", "2", "--processes", "2", "--seed", str(seed)]
    done = run(arguments, PYTHONPATH=str(package))
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(out.read_text())
    assert result["env_steps"] == 126 and result["seed"] == seed
    last = [row for row in rows(tmp_path) if row["kind"] == "evaluation"][-1]["returns"]
    assert result["returns"] == pytest.approx(last, abs=1e-3)  # the same episodes, side by side
    assert len(set(last)) == 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (settings("Plain", task__kwargs="{gian: 1}"), "gian"),
        (settings("HalfBounded"), "HalfBounded-v0 bounds component 0 of its actions"),
        pytest.param(settings("Endless"), "set task.max_episode_steps", marks=pytest.mark.slow),
        pytest.param(settings("RendersNone"), "renders None", marks=pytest.mark.slow),
        pytest.param(settings("Plain", task__camera=1), "no cameras", marks=pytest.mark.slow),
        pytest.param(settings("Integers"), "int64", marks=pytest.mark.slow),
    ],
)
def test_a_run_on_it_is_refused_in_one_line(
    package: Path, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    done = run(command(tmp_path, **changes), PYTHONPATH=str(package))
    assert_refused(done, reason)
    assert not (tmp_path / "config.yaml").exists()
