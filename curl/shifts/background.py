"""Another background: moving pictures take the place of the sky, or of sky and floor.

As `video_easy` and `video_hard` of DMControl-GB (Hansen and Wang 2021) do it: the first replaces
the sky, the second the floor too, and with it what lies on it, shadows and reflections. Where it
differs:

- The pictures are made up, unless there is a folder of some. DMControl-GB has 10 and 100 videos.
- DMControl-GB paints sky and floor green and replaces each pixel that looks green. Here the robot
  is cut out exactly. The frame is drawn before a black background. It is drawn once more in white,
  without light, which says how much of each pixel the robot covers, in as many steps as the frame
  is antialiased with. The picture shines through the rest. Pixels that the robot covers wholly
  are those of the unshifted frame, bit for bit, and edges have no fringe of the old background.
- Time passes with env steps, and not with agent steps.

The floor is whatever stands still and is larger than the robot: planes (MuJoCo has them in the
world alone) and height fields, and slabs and walls that do not move. The rails of a cart, targets
and the bases of arms stay.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from curl.checks import flag, real
from curl.clips import Clip, clips
from curl.pictures import Picture, made_up
from curl.shifts.base import SceneShift, Simulation, changed

LARGE = 0.25  # of the model's extent: half the second longest edge of a slab or wall, at the least
TRIED = 64  # edge of the frame that tells whether there is anything to replace, pixels
SKY = -1


class Background(SceneShift):
    """Moving pictures behind the robot.

    Args:
        floor: whether they take the place of the floor too, and not of the sky alone.
        speed: frames of the picture or video per env step; 0: it stands still.
        folder: of images and videos, and of folders with the frames of one; None: made up.
    """

    rank = 5  # after the scene's other shifts, which may recolour what is replaced
    needs = "background"

    def __init__(self, *, floor: bool, speed: float, folder: str | None) -> None:
        self.floor = flag("floor", floor)
        self.speed = real("speed", speed, low=0)
        self.clips = clips(folder) if folder is not None else []

    def fit(self, name: str, simulation: Simulation | None) -> None:
        super().fit(name, simulation)
        assert simulation is not None
        replaced = [SKY, *np.flatnonzero(self.replaced(simulation))]
        if not np.isin(simulation.visible_geoms(TRIED), replaced).any():
            there = "neither floor nor sky" if self.floor else "no sky"
            hint = "" if self.floor else "; background_hard replaces the floor too"
            raise ValueError(f"the camera of {name} sees {there}{hint}")

    def draw(self, generator: np.random.Generator) -> None:
        self.picture: Picture = (
            Clip(self.clips[generator.integers(len(self.clips))])
            if self.clips
            else made_up(generator)
        )

    @contextlib.contextmanager
    def applied(self, simulation: Simulation | None, time: int, size: int) -> Iterator[None]:
        assert simulation is not None
        model, replaced = simulation.model, self.replaced(simulation)
        black = np.where(replaced[:, None], np.array([0, 0, 0, 1]), model.geom_rgba)
        bare = np.where(replaced, -1, model.geom_matid)  # no texture, nothing that it mirrors
        with simulation.without_sky(), changed((model.geom_rgba, black), (model.geom_matid, bare)):
            yield

    def behind(self, pixels: np.ndarray, simulation: Simulation | None, time: int) -> np.ndarray:
        assert simulation is not None
        size = len(pixels)
        covered = simulation.coverage(size, self.replaced(simulation))
        return over(pixels, covered, self.picture.at(self.speed * time, size))

    def replaced(self, simulation: Simulation) -> np.ndarray:
        """bool [number of geoms]: which of them the pictures take the place of."""
        if self.floor:
            return is_floor(simulation.model)
        return np.zeros(simulation.model.ngeom, bool)


def is_floor(model: Any) -> np.ndarray:
    """bool [number of geoms]: which geoms of a mujoco.MjModel are floor, ground or wall."""
    import mujoco  # chooses OpenGL when it is first imported

    kinds: Any = mujoco.mjtGeom  # pyright: ignore[reportAttributeAccessIssue]
    still = model.body_weldid[model.geom_bodyid] == 0
    endless = np.isin(model.geom_type, [kinds.mjGEOM_PLANE, kinds.mjGEOM_HFIELD])
    flat = np.isin(model.geom_type, [kinds.mjGEOM_BOX, kinds.mjGEOM_MESH])
    second = np.sort(model.geom_aabb[:, 3:], axis=1)[:, 1]  # half of the second longest edge
    return still & (endless | (flat & (second >= LARGE * model.stat.extent)))


def over(pixels: np.ndarray, covered: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """What was drawn before black, over a picture: uint8 [size, size, 3].

    Args:
        covered: uint8 [size, size]: how much of each pixel shows no picture, 255: all of it.
    """
    free = (255 - covered)[..., None].astype(np.uint16)
    through = (picture * free + 127) // 255
    # A lamp may leave a gleam on what was made black.
    drawn = np.where(covered[..., None] > 0, pixels, 0)
    return np.minimum(drawn + through, 255).astype(np.uint8)
