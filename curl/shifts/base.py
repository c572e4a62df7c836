"""What every shift promises: the same environment with another look, drawn anew for each episode.

A look is a function of the episode's seed and of the time in the episode, and of nothing else, so
that an episode that is replayed from its seed and its actions shows the same frames. States and
rewards stay as they are: whatever a shift changes in MuJoCo's model is put back once the frame is
drawn, and so no shift reaches another environment.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Protocol

import numpy as np

from curl.checks import choice


class Simulation(Protocol):
    """What MuJoCo draws of an environment.

    Attributes:
        model: mujoco.MjModel, and `data` its MjData. A reset may replace both.
        camera: number of the model's camera that draws; -1 for the free camera.
        context: the OpenGL resources of this environment, among them its textures.
    """

    @property
    def model(self) -> Any: ...

    @property
    def data(self) -> Any: ...

    @property
    def camera(self) -> int: ...

    @property
    def context(self) -> Any: ...

    def free_camera(self, size: int) -> Any:
        """The mujoco.MjvCamera that draws frames of that size where `camera` is -1."""

    def upload(self, texture: int) -> None:
        """Let the frames of this environment show the model's texture of that number as it is."""

    def visible_geoms(self, size: int) -> np.ndarray:
        """int [size, size]: the geom in each pixel, -1 for the sky, -2 for what is no geom."""
        ...

    def without_sky(self) -> AbstractContextManager[None]:
        """While it is entered, frames of this environment are black where there is no geom."""
        ...

    def coverage(self, size: int, without: np.ndarray) -> np.ndarray:
        """uint8 [size, size]: how much of each pixel is covered by something, 255: all of it.

        It is antialiased as frames are.

        Args:
            without: bool [number of geoms]: those that cover what is behind them, but count for
                nothing themselves, as the sky does.
        """
        ...


class Shift:
    """Changes what is seen of an environment. A subclass overrides at least one of the hooks.

    Attributes:
        rank: when it changes the drawn frame, lowest first, whatever the order in which shifts
            are named: what lies before the lens, the lens, the sensor, the way to the agent.
    """

    rank: ClassVar[int] = 0

    def fit(self, name: str, simulation: Simulation | None) -> None:
        """Refuse an environment on which it makes no sense, before the first episode.

        Args:
            name: of the environment.
            simulation: None where MuJoCo does not draw it.

        Raises:
            ValueError: one line.
        """

    def begin(self, seeds: np.random.SeedSequence) -> None:
        """An episode begins. Its look comes from `seeds`, which are the episode's own."""
        self.seeds = seeds
        self.draw(np.random.default_rng(seeds))

    def generator(self, time: int) -> np.random.Generator:
        """Randomness of the frame at that time: the same each time that the frame is drawn."""
        key = (*self.seeds.spawn_key, time)
        return np.random.default_rng(np.random.SeedSequence(self.seeds.entropy, spawn_key=key))

    # -- hooks ----------------------------------------------------------------------------------

    def draw(self, generator: np.random.Generator) -> None:
        """Choose the look of the episode that begins."""

    def applied(
        self, simulation: Simulation | None, time: int, size: int
    ) -> AbstractContextManager[object]:
        """While it is entered, MuJoCo draws the shifted scene; afterwards all is as before.

        Args:
            simulation: None where MuJoCo does not draw the environment.
            time: env steps since the beginning of the episode.
            size: edge of the frame in pixels.
        """
        return contextlib.nullcontext()

    def behind(self, pixels: np.ndarray, simulation: Simulation | None, time: int) -> np.ndarray:
        """Change a frame while the scene is still as it was drawn.

        Args:
            pixels: uint8 [H, W, 3]; it is not written to.
        """
        return pixels

    def after(self, pixels: np.ndarray, time: int) -> np.ndarray:
        """Change a finished frame.

        Args:
            pixels: uint8 [size, size, 3]; it is not written to.
        """
        return pixels


class SceneShift(Shift):
    """A shift that needs a scene which MuJoCo draws.

    Attributes:
        needs: what it changes, for refusals.
    """

    needs: ClassVar[str]

    def fit(self, name: str, simulation: Simulation | None) -> None:
        if simulation is None:
            raise ValueError(f"{name} is not drawn by MuJoCo, so it has no {self.needs} to shift")


