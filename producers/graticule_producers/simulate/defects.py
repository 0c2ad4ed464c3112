"""The five kinds of defects. Each function changes the canvas and tells which pixels it changed: the exact truth."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from graticule_producers.simulate.shapes import (
    Field,
    Points,
    Size,
    blob,
    filled,
    smooth_noise,
    softened,
    stroked,
    wander,
)
from graticule_producers.simulate.surface import Canvas

Mask = NDArray[np.bool_]
_HALF_COVERED = 0.5


def draw_blowhole(rng: Generator, canvas: Canvas) -> Mask:
    """One or two small pores: dark, darkest on the side away from the lamp, with a lit rim."""
    height, width = canvas.size
    mask = np.zeros(canvas.size, dtype=bool)
    for _ in range(1 + int(rng.random() < 0.2)):
        radius = rng.uniform(3, min(9.5, min(height, width) / 10))
        centre = (float(rng.uniform(0.08, 0.92) * width), float(rng.uniform(0.06, 0.94) * height))
        outline = blob(rng, centre, (radius * rng.uniform(1, 1.7), radius), 0.3)
        hole = filled(canvas.size, outline)
        _carve(rng, canvas, hole, depth=rng.uniform(0.4, 0.65))
        mask |= hole > _HALF_COVERED
    return mask


def draw_crack(rng: Generator, canvas: Canvas) -> Mask:
    """A thin dark line that wanders, often from an edge, with a soft shadow and sometimes a branch."""
    height, width = canvas.size
    length = rng.uniform(0.15, 0.55) * height
    start = (float(rng.uniform(0.12, 0.88) * width), float(rng.choice([0.0, height, rng.uniform(0.15, 0.85) * height])))
    upwards = start[1] > height / 2
    heading = (-1 if upwards else 1) * (math.pi / 2 + rng.normal(0, 0.3))
    path = wander(rng, start, heading, length, restlessness=rng.uniform(0.15, 0.4))
    line = stroked(canvas.size, path, rng.uniform(2.0, 4.0))
    if rng.random() < 0.35:
        fork = path[rng.integers(len(path) // 3, len(path))]
        side = wander(rng, (fork[0], fork[1]), heading + rng.choice([-0.7, 0.7]), length / 3, restlessness=0.3)
        line = np.maximum(line, stroked(canvas.size, side, rng.uniform(1.2, 2.2)))
    shadow = softened(line, 1)
    darkness = np.clip(rng.uniform(0.35, 0.6) * line + 0.45 * shadow, 0, 0.8)
    canvas.tone *= 1 - darkness
    canvas.grain *= 1 - line
    return darkness > 0.1


def draw_break(rng: Generator, canvas: Canvas) -> Mask:
    """A piece that broke off an edge or a corner: no grinding marks, shell-shaped ridges, a lit rim."""
    mask = np.zeros(canvas.size, dtype=bool)
    for _ in range(1 + int(rng.random() < 0.25)):
        radius = rng.uniform(0.07, 0.24) * min(canvas.size)
        centre = _near_the_rim(rng, canvas.size, 0.3 * radius)
        outline = blob(rng, centre, (radius * rng.uniform(1, 1.8), radius), 0.28)
        ragged = filled(canvas.size, outline + rng.normal(0, 0.5, outline.shape))
        rim = np.clip(softened(ragged, 1.2) - ragged, 0, 1)
        shell = _shell(rng, canvas.size, centre)
        canvas.tone *= 1 - ragged * np.clip(rng.uniform(0.25, 0.5) + 0.12 * shell, 0.02, 0.85)
        canvas.tone *= 1 + rng.uniform(0.1, 0.6) * rim
        canvas.grain *= 1 - 0.92 * ragged
        mask |= ragged > _HALF_COVERED
    return mask


def draw_fray(rng: Generator, canvas: Canvas) -> Mask:
    """A patch that the grinding wheel did not reach: raw, mottled, without streaks."""
    outline = _patch(rng, canvas.size) if rng.random() < 0.55 else _tongue(rng, canvas.size)
    within = softened(filled(canvas.size, outline), 3)
    ragged = within + 0.5 * smooth_noise(rng, canvas.size, (5, 4)) * within * (1 - within)
    raw = np.clip((ragged - 0.5) * 4 + 0.5, 0, 1)
    raw[raw < 0.02] = 0
    mottled = 0.03 * smooth_noise(rng, canvas.size, (9, 9)) + 0.04 * smooth_noise(rng, canvas.size, (45, 45))
    shade = float(rng.choice([rng.uniform(0.58, 0.78), rng.uniform(1.06, 1.14)], p=[0.85, 0.15]))
    canvas.tone *= 1 + raw * (shade * (1 + mottled) - 1)
    canvas.grain *= 1 - 0.93 * raw
    canvas.speckle *= 1 - 0.35 * raw
    return raw > _HALF_COVERED


def draw_uneven(rng: Generator, canvas: Canvas) -> Mask:
    """A band or corner that was ground differently: stronger streaks and brighter, or weaker and duller."""
    region = softened(_band(rng, canvas.size), rng.uniform(0.8, 3.5))
    if rng.random() < 0.6:
        brightness, contrast = rng.uniform(1.07, 1.22), rng.uniform(1.4, 2.0)
    else:
        brightness, contrast = rng.uniform(0.78, 0.92), rng.uniform(0.3, 0.65)
    canvas.tone *= 1 + region * (brightness - 1)
    canvas.grain *= 1 + region * (contrast - 1)
    return region > _HALF_COVERED


DRAW: dict[str, Callable[[Generator, Canvas], Mask]] = {
    "blowhole": draw_blowhole,
    "break": draw_break,
    "crack": draw_crack,
    "fray": draw_fray,
    "uneven": draw_uneven,
}


def _carve(rng: Generator, canvas: Canvas, hole: Field, depth: float) -> None:
    """A pit under a lamp that stands at one side."""
    lamp = rng.choice([-1, 1])
    slope = np.roll(softened(hole, 2), lamp, axis=1) - np.roll(softened(hole, 2), -lamp, axis=1)
    canvas.tone *= 1 - np.clip(depth * hole + 0.55 * slope * hole, 0, 0.85)
    canvas.tone *= 1 + 0.25 * np.clip(-slope, 0, 1) * (1 - hole)
    canvas.grain *= 1 - 0.85 * hole


def _shell(rng: Generator, size: Size, centre: tuple[float, float]) -> Field:
    """A few uneven ridges around the place where a piece broke off, with a steep and a flat side, about -1..1."""
    y, x = np.ogrid[: size[0], : size[1]]
    distance = np.hypot(x - centre[0], y - centre[1]).astype(np.float32)
    phase = distance / rng.uniform(16, 34) + 0.9 * smooth_noise(rng, size, (26, 26))
    ridges = np.abs(2 * (phase % 1) ** 1.7 - 1)
    return ridges - 0.5 + 0.7 * smooth_noise(rng, size, (18, 18))


def _near_the_rim(rng: Generator, size: Size, inset: float) -> tuple[float, float]:
    """A place at a corner or along an edge, `inset` pixels within."""
    height, width = size[0] - 2 * inset, size[1] - 2 * inset
    along = float(rng.choice([0.0, 1.0, rng.uniform(0, 1)]))
    side = float(rng.choice([0.0, 1.0]))
    x, y = (along, side) if rng.random() < 0.7 else (side, along)
    return inset + x * width, inset + y * height


def _patch(rng: Generator, size: Size) -> Points:
    height, width = size
    centre = (float(rng.uniform(0.3, 0.7) * width), float(rng.uniform(0.3, 0.7) * height))
    radius = rng.uniform(0.14, 0.28) * math.sqrt(height * width)
    return blob(rng, centre, (min(radius * 1.15, 0.48 * width), min(radius * 0.85, 0.48 * height)), 0.16)


def _tongue(rng: Generator, size: Size) -> Points:
    """An arch that stands on the lower edge."""
    height, width = size
    middle, half, top = rng.uniform(0.35, 0.65) * width, rng.uniform(0.12, 0.24) * width, rng.uniform(0.1, 0.5) * height
    x = np.linspace(-1, 1, 60)
    flanks = np.sqrt(np.maximum(1 - np.abs(x) ** 3, 0))
    wobble = rng.normal(0, 0.004 * height, len(x)) + 0.02 * height * np.sin(rng.uniform(3, 7) * x)
    arch = np.stack([middle + half * (1 + 0.25 * (1 - flanks)) * x, height - (height - top) * flanks + wobble], axis=1)
    foot = np.array([[arch[-1, 0], height + 8.0], [arch[0, 0], height + 8.0]])
    return np.concatenate([arch, foot])


def _band(rng: Generator, size: Size) -> Field:
    """Between two wavy lines across the tile, or beyond one of them; sometimes only a corner."""
    height, width = size
    x = np.linspace(0, 1, width, dtype=np.float32)
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    wave = 0.012 * smooth_noise(rng, (1, width), (1, max(8.0, width / 7)))
    is_corner = rng.random() < 0.3
    slope = float(rng.choice([-1, 1])) * rng.uniform(0.4, 0.8) if is_corner else rng.normal(0, 0.06)
    position = y + slope * (x - 0.5) + wave
    share = rng.uniform(0.1, 0.4)
    kinds = ("top", "bottom") if is_corner else ("top", "bottom", "across")
    kind = rng.choice(kinds)
    if kind == "across":
        start = rng.uniform(0.1, 0.9 - share)
        return ((position > start) & (position < start + share)).astype(np.float32)
    return (position < share if kind == "top" else position > 1 - share).astype(np.float32)
