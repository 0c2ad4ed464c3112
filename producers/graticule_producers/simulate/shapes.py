"""Outlines, strokes and smooth noise: what tiles and defects are drawn with."""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Field = NDArray[np.floating]
"""One number for each pixel, height x width."""
Points = NDArray[np.float64]
"""n x 2 positions (x, y) in pixels; (0, 0) = outer corner of the first pixel."""
Size = tuple[int, int]
"""(height, width) in pixels."""

_OVERSAMPLING = 3


def smooth_noise(rng: Generator, size: Size, cell: tuple[float, float]) -> Field:
    """Normal noise whose values change over `cell` = (vertical, horizontal) pixels."""
    height, width = size
    rows, columns = math.ceil(height / cell[0]) + 3, math.ceil(width / cell[1]) + 3
    knots = rng.standard_normal((rows, columns), dtype=np.float32)
    box = (1.0, 1.0, 1.0 + width / cell[1], 1.0 + height / cell[0])
    return np.asarray(Image.fromarray(knots).resize((width, height), Image.Resampling.BICUBIC, box=box))


def filled(size: Size, *outlines: Points) -> Field:
    """How much of each pixel the outlines cover together, 0..1."""
    height, width = size
    coverage = np.zeros(size, dtype=np.float32)
    for outline in outlines:
        left, top = np.clip(np.floor(outline.min(axis=0)).astype(int) - 1, 0, (width, height))
        right, bottom = np.clip(np.ceil(outline.max(axis=0)).astype(int) + 1, 0, (width, height))
        if right > left and bottom > top:
            part = _fill((bottom - top, right - left), outline - (left, top))
            window = (slice(top, bottom), slice(left, right))
            coverage[window] = np.maximum(coverage[window], part)
    return coverage


def stroked(size: Size, path: Points, width: float) -> Field:
    """How much of each pixel a stroke covers that is thickest, `width` pixels, at its start and ends in a point."""
    return filled(size, stroke_outline(path, width))


def stroke_outline(path: Points, width: float) -> Points:
    """The outline of a stroke along `path` that thins out to its end."""
    along = np.gradient(path, axis=0)
    length = np.maximum(np.hypot(along[:, 0], along[:, 1]), 1e-6)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1) / length[:, None]
    half = width / 2 * np.sqrt(np.linspace(1, 0.05, len(path)))[:, None]
    return np.concatenate([path + across * half, (path - across * half)[::-1]])


def blob(rng: Generator, centre: tuple[float, float], radii: tuple[float, float], roughness: float) -> Points:
    """A closed outline around `centre` = (x, y): an ellipse at a random angle with random waves on it."""
    count = max(24, min(160, int(2 * max(radii))))
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    order = np.arange(2, 9)
    phase = rng.uniform(0, 2 * np.pi, len(order))
    waves = (rng.normal(0, 1, len(order)) / order) @ np.cos(order[:, None] * angle + phase[:, None])
    radius = np.clip(1 + roughness * waves, 0.3, 1.9)
    turn = rng.uniform(0, np.pi)
    x, y = radii[0] * radius * np.cos(angle), radii[1] * radius * np.sin(angle)
    return np.stack(
        [centre[0] + x * math.cos(turn) - y * math.sin(turn), centre[1] + x * math.sin(turn) + y * math.cos(turn)],
        axis=1,
    )


def wander(rng: Generator, start: tuple[float, float], heading: float, length: float, restlessness: float) -> Points:
    """A path from `start` = (x, y) towards `heading` (radians) that turns a little at every step."""
    step = 3.0
    count = max(4, int(length / step))
    turns = np.cumsum(rng.normal(0, restlessness, count)) * 0.35 + rng.normal(0, restlessness, count)
    # A crack comes back to its direction: without this pull long ones curl up.
    turns -= np.linspace(0, turns[-1], count)
    steps = step * np.stack([np.cos(heading + turns), np.sin(heading + turns)], axis=1)
    return np.concatenate([np.array([start]), start + np.cumsum(steps, axis=0)])


def softened(field: Field, radius: float) -> Field:
    """Blurred by about `radius` pixels; values of `field` must be 0..1."""
    # Eight bits are plenty for an edge, and Pillow blurs them ten times as fast as numpy does floats.
    coarse = Image.fromarray((field * 255 + 0.5).astype(np.uint8))
    return np.asarray(coarse.filter(ImageFilter.GaussianBlur(radius)), dtype=np.float32) / 255


def _fill(size: Size, outline: Points) -> Field:
    canvas = Image.new("L", (size[1] * _OVERSAMPLING, size[0] * _OVERSAMPLING))
    # Pillow counts from the middle of the first pixel.
    ImageDraw.Draw(canvas).polygon((outline * _OVERSAMPLING - 0.5).ravel().tolist(), fill=255)
    return np.asarray(canvas.reduce(_OVERSAMPLING), dtype=np.float32) / 255
