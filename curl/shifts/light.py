"""Other light: from elsewhere, brighter or dimmer, with or without shadows.

RL-ViGen (Yuan et al. 2023) changes the place and the colour of lights; DMControl-GB and the
Distracting Control Suite do not change light. The strengths are therefore our own.

Each light circles the point at which it shines, about a horizontal axis that all lights of an
episode share, and so it still shines there. The lights of the model and the headlight, which is at
the camera, become brighter or dimmer by one factor each: ambient, diffuse and specular light alike.
The sky is not lit. Shadows move with the lights, and some episodes have none.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from curl.checks import real
from curl.shifts.base import SceneShift, Simulation, along, changed, initial


class Light(SceneShift):
    """Light that is drawn for each episode.

    Args:
        angle: degrees, the most that the direction of lights turns.
        dimmest: the least factor of intensities. brightest: the largest.
        shadowless: probability that an episode has no shadows.
    """

    needs = "light"

    def __init__(
        self, *, angle: float, dimmest: float, brightest: float, shadowless: float
    ) -> None:
        self.angle = real("angle", angle, low=0, high=80)
        self.dimmest = real("dimmest", dimmest, low=0, high=1, open_low=True)
        self.brightest = real("brightest", brightest, low=1)
        self.shadowless = real("shadowless", shadowless, low=0, high=1)
        self.model: Any = None

    def draw(self, generator: np.random.Generator) -> None:
        towards = generator.uniform(0, 2 * math.pi)
        self.axis = np.array([math.cos(towards), math.sin(towards), 0])
        self.turn = generator.uniform(0, self.angle)
        low, high = math.log(self.dimmest), math.log(self.brightest)
        self.lights, self.headlight = np.exp(generator.uniform(low, high, 2))
        self.shadows = generator.uniform() >= self.shadowless

    @contextlib.contextmanager
    def applied(self, simulation: Simulation | None, time: int, size: int) -> Iterator[None]:
        assert simulation is not None
        model, data = simulation.model, simulation.data
        if self.model is not model:
            self.model, self.distances = model, distances_of(model)
        turned = about(self.axis, self.turn)
        directions = data.light_xdir @ turned.T
        places = data.light_xpos + self.distances * (data.light_xdir - directions)
        changes: list[tuple[np.ndarray, Any]] = [
            (data.light_xdir, directions),
            (data.light_xpos, places),
            (model.light_castshadow, model.light_castshadow & self.shadows),
        ]
        for owner, kind, factor in (
            (model, "light_{}", self.lights),
            (model.vis.headlight, "{}", self.headlight),
        ):
            for part in ("ambient", "diffuse", "specular"):
                values = getattr(owner, kind.format(part))
                changes.append((values, factor * values))
        with changed(*changes):
            yield


def distances_of(model: Any) -> np.ndarray:
    """float [L, 1]: from each light along its direction to the robot, in the initial pose."""
    data = initial(model)
    pairs = zip(data.light_xpos, data.light_xdir, strict=True)
    found = [along(place, direction, model, data) for place, direction in pairs]
    return np.array(found).reshape(-1, 1)


def about(axis: np.ndarray, degrees: float) -> np.ndarray:
    """float [3, 3]: the rotation about an axis of length 1, by Rodrigues' formula."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = math.radians(degrees)
    return np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
