"""Moving pictures that are made up: noise, plasma, drifting shapes.

Each is drawn once from a generator, and is from then on a function of the time and of the size
alone: it shows the same picture in small frames and in large ones. Time is counted in frames of a
video of 25 per second, so that they move about as fast as a video of a street or of the sea does.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

TURN = 2 * np.pi
COLOURS = 256  # of a palette
ANCHORS = 5  # colours of a palette that are drawn; the others lie between them


class Picture(Protocol):
    """What moves."""

    def at(self, frame: float, size: int) -> np.ndarray:
        """uint8 [size, size, 3] at the time `frame` >= 0; the same whenever it is asked for."""
        ...


def made_up(generator: np.random.Generator) -> Picture:
    """One of them."""
    kinds = (Noise, Plasma, Shapes)
    return kinds[generator.integers(len(kinds))](generator)


class Noise:
    """Smooth noise that drifts and changes, of several sizes on top of each other, as clouds are.

    Value noise: random numbers on a lattice, and smooth transitions between them.
    """

    CELLS = (3, 6, 12, 24)  # of the lattices, per edge of the frame
    FASTEST = 0.02  # edges of the frame per frame
    PERIOD = 80  # frames in which the numbers of the lattice change, at the least

    def __init__(self, generator: np.random.Generator) -> None:
        self.palette = palette(generator)
        self.phases = [generator.uniform(0, TURN, (cells, cells)) for cells in self.CELLS]
        self.rates = [
            generator.uniform(-TURN, TURN, (cells, cells)) / self.PERIOD for cells in self.CELLS
        ]
        self.drifts = generator.uniform(-self.FASTEST, self.FASTEST, (len(self.CELLS), 2))
        self.bands = generator.uniform(0.2, 0.5)

    def at(self, frame: float, size: int) -> np.ndarray:
        field = np.zeros((size, size))
        layers = zip(self.CELLS, self.phases, self.rates, self.drifts, strict=True)
        for cells, phases, rates, (down, right) in layers:
            lattice = np.cos(phases + rates * frame)
            rows = transitions(places(size) + down * frame, cells)
            columns = transitions(places(size) + right * frame, cells)
            field += rows @ lattice @ columns.T * self.CELLS[0] / cells
        return coloured(field * self.bands, self.palette)


def transitions(where: np.ndarray, cells: int) -> np.ndarray:
    """[N, cells]: the weights of the lattice's numbers at N places; 1 is a lattice's length."""
    before, share = np.divmod(where * cells, 1)
    share = share * share * (3 - 2 * share)  # smoothstep: no kinks at the lattice's numbers
    first = before.astype(int) % cells
    weights, each = np.zeros((len(where), cells)), np.arange(len(where))
    weights[each, first] = 1 - share
    weights[each, (first + 1) % cells] += share
    return weights


class Plasma:
    """Waves in several directions, and rings around a point that wanders."""

    WAVES = 3
    FASTEST = 0.02  # waves per frame

    def __init__(self, generator: np.random.Generator) -> None:
        self.palette = palette(generator)
        self.numbers = generator.uniform(-2, 2, (self.WAVES, 2))  # waves per edge of the frame
        self.phases = generator.uniform(0, TURN, self.WAVES)
        self.rates = TURN * generator.uniform(-self.FASTEST, self.FASTEST, self.WAVES)
        self.rings = generator.uniform(1, 3)  # waves per edge of the frame
        self.orbit = generator.uniform(0, TURN, 2), TURN * generator.uniform(-0.01, 0.01, 2)
        self.flow = generator.uniform(-0.01, 0.01)  # palettes per frame

    def at(self, frame: float, size: int) -> np.ndarray:
        where = places(size)
        field = np.full((size, size), self.flow * frame)
        for (down, right), phase, rate in zip(self.numbers, self.phases, self.rates, strict=True):
            rows, columns = TURN * down * where, TURN * right * where + phase + rate * frame
            # The sine of a sum, from those of its parts: of 2 x size numbers, and not of size^2.
            field += 0.12 * (
                np.outer(np.sin(rows), np.cos(columns)) + np.outer(np.cos(rows), np.sin(columns))
            )
        start, rate = self.orbit
        row, column = 0.5 + 0.5 * np.sin(start + rate * frame)
        distance = np.sqrt((where[:, None] - row) ** 2 + (where - column) ** 2)
        field += 0.12 * np.sin(TURN * self.rings * distance)
        return coloured(field, self.palette)


class Shapes:
    """Disks and rectangles of one colour each, which drift over a gradient."""

    NUMBER = 12
    FASTEST = 0.02  # edges of the frame per frame
    SMALLEST, LARGEST = 0.06, 0.25  # half their size, in edges of the frame

    def __init__(self, generator: np.random.Generator) -> None:
        self.palette = palette(generator)
        self.gradient = generator.uniform(-0.5, 0.5, 2)
        self.round = generator.random(self.NUMBER) < 0.5
        self.halves = generator.uniform(self.SMALLEST, self.LARGEST, (self.NUMBER, 2))
        self.colours = generator.uniform(0, 255, (self.NUMBER, 3)).astype(np.float32)
        self.begins = generator.uniform(0, 1, (self.NUMBER, 2))
        self.drifts = generator.uniform(-self.FASTEST, self.FASTEST, (self.NUMBER, 2))

    def at(self, frame: float, size: int) -> np.ndarray:
        where = places(size)
        down, right = self.gradient
        ground = down * where[:, None] + right * where
        pixels = coloured(ground, self.palette).astype(np.float32)
        wide = 1 + 2 * self.LARGEST  # a shape that leaves comes back at the other side
        centres = (self.begins * wide + self.drifts * frame) % wide - self.LARGEST
        for number, centre in enumerate(centres):
            half = self.halves[number, 0] if self.round[number] else self.halves[number]
            within = tuple(
                slice(
                    *np.searchsorted(where, [middle - reach - 1 / size, middle + reach + 1 / size])
                )
                for middle, reach in zip(centre, np.broadcast_to(half, 2), strict=True)
            )
            rows, columns = (
                np.abs(where[part] - middle) for part, middle in zip(within, centre, strict=True)
            )
            if self.round[number]:
                inside = half - np.sqrt(rows[:, None] ** 2 + columns**2)
            else:
                inside = np.minimum((half[0] - rows)[:, None], half[1] - columns)
            covered = np.clip(inside * size + 0.5, 0, 1)[..., None].astype(np.float32)
            pixels[within] += covered * (self.colours[number] - pixels[within])
        return np.rint(pixels).astype(np.uint8)


def places(size: int) -> np.ndarray:
    """The middles of `size` pixels along an edge of length 1."""
    return (np.arange(size) + 0.5) / size


def palette(generator: np.random.Generator) -> np.ndarray:
    """uint8 [256, 3]: random colours, one after the other, back to the first."""
    anchors = generator.uniform(0, 255, (ANCHORS, 3))
    return np.rint(transitions(np.arange(COLOURS) / COLOURS, ANCHORS) @ anchors).astype(np.uint8)


def coloured(field: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """uint8 [..., 3] of a field; when it has grown by 1 the palette begins anew."""
    return colours[np.floor(field * len(colours)).astype(np.int64) % len(colours)]
