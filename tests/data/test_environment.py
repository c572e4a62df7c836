"""make_env: frames, actions, rewards and episode ends against the bare environment."""

from __future__ import annotations

import contextlib
import importlib.util
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from curl.data.environment import constructor, make_env, own_actions, taken_action
from curl.data.rendering import square
from curl.hardware import device as hardware
from curl.hardware.device import OpenGLError, choose_opengl

CARTPOLE = "dm_control/cartpole-swingup-v0"
CPU = torch.device("cpu")


@pytest.fixture
def build(request: pytest.FixtureRequest) -> Any:
    """make_env for small, cheap frames; closes what it made."""

    def make(env_id: str = CARTPOLE, action_repeat: int = 8, **settings: Any) -> Any:
        settings = {"render_size": 32, "shadow_size": 256} | settings
        env = make_env(env_id=env_id, action_repeat=action_repeat, **settings)
        request.addfinalizer(env.close)
        return env

    return make


def actions(count: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (count, 1)).astype(np.float32)


# -- frames --------------------------------------------------------------------------------------


def test_frames_are_contiguous_uint8_squares(build: Any) -> None:
    env = build(render_size=100)
    for frame in (env.reset(seed=1)[0], env.step(np.zeros(1, np.float32))[0]):
        assert frame.shape == (100, 100, 3) and frame.dtype == np.uint8
        assert frame.flags.c_contiguous
        assert frame in env.observation_space
        assert frame.std() > 10  # something is drawn


def test_the_same_seed_gives_the_same_frames(build: Any) -> None:
    env, again = build(), build()

    def frames(env: Any, seed: int) -> np.ndarray:
        return np.stack([env.reset(seed=seed)[0], *(env.step(a)[0] for a in actions(3))])

    first = frames(env, 1)
    np.testing.assert_array_equal(frames(again, 1), first)
    np.testing.assert_array_equal(frames(env, 1), first)
    assert (frames(env, 2) != first).any()


