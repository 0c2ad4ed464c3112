"""What is in a simulated TEM specimen: voids, dislocation loops and lines, and how they change from frame to frame."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from graticule_producers.simulate.shapes import Points, Size

MARGIN = 64
"""Pixels around the picture in which things lie, too: the field of view drifts."""
_TRIES = 5
"""Places that are tried for each void: a crowded specimen gets fewer."""


@dataclass(frozen=True)
class Void:
    """A cavity. Lengths in pixels of the undrifted picture."""

    identity: int
    """1, 2, ... within the specimen."""
    centre: tuple[float, float]
    """(x, y)."""
    radius: float
    """Of the circle that the facets touch, in the first frame."""
    facets: int
    """Sides of its outline; 0: round."""
    angle: float
    steepness: float
    """How fast the depth grows from its outline inwards, pixels for each pixel."""
    inside: float
    """Change of brightness inside, as far as it is no phase contrast: part of the surroundings'."""
    growth: float = 0.0
    """Pixels a frame."""
    born: int = 0
    """First frame in which it is there."""

    def radius_at(self, frame: int) -> float:
        """Radius in a frame; 0 before it is born."""
        return self.radius + self.growth * (frame - self.born) if frame >= self.born else 0.0

    def outline(self, frame: int, drift: NDArray[np.float64]) -> Points:
        """Its outline in a frame, n x (x, y)."""
        radius, sides = self.radius_at(frame), self.facets or 48
        corners = self.angle + 2 * np.pi * (np.arange(sides) + 0.5) / sides
        outer = radius / math.cos(math.pi / sides)
        return np.stack([np.cos(corners), np.sin(corners)], axis=1) * outer + self.centre + drift


@dataclass(frozen=True)
class Loop:
    """A dislocation loop: an ellipse with two dark lobes, or edge on a dark stroke."""

    centre: tuple[float, float]
    radii: tuple[float, float]
    angle: float
    lobes: float
    """Direction of the lobes."""
    width: float
    darkness: float


@dataclass(frozen=True)
class Line:
    """A dislocation line."""

    path: Points
    width: float
    darkness: float


@dataclass(frozen=True)
class Specimen:
    """Everything in one field of view, and how the stage drifts."""

    size: Size
    voids: tuple[Void, ...]
    loops: tuple[Loop, ...]
    lines: tuple[Line, ...]
    drift: NDArray[np.float64] = field(repr=False)
    """frames x (x, y), px; the first row is (0, 0)."""


def draw_specimen(rng: Generator, size: Size, frames: int = 1) -> Specimen:
    """A specimen, some of them clean, some full of dislocations."""
    scale = min(size) / 1024
    grain = rng.uniform(0, math.pi / 3)
    drift = _drift(rng, frames)
    tangled = rng.random() < 0.35
    return Specimen(
        size=size,
        voids=_voids(rng, size, scale, grain, frames),
        loops=tuple(_loop(rng, size) for _ in range(_number(rng, 10, 70, scale))),
        lines=_lines(rng, size, _number(rng, 40, 140, scale) if tangled else _number(rng, 0, 12, scale)),
        drift=drift,
    )


def _number(rng: Generator, low: int, high: int, scale: float) -> int:
    """How many of a kind there are: as many for each area whatever the picture's size, but few of them at least."""
    return int(rng.integers(low, high + 1) * max(scale**2, 0.1))


def _drift(rng: Generator, frames: int) -> NDArray[np.float64]:
    """A stage that creeps one way and trembles."""
    creep = rng.normal(0, 0.35, 2)
    steps = creep + rng.normal(0, 0.45, (frames, 2))
    steps[0] = 0
    return np.clip(np.cumsum(steps, axis=0), -MARGIN + 8, MARGIN - 8)


def _voids(rng: Generator, size: Size, scale: float, grain: float, frames: int) -> tuple[Void, ...]:
    """None of them overlap, not even when they have grown."""
    typical = rng.uniform(7, 18)
    facets = int(rng.choice([6, 6, 6, 8, 4, 0]))
    steepness = float(np.exp(rng.uniform(math.log(3), math.log(20))))
    grows = frames > 1
    made: list[Void] = []
    wanted = _number(rng, 25, 110, scale)
    for _ in range(_TRIES * wanted):
        radius = float(np.clip(rng.lognormal(math.log(typical), 0.3), 4, 40))
        growth = float(np.clip(rng.normal(0.04, 0.03), 0, 0.12)) * min(1.0, 60 / frames) if grows else 0.0
        born = int(rng.integers(1, max(2, frames))) if grows and rng.random() < 0.15 else 0
        void = Void(
            identity=len(made) + 1,
            centre=_somewhere(rng, size),
            radius=radius,
            facets=facets,
            angle=grain + rng.normal(0, 0.03),
            steepness=steepness,
            inside=float(rng.uniform(-0.14, 0.12)),
            growth=growth,
            born=born,
        )
        if all(_apart(void, other, frames) for other in made):
            made.append(void)
        if len(made) == wanted:
            break
    return tuple(made)


def _apart(one: Void, other: Void, frames: int) -> bool:
    distance = math.dist(one.centre, other.centre)
    reach = 1.16 * (one.radius + one.growth * frames + other.radius + other.growth * frames)
    return distance > reach + 6


def _loop(rng: Generator, size: Size) -> Loop:
    large = float(np.clip(rng.lognormal(math.log(11), 0.45), 4, 40))
    edge_on = rng.random() < 0.25
    return Loop(
        centre=_somewhere(rng, size),
        radii=(large, large * (rng.uniform(0.2, 0.35) if edge_on else rng.uniform(0.45, 0.95))),
        angle=rng.uniform(0, math.pi),
        lobes=rng.uniform(0, math.pi),
        width=rng.uniform(1.5, 4.0),
        darkness=rng.uniform(0.25, 0.9) if edge_on else rng.uniform(0.12, 0.65),
    )


def _lines(rng: Generator, size: Size, count: int) -> tuple[Line, ...]:
    """Winding lines, most of them along one direction, as on a glide plane."""
    main = rng.uniform(0, math.pi)
    return tuple(_line(rng, size, main) for _ in range(count))


def _line(rng: Generator, size: Size, main: float) -> Line:
    length = int(rng.integers(12, 60))
    heading = main + rng.normal(0, 0.6) + np.cumsum(rng.normal(0, 0.35, length))
    steps = 4.0 * np.stack([np.cos(heading), np.sin(heading)], axis=1)
    path = np.array(_somewhere(rng, size)) + np.cumsum(steps, axis=0)
    return Line(path=path, width=rng.uniform(1.5, 4.0), darkness=rng.uniform(0.1, 0.5))


def _somewhere(rng: Generator, size: Size) -> tuple[float, float]:
    height, width = size
    return float(rng.uniform(-MARGIN / 2, width + MARGIN / 2)), float(rng.uniform(-MARGIN / 2, height + MARGIN / 2))
