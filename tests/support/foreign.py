"""A small package of environments that is not ours, as a user might have it.

`write` puts it into a folder; `foreign_pixels` is importable once that folder is on PYTHONPATH.
Each environment has one peculiarity.
"""

from __future__ import annotations

from pathlib import Path

SOURCE = """
import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete

INF = np.inf


class Base(gym.Env):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}
    observation_space = Box(-INF, INF, (2,), np.float32)
    action_space = Box(-1.0, 1.0, (2,), np.float32)
    height, width, limit = 64, 64, None

    def __init__(self, render_mode=None, gain=1.0):
        self.render_mode, self.gain = render_mode, gain
        self.place, self.time = np.zeros(2), 0

    def observe(self):
        return self.place.astype(np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.time = self.np_random.uniform(-0.5, 0.5, 2), 0
        return self.observe(), {}

    def move(self, action):
        return np.asarray(action, dtype=float).reshape(-1)[:2]

    def reward(self):
        return self.gain * float(1 - np.abs(self.place).sum())

    def step(self, action):
        self.action = np.array(action)
        self.place = np.clip(self.place + 0.1 * self.move(action), -1, 1)
        self.time += 1
        return self.observe(), self.reward(), False, self.time == self.limit, {}

    def render(self):
        pixels = np.full((self.height, self.width, 3), (40, 80, 160), np.uint8)
        row, column = ((self.place + 1) / 2 * (np.array([self.height, self.width]) - 9)).astype(int)
        pixels[row : row + 8, column : column + 8] = (220, 30, 30)
        return pixels


class Plain(Base): pass
class Unbounded(Base): action_space = Box(-INF, INF, (2,), np.float32)
class HalfBounded(Base):
    action_space = Box(np.array([0, -1], np.float32), np.array([INF, 1], np.float32))
class TooWide(Base):
    action_space = Box(np.full(2, -3e38, np.float32), np.full(2, 3e38, np.float32))
class Integers(Base): action_space = Box(0, 10, (2,), np.int64)
class Bytes(Base): action_space = Box(0, 255, (2,), np.uint8)
class Stuck(Base):
    action_space = Box(np.array([-1, 0.5], np.float32), np.array([1, 0.5], np.float32))
class Matrix(Base):
    action_space = Box(np.full((2, 3), -2, np.float32), np.float32([[0, 1, 2], [3, 4, 5]]))
class MatrixStuck(Base):
    action_space = Box(np.zeros((2, 3), np.float32), np.float32([[1, 0, 1], [1, 1, 1]]))
class Scalar(Base):
    action_space = Box(-1.0, 3.0, (), np.float32)
    def move(self, action):
        assert np.shape(action) == ()
        return np.full(2, float(action))
class NoAction(Base): action_space = Box(-1.0, 1.0, (0,), np.float32)
class DictAction(Base): action_space = Dict({"a": Box(-1, 1, (2,))})
class Choices(Base): action_space = Discrete(3)
class Doubles(Base): action_space = Box(-1.0, 1.0, (2,), np.float64)
class DictObservation(Base):
    observation_space = Dict({"here": Box(-1, 1, (2,)), "there": Box(-1, 1, (2,))})
    def observe(self):
        return {"here": self.place.astype(np.float32), "there": np.zeros(2, np.float32)}
class ArrayReward(Base):
    def reward(self): return np.array([0.5], np.float32)
class TwoRewards(Base):
    def reward(self): return np.array([0.5, 0.5], np.float32)
class OwnStatistics(Base):
    def step(self, action):
        *rest, info = super().step(action)
        return *rest, {"episode": {"mine": 1}}
class Grey(Base):
    def render(self): return super().render().mean(-1).astype(np.uint8)
class GreyChannel(Base):
    def render(self): return super().render().mean(-1, keepdims=True).astype(np.uint8)
class Rgba(Base):
    def render(self): return np.dstack([super().render(), np.full((64, 64), 200, np.uint8)])
class Reused(Base):
    memory = np.zeros((64, 64, 3), np.uint8)
    def render(self):
        self.memory[:] = super().render()
        return self.memory
class Float(Base):
    def render(self): return super().render().astype(np.float32) / 255
class Wider(Base):
    def render(self): return super().render().astype(np.int64)
class Planes(Base):
    def render(self): return np.moveaxis(super().render(), -1, 0)
class RendersNone(Base):
    def render(self): return None
class Several(Base):
    def render(self): return [super().render()]
class Text(Base):
    def render(self): return "X"
class Black(Base):
    def render(self): return np.zeros((64, 64, 3), np.uint8)
class Oblong(Base): height, width = 48, 160
class Odd(Base): height, width = 75, 101
class Tiny(Base):
    def render(self): return super().render()[:1, :1]
class SelfEnding(Base): limit = 40
class NeedsArgument(Base):
    def __init__(self, level, render_mode=None):
        super().__init__(render_mode)
        self.level = level
class NoRenderMode(Base):
    def __init__(self): super().__init__("rgb_array")
class Broken(Base):
    def __init__(self, render_mode=None): raise RuntimeError("the robot\\nis not plugged in")
class BrokenReset(Base):
    def reset(self, **keywords): raise OSError("no level file")
class Dying(Base):
    def step(self, action):
        observation, reward, _, truncated, info = super().step(action)
        return observation, reward, bool(self.time == 17), truncated, info
class Noisy(Base):
    def reset(self, **keywords):
        super().reset(**keywords)
        self.place = np.random.uniform(-0.5, 0.5, 2)
        return self.observe(), {}


UNLIMITED = ("SelfEnding",)
for kind in Base.__subclasses__():
    limit = None if kind.__name__ in UNLIMITED else 40
    gym.register(f"foreign/{kind.__name__}-v0", kind, max_episode_steps=limit)
gym.register("foreign/Endless-v0", "foreign_pixels:Plain")
gym.register("Plain-v0", "foreign_pixels:Plain", max_episode_steps=40)
gym.register("foreign/Long-v0", "foreign_pixels:Plain", max_episode_steps=4000)
for steps in (1, 2, 25):
    gym.register(f"foreign/Limit{steps}-v0", "foreign_pixels:Plain", max_episode_steps=steps)
"""


def write(folder: Path) -> None:
    """Put the package into `folder`."""
    package = folder / "foreign_pixels"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(SOURCE)
