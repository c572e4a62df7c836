"""Another camera: from elsewhere, turned, nearer or farther away, with another lens.

The angles and distances are those of the Distracting Control Suite (Stone et al. 2021), which
scales 90 degrees, 50 % and 150 % with one number. Where it differs: the camera stays where it is
through an episode (there it moves as well); the field of view changes, too; angles are those of
the camera's own axes, so that a camera that looks from above is moved as one from the side; and
the point that it circles is the one on its line of sight that is as far away as the robot is in the
model's initial pose. The camera therefore shows the robot where it showed it before, and one that
follows the robot still does. It does not go below the floor: the vertical angle is then reversed,
or left out if that does not help.

A free camera, which Gymnasium's models without cameras have, cannot roll in MuJoCo: it changes in
all but that.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from curl.checks import real
from curl.shifts.base import SceneShift, Simulation, along, changed, initial

PLANE = 0  # mjGEOM_PLANE
ABOVE = 0.05  # least height over the floor, as a share of the distance to the robot
STEEPEST = 89.0  # degrees, of a free camera's elevation: beyond the pole it would turn over


class Camera(SceneShift):
    """A camera whose place and lens are drawn for each episode.

    Args:
        angle: degrees, the most that it circles the robot, both horizontally and vertically.
        roll: degrees, the most that it turns about its line of sight.
        nearer: the most that its distance to the robot shrinks, as a share of it.
        farther: the most that this distance grows, as a share of it.
        field_of_view: the most that the angle of view grows or shrinks, as a share of it.
    """

    needs = "camera"

    def __init__(
        self, *, angle: float, roll: float, nearer: float, farther: float, field_of_view: float
    ) -> None:
        self.angle = real("angle", angle, low=0, high=90)
        self.roll = real("roll", roll, low=0, high=180)
        self.nearer = real("nearer", nearer, low=0, high=0.9)
        self.farther = real("farther", farther, low=0)
        self.field_of_view = real("field_of_view", field_of_view, low=0, high=0.9)
        self.model: Any = None

    def draw(self, generator: np.random.Generator) -> None:
        self.horizontal, self.vertical = generator.uniform(-self.angle, self.angle, 2)
        self.turn = generator.uniform(-self.roll, self.roll)
        self.zoom = generator.uniform(1 - self.nearer, 1 + self.farther)
        self.view = generator.uniform(1 - self.field_of_view, 1 + self.field_of_view)

    @contextlib.contextmanager
    def applied(self, simulation: Simulation | None, time: int, size: int) -> Iterator[None]:
        assert simulation is not None
        if self.model is not simulation.model:
            self.model = simulation.model
            self.initial = initial(self.model)
            self.floor = floor_of(self.model, self.initial)
        shifted = self._free if simulation.camera == -1 else self._of_the_model
        with shifted(simulation, size):
            yield

    @contextlib.contextmanager
    def _of_the_model(self, simulation: Simulation, size: int) -> Iterator[None]:
        model, data, number = simulation.model, simulation.data, simulation.camera
        distance = along(
            self.initial.cam_xpos[number],
            -self.initial.cam_xmat[number].reshape(3, 3)[:, 2],  # a camera looks along -z
            self.model,
            self.initial,
        )
        axes = data.cam_xmat[number].reshape(3, 3)
        pivot = data.cam_xpos[number] - distance * axes[:, 2]
        distance *= self.zoom
        for vertical in (-self.vertical, self.vertical, 0.0):
            turned = axes @ rotation(1, self.horizontal) @ rotation(0, vertical)
            place = pivot + distance * turned[:, 2]
            if place[2] >= self.floor + ABOVE * distance:
                break
        rolled = turned @ rotation(2, self.turn)  # pyright: ignore
        with changed(
            (data.cam_xpos[number], place),  # pyright: ignore
            (data.cam_xmat[number], rolled.reshape(-1)),
            (model.cam_fovy[number : number + 1], self.view * model.cam_fovy[number]),
        ):
            yield

    @contextlib.contextmanager
    def _free(self, simulation: Simulation, size: int) -> Iterator[None]:
        camera, vis = simulation.free_camera(size), simulation.model.vis.global_
        before = camera.azimuth, camera.elevation, camera.distance, vis.fovy
        azimuth, elevation, distance, fovy = before
        distance *= self.zoom
        for vertical in (self.vertical, -self.vertical, 0.0):
            # A negative elevation looks down, from above.
            turned = max(min(elevation - vertical, STEEPEST), -STEEPEST) if vertical else elevation
            height = camera.lookat[2] - distance * math.sin(math.radians(turned))
            if height >= self.floor + ABOVE * distance:
                break
        try:
            camera.azimuth, camera.elevation = azimuth + self.horizontal, turned  # pyright: ignore
            camera.distance, vis.fovy = distance, self.view * fovy
            yield
        finally:
            camera.azimuth, camera.elevation, camera.distance, vis.fovy = before


def rotation(axis: int, degrees: float) -> np.ndarray:
    """float [3, 3]: about the first, second or third axis."""
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    turned = np.eye(3)
    one, other = (axis + 1) % 3, (axis + 2) % 3
    turned[one, one] = turned[other, other] = cosine
    turned[one, other], turned[other, one] = -sine, sine
    return turned


def floor_of(model: Any, data: Any) -> float:
    """Height of the highest horizontal plane that is fixed to the world; -inf without one."""
    planes = (model.geom_type == PLANE) & (model.geom_bodyid == 0)
    level = planes & (data.geom_xmat[:, 8] > 0.99)
    return float(max(data.geom_xpos[level, 2], default=-math.inf))
