"""Outlines of labelled objects as polygons, exact along the pixels' edges."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float]
Ring = list[Point]
"""Corners of a closed line, the first one again at the end."""

_Corner = tuple[int, int]
_TURNS = {(1, 0): ((0, 1), (1, 0), (0, -1)), (0, 1): ((-1, 0), (0, 1), (1, 0))}
_TURNS |= {(-dx, -dy): tuple((-x, -y) for x, y in turns) for (dx, dy), turns in tuple(_TURNS.items())}
"""Directions to try after each one: first the one that keeps pixels apart that only share a corner."""


def outline(inside: NDArray[np.bool_], left: int = 0, top: int = 0) -> list[list[Ring]]:
    """Polygons around the True pixels, each an outer ring and the rings of its holes.

    Coordinates as in measurements: x to the right, y down, (0, 0) the centre of the picture's first pixel. `left`,
    `top`: where the first column and row of `inside` lie in the picture, px.
    """
    rings = _rings(inside)
    outer = [ring for ring in rings if _area(ring) > 0]
    holes = [ring for ring in rings if _area(ring) < 0]
    polygons = [[ring] for ring in outer]
    for hole in holes:
        _around(hole, polygons).append(hole)
    return [[_placed(ring, left, top) for ring in polygon] for polygon in polygons]


def _rings(inside: NDArray[np.bool_]) -> list[list[_Corner]]:
    """Closed lines along the pixels' edges, the inside on the right hand (y down)."""
    ahead = _edges(inside)
    rings = []
    while ahead:
        rings += _simple(_walk(next(iter(ahead)), ahead))
    return rings


def _edges(inside: NDArray[np.bool_]) -> dict[_Corner, set[_Corner]]:
    """Corner -> directions of the edges that begin there."""
    padded = np.pad(inside, 1)
    ahead: defaultdict[_Corner, set[_Corner]] = defaultdict(set)
    core = padded[1:-1, 1:-1]
    for neighbour, (x, y), direction in (
        (padded[:-2, 1:-1], (0, 0), (1, 0)),
        (padded[1:-1, 2:], (1, 0), (0, 1)),
        (padded[2:, 1:-1], (1, 1), (-1, 0)),
        (padded[1:-1, :-2], (0, 1), (0, -1)),
    ):
        for row, column in np.argwhere(core & ~neighbour).tolist():
            ahead[column + x, row + y].add(direction)
    return dict(ahead)


def _walk(start: _Corner, ahead: dict[_Corner, set[_Corner]]) -> list[_Corner]:
    """Follow the edges from a corner until they close; they are used up. Straight runs have no corners."""
    first = direction = next(iter(ahead[start]))
    corners, at = [start], start
    while True:
        _use_up(at, direction, ahead)
        at = (at[0] + direction[0], at[1] + direction[1])
        turned = _turn(direction, ahead.get(at, set()) | ({first} if at == start else set()))
        if at == start and turned == first:
            return [*corners, start]
        if turned != direction:
            corners.append(at)
        direction = turned


def _turn(direction: _Corner, possible: set[_Corner]) -> _Corner:
    return next(turn for turn in _TURNS[direction] if turn in possible)


def _simple(ring: list[_Corner]) -> list[list[_Corner]]:
    """A ring that touches itself as several that do not: a polygon with holes instead of a pinched one."""
    rings, path, places = [], list[_Corner](), dict[_Corner, int]()
    for corner in ring[:-1]:
        if corner in places:
            loop = path[places[corner] :]
            rings.append([*loop, corner])
            del path[places[corner] :]
            for passed in loop:
                del places[passed]
        places[corner] = len(path)
        path.append(corner)
    return [*rings, [*path, path[0]]]


def _use_up(at: _Corner, direction: _Corner, ahead: dict[_Corner, set[_Corner]]) -> None:
    ahead[at].discard(direction)
    if not ahead[at]:
        del ahead[at]


def _area(ring: list[_Corner]) -> float:
    """Area inside; negative when the line runs around a hole."""
    pairs = pairwise(ring)
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairs) / 2


def _around(hole: list[_Corner], polygons: list[list[list[_Corner]]]) -> list[list[_Corner]]:
    """The smallest polygon that a hole lies in."""
    # Below an edge that leads to the right there is a pixel of the object.
    x, y = next((x0 + 0.5, y0 + 0.5) for (x0, y0), (x1, _) in pairwise(hole) if x1 > x0)
    candidates = [polygon for polygon in polygons if _contains(polygon[0], x, y)]
    return min(candidates, key=lambda polygon: _area(polygon[0]))


def _contains(ring: list[_Corner], x: float, y: float) -> bool:
    """Whether a pixel's centre lies inside a ring: the upright edges to the right of it are odd in number."""
    edges = pairwise(ring)
    return sum(x0 == x1 > x and min(y0, y1) < y < max(y0, y1) for (x0, y0), (x1, y1) in edges) % 2 == 1


def _placed(ring: list[_Corner], left: int, top: int) -> Ring:
    return [(x + left - 0.5, y + top - 0.5) for x, y in ring]


def outline_of(mask: NDArray[Any], number: int, box: tuple[int, int, int, int]) -> list[list[Ring]]:
    """Polygons of the object `number` of a mask, within its bounding box (left, top, right, bottom)."""
    left, top, right, bottom = box
    return outline(mask[top:bottom, left:right] == number, left, top)