def test_a_frame_is_drawn_once_an_agent_step(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    env, drawn = build(), []
    render = env.unwrapped.render
    monkeypatch.setattr(env.unwrapped, "render", lambda: drawn.append(1) or render())
    env.reset(seed=1)
    for action in actions(3):
        env.step(action)
    assert len(drawn) == 1 + 3


def test_a_small_shadow_map_changes_next_to_nothing(build: Any) -> None:
    frames = {}
    for size in (None, 256):
        env = build(shadow_size=size, render_size=100)
        assert env.unwrapped.physics.model.vis.quality.shadowsize == (size or 2048)
        first = env.reset(seed=1)[0]
        frames[size] = np.stack([first, env.step(actions(1)[0])[0]]).astype(float)
    assert np.abs(frames[256] - frames[None]).mean() < 0.5


def test_square_averages_areas() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    means = pixels.reshape(3, 2, 3, 3, 3).mean(axis=(1, 3))
    small = square(pixels, 3)
    assert small.dtype == np.uint8
    np.testing.assert_allclose(small, means, atol=0.5 + 1e-4)


# -- actions, rewards, ends ----------------------------------------------------------------------


@pytest.mark.parametrize("env_id", [CARTPOLE, "Reacher-v5", "HalfCheetah-v5"])
def test_rewards_are_summed_over_the_repeat(build: Any, env_id: str) -> None:
    env, bare = build(env_id, 4), gym.make(env_id)
    env.reset(seed=1)
    bare.reset(seed=1)
    rng = np.random.default_rng(0)
    for _ in range(3):
        action = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        by_hand = sum(bare.step(action)[1] for _ in range(4))
        assert env.step(action)[1] == pytest.approx(by_hand, rel=1e-9) != 0
    bare.close()


class Wide(gym.Env):
    """The reward is the action; its bounds are -2 and 6."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    action_space = gym.spaces.Box(-2.0, 6.0, (1,), np.float32)
    observation_space = gym.spaces.Box(0.0, 1.0, (1,), np.float32)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return np.zeros(1, np.float32), {}

    def step(self, action: np.ndarray) -> Any:
        return np.zeros(1, np.float32), float(action[0]), False, False, {}

    def render(self) -> np.ndarray:
        return np.zeros((32, 32, 3), np.uint8)


gym.register("test/Wide-v0", Wide, max_episode_steps=100)


@pytest.mark.parametrize(("action", "inner"), [(-1.0, -2.0), (0.0, 2.0), (0.5, 4.0), (1.0, 6.0)])
def test_actions_are_rescaled_from_one(build: Any, action: float, inner: float) -> None:
    env = build("test/Wide-v0", 1)
    env.reset(seed=1)
    assert (env.action_space.low, env.action_space.high) == (-1, 1)
    assert env.step(np.array([action], np.float32))[1] == pytest.approx(inner)


@pytest.mark.parametrize(("action_repeat", "agent_steps"), [(8, 125), (300, 4)])
def test_an_episode_is_truncated_at_its_1000th_step(
    build: Any, action_repeat: int, agent_steps: int
) -> None:
    """Truncated, not terminated, even where the repeat would reach beyond the end."""
    env = build(action_repeat=action_repeat, render_size=16, shadow_size=16)
    env.reset(seed=1)
    ends, total = [], 0.0
    for action in actions(agent_steps):
        _, reward, terminated, truncated, info = env.step(action)
        total += float(reward)
        ends.append((terminated, truncated))
    assert ends == [(False, False)] * (agent_steps - 1) + [(False, True)]
    assert info["episode"]["r"] == pytest.approx(total, abs=1e-4)
    bare = gym.make(CARTPOLE)
    bare.reset(seed=1)
    inner = np.repeat(actions(agent_steps), action_repeat, axis=0)[:1000]
    assert total == pytest.approx(sum(float(bare.step(a)[1]) for a in inner))
    bare.close()


# -- other suites, refusals ----------------------------------------------------------------------


BOX2D = importlib.util.find_spec("Box2D") is not None


@pytest.mark.parametrize(
    "env_id",
    [
        "HalfCheetah-v5",
        "Pendulum-v1",
        pytest.param("CarRacing-v3", marks=pytest.mark.skipif(not BOX2D, reason="no Box2D")),
    ],
)
def test_other_suites_work(build: Any, env_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env = build(env_id, 4, render_size=100)
    first, _ = env.reset(seed=1)
    for _ in range(3):
        frame, reward, terminated, truncated, _ = env.step(np.ones(env.action_space.shape, "f4"))
    assert first.shape == frame.shape == (100, 100, 3) and frame.dtype == np.uint8
    assert (first != frame).any()
    assert np.isfinite(reward) and not terminated and not truncated


@pytest.mark.parametrize(
    ("env_id", "reason"),
    [
        ("CartPole-v1", "continuous"),
        ("Nonsense-v0", "unknown"),
        ("dm_control/nonsense-v0", "unknown"),
        ("nonsense/cartpole-v0", "unknown"),
        ("no id at all", "unknown"),
        pytest.param(
            "CarRacing-v3",
            "not installed",
            marks=pytest.mark.skipif(BOX2D, reason="Box2D is there"),
        ),
    ],
)
def test_what_cannot_be_trained_on_is_refused_in_one_line(env_id: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        make_env(env_id=env_id, action_repeat=1)
    assert env_id in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [{"action_repeat": 0}, {"action_repeat": 1.5}, {"render_size": 0}, {"shadow_size": -1}],
)
def test_impossible_settings_are_refused(build: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        build(**settings)


# -- OpenGL --------------------------------------------------------------------------------------


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The libraries that load; MUJOCO_GL is not set."""
    found = {"libEGL.so.1", "libOSMesa.so.8", "libGL.so.1"}
    monkeypatch.setattr(hardware, "_loads", found.__contains__)
    monkeypatch.setenv("MUJOCO_GL", "")  # also brings the old value back afterwards
    return found


def test_auto_takes_egl_then_osmesa(libraries: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_opengl("auto", CPU) == "egl"
    assert hardware.os.environ["MUJOCO_GL"] == "egl"
    monkeypatch.setenv("MUJOCO_GL", "")
    libraries.remove("libEGL.so.1")
    assert choose_opengl("auto", CPU) == "osmesa"
    assert hardware.os.environ["MUJOCO_GL"] == "osmesa"


def test_a_set_mujoco_gl_wins(libraries: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    assert choose_opengl("egl", CPU) == "osmesa"


def test_garbage_is_refused(libraries: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="opengl must be one of auto, egl, osmesa, glfw"):
        choose_opengl("garbage", CPU)
    monkeypatch.setenv("MUJOCO_GL", "garbage")
    with pytest.raises(ValueError, match="MUJOCO_GL must be egl, osmesa or glfw; got 'garbage'"):
        choose_opengl("auto", CPU)


@pytest.mark.parametrize("backend", ["auto", "egl", "osmesa"])
def test_without_a_library_the_command_that_mends_it_is_named(
    libraries: set[str], backend: str
) -> None:
    libraries.clear()
    with pytest.raises(OpenGLError, match="apt-get install -y libegl1 libgl1 libosmesa6"):
        choose_opengl(backend, CPU)
    libraries.add("libGL.so.1")  # it alone draws nothing
    with pytest.raises(OpenGLError):
        choose_opengl(backend, CPU)


# -- programs without this package -----------------------------------------------------------------


@pytest.mark.parametrize("env_id", [CARTPOLE, "HalfCheetah-v5", "Pendulum-v1"])
def test_gymnasium_makes_the_same_environment_from_its_constructor(build: Any, env_id: str) -> None:
    """Frames, actions and rewards are the same; one that cannot draw small frames draws its own."""
    task = {"env_id": env_id, "kwargs": None, "max_episode_steps": 60}
    env = build(env_id, 2, max_episode_steps=60, shadow_size=None)
    made = constructor(env, task)
    with contextlib.closing(
        gym.make(made["id"], render_mode="rgb_array", **made["kwargs"])
    ) as bare:
        assert own_actions(env) == bare.action_space
        frames, over = [env.reset(seed=4)[0]], False
        bare.reset(seed=4)
        drawn, steps = [bare.render()], 0
        while not over:
            frame, reward, terminated, over, _ = env.step(env.action_space.sample())
            own = [bare.step(taken_action(env)) for _ in range(2)]
            assert sum(float(one[1]) for one in own) == pytest.approx(reward)
            assert (terminated, over) == (own[-1][2], own[-1][3])
            frames.append(frame)
            drawn.append(bare.render())
            steps += 1
        assert steps == 30
        for frame, other in zip(frames, drawn, strict=True):
            assert np.array_equal(frame, square(other, 32))
    assert (len(drawn[0]) == 32) == (env_id != "Pendulum-v1")


def test_a_constructor_keeps_the_arguments_of_the_task(build: Any) -> None:
    task = {"env_id": "Pendulum-v1", "kwargs": {"g": 3.0}, "max_episode_steps": None}
    env = build("Pendulum-v1", kwargs=task["kwargs"])
    assert constructor(env, task) == {"id": "Pendulum-v1", "kwargs": {"g": 3.0}}
    assert task["kwargs"] == {"g": 3.0}
