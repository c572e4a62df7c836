"""Other colours: everything that MuJoCo draws is painted anew, the sky and textures as well.

The idea is that of `color_easy` and `color_hard` of DMControl-GB (Hansen and Wang 2021), which
takes the colours of each episode from a file of its repository. Here they are drawn: each channel
of a colour lies within `reach` of its own value, and so a reach of 1 allows any colour. That is the
rule of the Distracting Control Suite (Stone et al. 2021), and so is `drift`, a random walk within
these bounds, clipped at each env step. Where it differs from that suite: it changes the colours of
materials alone, here geoms, textures and the sky change, too; and a colour is drawn anew, up to
`TRIES` times, until it differs from those of the textures by `contrast`, since a robot of the
floor's colour cannot be seen. A drift does not heed the contrast.

What has one colour keeps one: all geoms of a material, and all geoms that have the same colour and
no material. Opacity stays. A texture keeps its pattern: its mean takes the new colour, and the
pattern becomes as flat as it must to fit between 0 and 1.

Colours of materials and geoms cost nothing. Textures are uploaded when their colours change: once
per episode, or with each frame if there is a drift. The upload reaches this environment alone,
since each has an OpenGL context of its own.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from curl.checks import real
from curl.shifts.base import SceneShift, Simulation, Walk, changed, finished

TRIES = 32  # colours among which the first that differs enough is taken
EDGE = 160  # texels; textures are shrunk by a whole factor as long as they are not smaller
ROLES = [1, 8]  # mjTEXROLE_RGB and mjTEXROLE_RGBA: textures that hold colours
SKYBOX = 2  # mjTEXTURE_SKYBOX
UNSET = np.array([0.5, 0.5, 0.5, 1.0], np.float32)  # a geom of this colour has that of its material


class Color(SceneShift):
    """Colours that are drawn for each episode.

    Args:
        reach: how far each channel may lie from its own value, in (0, 1].
        contrast: least Euclidean distance of RGB, in [0, sqrt(3)], between the colour of a
            texture and any other, where one of `TRIES` colours has it.
        drift: standard deviation of the change per env step, as a share of `reach`.
    """

    needs = "colours"

    def __init__(self, *, reach: float, contrast: float, drift: float) -> None:
        self.reach = real("reach", reach, low=0, high=1, open_low=True)
        self.contrast = real("contrast", contrast, low=0, high=math.sqrt(3))
        self.drift = real("drift", drift, low=0, high=1)
        self.model: Any = None
        self.context: Any = None
        self.textures: list[Texture] = []  # of the model
        self.shown: dict[int, bytes] = {}  # texture -> its colour in the context

    def draw(self, generator: np.random.Generator) -> None:
        self.walk: Walk | None = None  # it begins with the first frame: a reset may replace models

    @contextlib.contextmanager
    def applied(self, simulation: Simulation | None, time: int, size: int) -> Iterator[None]:
        assert simulation is not None
        model = simulation.model
        if self.model is not model:
            self.model, self.textures = model, textures_of(model)
        if self.walk is None:
            self.walk, self.surfaces = self._begun(model)
        colours = np.split(self.walk.at(time), np.cumsum([len(self.textures), model.nmat]))
        self._show(simulation, colours[0])
        painted = []
        for own, values, chosen in zip(
            (model.mat_rgba, model.geom_rgba), colours[1:], self.surfaces, strict=True
        ):
            painted.append((own[:, :3], np.where(chosen[:, None], values, own[:, :3])))
        with changed(*painted):
            yield

    def _begun(self, model: Any) -> tuple[Walk, tuple[np.ndarray, np.ndarray]]:
        """The colours of textures, materials and geoms, [T + M + G, 3], and which have their own.

        Colours of textures are drawn first, since the others are to differ from them.
        """
        generator = np.random.default_rng(self.seeds)
        means = np.array([texture.mean for texture in self.textures]).reshape(-1, 3)
        behind = generator.uniform(*self._bounds(means))
        original = np.concatenate([model.mat_rgba[:, :3], model.geom_rgba[:, :3]]).astype(float)
        low, high = self._bounds(original)
        tries = generator.uniform(low, high, (TRIES, *original.shape))
        if self.textures:
            apart = np.linalg.norm(tries[:, :, None] - behind, axis=3).min(axis=2)  # [TRIES, M + G]
            enough = apart >= self.contrast
            best = np.where(enough.any(axis=0), enough.argmax(axis=0), apart.argmax(axis=0))
        else:
            best = np.zeros(len(original), int)
        drawn = tries[best, np.arange(len(original))]
        numbers = np.arange(len(original))
        numbers[model.nmat :] = model.nmat + first_of_equals(model.geom_rgba[:, :3])
        start = np.concatenate([behind, drawn[numbers]])
        low, high = self._bounds(np.concatenate([means, original]))
        walk = Walk(start, low, high, self.drift * self.reach, generator)
        return walk, surfaces_of(model)

    def _bounds(self, colours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.clip(colours - self.reach, 0, 1), np.clip(colours + self.reach, 0, 1)

    def _show(self, simulation: Simulation, colours: np.ndarray) -> None:
        """Upload the textures whose colours are not those that the context shows."""
        if self.context is not simulation.context:
            self.context, self.shown = simulation.context, {}
        for texture, colour in zip(self.textures, colours, strict=True):
            if self.shown.get(texture.number) != colour.tobytes():
                with texture.painted(simulation.model, colour):
                    simulation.upload(texture.number)
                self.shown[texture.number] = colour.tobytes()


class Texture:
    """A texture of a model, shrunk.

    Attributes:
        mean: float [3], its colour; all three are equal if it is grey.
    """

    def __init__(self, model: Any, number: int) -> None:
        self.number = number
        height, width = int(model.tex_height[number]), int(model.tex_width[number])
        channels, begin = int(model.tex_nchannel[number]), int(model.tex_adr[number])
        texels = model.tex_data[begin : begin + height * width * channels]
        texels = texels.reshape(height, width, channels)
        self.texels = shrunk(texels)
        self.inks = min(channels, 3)  # the fourth channel is opacity
        means = self.texels[..., : self.inks].mean(axis=(0, 1)) / 255
        self.mean = np.broadcast_to(means, 3)

    @contextlib.contextmanager
    def painted(self, model: Any, colour: np.ndarray) -> Iterator[None]:
        """While it is entered, the model holds the shrunk texture in that colour, float [3]."""
        texels, number = self.texels.copy(), self.number
        for channel in range(self.inks):
            shades = repainted(self.mean[channel], self.texels[..., channel], colour[channel])
            texels[..., channel] = shades[self.texels[..., channel]]
        begin = int(model.tex_adr[number])
        with changed(
            (model.tex_height[number : number + 1], texels.shape[0]),
            (model.tex_width[number : number + 1], texels.shape[1]),
            (model.tex_data[begin : begin + texels.size], texels.reshape(-1)),
        ):
            yield


def repainted(mean: float, texels: np.ndarray, value: float) -> np.ndarray:
    """uint8 [256]: what becomes of each shade of a channel whose mean shall be `value`."""
    low, high = texels.min() / 255 - mean, texels.max() / 255 - mean
    rooms = ((value, -low), (1 - value, high))
    flat = min([1.0, *(room / length for room, length in rooms if length > 0)])
    shades = np.arange(256) / 255 - mean
    return finished(255 * (value + flat * shades))


def shrunk(texels: np.ndarray) -> np.ndarray:
    """uint8 [H / k, W / k, C]: means of k x k texels, with edges of `EDGE` texels at least.

    A sky of 800 texels per edge is uploaded 25 times as fast as in full size, and a frame of 100
    pixels shows about a quarter of it. The six faces of a cube lie below each other, and none is
    mixed with another, since k divides the width.
    """
    height, width, channels = texels.shape
    edge = math.gcd(height, width)
    factor = max(k for k in range(1, max(edge // EDGE, 1) + 1) if edge % k == 0)
    parts = texels.reshape(height // factor, factor, width // factor, factor, channels)
    return finished(parts.mean(axis=(1, 3)))


def textures_of(model: Any) -> list[Texture]:
    """The sky and the textures that colour materials."""
    sky = np.flatnonzero(model.tex_type == SKYBOX)[:1]  # MuJoCo draws the first one
    used = model.mat_texid[:, ROLES]
    return [Texture(model, number) for number in np.union1d(used[used >= 0], sky).tolist()]


def surfaces_of(model: Any) -> tuple[np.ndarray, np.ndarray]:
    """bool [M] and [G]: which materials and which geoms are seen in colours of their own.

    Of the others one sees a texture, or the colour of the material.
    """
    materials = (model.mat_texid[:, ROLES] < 0).all(axis=1)
    none = model.geom_matid < 0
    chosen = (model.geom_rgba != UNSET).any(axis=1)
    plain = none.copy()
    plain[~none] = materials[model.geom_matid[~none]]
    return materials, plain & (chosen | none)


def first_of_equals(colours: np.ndarray) -> np.ndarray:
    """int [N]: for each colour [N, 3] the place of the first one that equals it."""
    _, first, inverse = np.unique(colours, axis=0, return_index=True, return_inverse=True)
    return first[inverse.reshape(-1)]