class Look:
    """All shifts of an environment together.

    Args:
        shifts: by their names. Each draws the same look whatever else is shifted.
    """

    def __init__(self, shifts: Mapping[str, Shift]) -> None:
        ordered = sorted(shifts.items(), key=lambda item: (item[1].rank, item[0]))
        self.shifts = dict(ordered)

    def fit(self, name: str, simulation: Simulation | None) -> None:
        """`ValueError` in one line if one of them makes no sense on the environment `name`."""
        for kind, shift in self.shifts.items():
            try:
                shift.fit(name, simulation)
            except ValueError as error:
                raise ValueError(f"shift.{kind}: {error}") from None

    def begin(self, seeds: np.random.SeedSequence) -> None:
        """An episode begins."""
        for kind, shift in self.shifts.items():
            own = (*seeds.spawn_key, zlib.crc32(kind.encode()))
            shift.begin(np.random.SeedSequence(seeds.entropy, spawn_key=own))

    @contextlib.contextmanager
    def applied(self, simulation: Simulation | None, time: int, size: int) -> Iterator[None]:
        """While it is entered, the shifted scene is drawn."""
        with contextlib.ExitStack() as stack:
            for shift in self.shifts.values():
                stack.enter_context(shift.applied(simulation, time, size))
            yield

    def behind(self, pixels: np.ndarray, simulation: Simulation | None, time: int) -> np.ndarray:
        """What was drawn, uint8 [H, W, 3], with what lies behind the robot."""
        for shift in self.shifts.values():
            pixels = shift.behind(pixels, simulation, time)
        return pixels

    def after(self, pixels: np.ndarray, time: int) -> np.ndarray:
        """The finished frame, uint8 [size, size, 3], as the agent sees it."""
        for shift in self.shifts.values():
            pixels = shift.after(pixels, time)
        return pixels


@contextlib.contextmanager
def changed(*changes: tuple[np.ndarray, Any]) -> Iterator[None]:
    """While it is entered, arrays hold other values; afterwards their own again, bit for bit.

    Args:
        changes: each an array, which may be a view, and the values that it takes.
    """
    before = [array.copy() for array, _ in changes]
    try:
        for array, values in changes:
            array[...] = values
        yield
    finally:
        for (array, _), old in zip(changes, before, strict=True):
            array[...] = old


def initial(model: Any) -> Any:
    """mujoco.MjData of the model in its initial pose."""
    import mujoco  # chooses OpenGL when it is first imported

    data = mujoco.MjData(model)  # pyright: ignore
    mujoco.mj_forward(model, data)  # pyright: ignore
    return data


def along(place: np.ndarray, direction: np.ndarray, model: Any, data: Any) -> float:
    """How far from `place` along `direction`, of length 1, lies the centre of what moves.

    At least a tenth of the model's extent, since one may look past or away from it.
    """
    return max(float((data.subtree_com[0] - place) @ direction), 0.1 * model.stat.extent)


class Walk:
    """Numbers that drift within bounds: a function of the time, whenever one asks.

    Each env step adds Gaussian noise and clips the sum, as the Distracting Control Suite does.

    Args:
        start: float, of any shape. low, high: the bounds, of the same shape.
        deviation: standard deviation of the noise; 0: they stay.
        generator: of the noise.
    """

    def __init__(
        self,
        start: np.ndarray,
        low: np.ndarray,
        high: np.ndarray,
        deviation: float,
        generator: np.random.Generator,
    ) -> None:
        self.path = [start]
        self.low, self.high, self.deviation = low, high, deviation
        self.noise = generator

    def at(self, time: int) -> np.ndarray:
        """The numbers after `time` env steps. They are not to be written to."""
        if not self.deviation:
            return self.path[0]
        while len(self.path) <= time:
            step = self.deviation * self.noise.standard_normal(self.path[0].shape)
            self.path.append(np.clip(self.path[-1] + step, self.low, self.high))
        return self.path[time]


def finished(pixels: np.ndarray) -> np.ndarray:
    """Float pixels in [0, 255] and beyond as uint8: rounded and cut off."""
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def severity_of(severity: int, constants: Sequence[float]) -> float:
    """The constant of a severity of ImageNet-C, 1 to 5; `ValueError` if it is another number."""
    choice("severity", severity, range(1, len(constants) + 1))
    return constants[severity - 1]
