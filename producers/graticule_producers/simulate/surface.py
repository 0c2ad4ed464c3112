"""The surface of a good tile: light, grinding marks, dirt, and the tile's own edges in the picture.

The constants are those of photographs of real tiles: relative contrast of the grain 0.065, of which half is still
there 8 pixels further along the grinding direction, a third 32 pixels further, and a quarter only in one pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from PIL import Image

from graticule_producers.simulate.shapes import (
    Field,
    Points,
    Size,
    blob,
    filled,
    smooth_noise,
    softened,
    stroke_outline,
    wander,
)


@dataclass
class Canvas:
    """A picture that is being made. Its brightness is tone * (1 + grain + speckle)."""

    tone: Field
    """Brightness without any texture, 0..255."""
    grain: Field
    """What the grinding marks add, relative to the tone."""
    speckle: Field
    """What the roughness of the material adds, relative to the tone."""

    @property
    def size(self) -> Size:
        """(height, width) in pixels."""
        height, width = self.tone.shape
        return height, width

    def expose(self, rng: Generator) -> np.ndarray:
        """The picture as a camera with 8 bits and a little noise gives it."""
        light = self.tone * (1 + self.grain + self.speckle)
        light += rng.standard_normal(self.size, dtype=np.float32) * (0.6 + 0.05 * np.sqrt(np.maximum(light, 0)))
        return np.clip(np.rint(light), 0, 255).astype(np.uint8)


def draw_surface(rng: Generator, size: Size) -> Canvas:
    """A good tile."""
    canvas = Canvas(tone=_light(rng, size), grain=_grain(rng, size), speckle=_speckle(rng, size))
    _add_dirt(rng, canvas)
    _add_edges(rng, canvas)
    return canvas


def _light(rng: Generator, size: Size) -> Field:
    """A lamp over a curved surface: broad gradients, darker towards the sides."""
    height, width = size
    exposure = float(np.clip(np.exp(rng.normal(np.log(88), 0.33)), 52, 165))
    x = np.linspace(-1, 1, width, dtype=np.float32)
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    axis = rng.uniform(-0.35, 0.35)
    across = 1 - rng.uniform(0.1, 0.5) * np.abs(x - axis) ** rng.uniform(2, 4)
    along = 1 + rng.normal(0, 0.07) * y - rng.uniform(0, 0.1) * y**2
    clouds = 1 + rng.uniform(0.06, 0.18) * smooth_noise(rng, size, (height / 1.6, width / 2.2))
    mottling = 1 + 0.022 * smooth_noise(rng, size, (28, 22))
    return np.maximum(exposure * across * along * clouds * mottling, 4).astype(np.float32)


def _grain(rng: Generator, size: Size) -> Field:
    """Grinding marks: bright streaks of many lengths, in bands that differ in strength."""
    height, width = size
    margin = 12
    wide = (height, width + 2 * margin)
    lengths_and_shares = ((260, 0.5), (70, 0.45), (20, 0.42))
    marks = sum(share * smooth_noise(rng, wide, (length, 1.05)) for length, share in lengths_and_shares)
    marks = np.exp(0.65 * marks)
    marks -= marks.mean()
    strength = np.exp(0.45 * smooth_noise(rng, wide, (170, 26)))
    strength *= rng.uniform(0.08, 0.16)
    return _sheared(marks * strength, rng.normal(0, 0.012), margin)


def _sheared(field: Field, slope: float, margin: int) -> Field:
    """Tilt the streaks: no tile lies quite straight under the camera."""
    height, width = field.shape[0], field.shape[1] - 2 * margin
    slope = float(np.clip(slope, -margin / height, margin / height))
    shear = (1, slope, margin - slope * height / 2, 0, 1, 0)
    image = Image.fromarray(np.ascontiguousarray(field, dtype=np.float32))
    return np.array(image.transform((width, height), Image.Transform.AFFINE, shear, Image.Resampling.BILINEAR))


def _speckle(rng: Generator, size: Size) -> Field:
    height, width = size
    fine = rng.standard_normal((height + 1, width), dtype=np.float32)
    return (0.8 * fine[:-1] + 0.4 * fine[1:]) * np.float32(rng.uniform(0.03, 0.06))


def _add_dirt(rng: Generator, canvas: Canvas) -> None:
    """Stains, hair-fine scratches and specks that every tile has and that are no defects."""
    height, width = canvas.size
    stains = [_stain(rng, canvas.size) for _ in range(rng.integers(0, 4))]
    if stains:
        canvas.tone *= 1 - rng.uniform(0.02, 0.07) * softened(filled(canvas.size, *stains), 3)
    scratches = [_scratch(rng, canvas.size) for _ in range(rng.integers(0, 5))]
    canvas.tone *= 1 + rng.uniform(-0.14, -0.04) * filled(canvas.size, *scratches)
    count = rng.integers(0, 14)
    rows, columns = rng.integers(0, height, count), rng.integers(0, width, count)
    canvas.tone[rows, columns] *= rng.uniform(0.6, 1.35, count).astype(np.float32)


def _stain(rng: Generator, size: Size) -> Points:
    return blob(rng, _somewhere(rng, size), (rng.uniform(5, 28), rng.uniform(5, 28)), 0.4)


def _scratch(rng: Generator, size: Size) -> Points:
    path = wander(rng, _somewhere(rng, size), rng.uniform(0, 2 * np.pi), rng.uniform(12, 70), 0.25)
    return stroke_outline(path, rng.uniform(0.8, 1.6))


def _add_edges(rng: Generator, canvas: Canvas) -> None:
    """The tile does not fill the picture: dark background, a bright chamfer, corners that are not square."""
    height, width = canvas.size
    x = np.arange(width, dtype=np.float32)
    y = np.arange(height, dtype=np.float32)[:, None]
    for from_edge in (x, width - 1 - x):
        _add_side(rng, canvas, from_edge, y / height)
    bow = (2 * x / width - 1) ** 2
    for from_edge in (y, height - 1 - y):
        if rng.random() < 0.45:
            level = rng.uniform(-2, 3) + rng.uniform(-5, 5) * bow + rng.normal(0, 3) * (x / width - 0.5)
            _darken_outside(rng, canvas, from_edge - level)


def _add_side(rng: Generator, canvas: Canvas, from_edge: Field, down: Field) -> None:
    width = float(rng.choice([0.0, rng.uniform(0, 2), rng.uniform(2, 7)], p=[0.48, 0.34, 0.18]))
    distance = from_edge - width - rng.normal(0, 1.5) * (down - 0.5)
    if rng.random() < 0.4:
        chamfer = rng.uniform(2, 9)
        shine = np.clip(1 - np.abs(distance - chamfer) / rng.uniform(1.5, 4), 0, 1)
        canvas.tone *= 1 + rng.uniform(0.15, 0.7) * shine * (0.6 + 0.4 * np.sin(5 * down + rng.uniform(0, 6)))
    if width:
        _darken_outside(rng, canvas, distance)


def _darken_outside(rng: Generator, canvas: Canvas, distance: Field) -> None:
    """Background where `distance` to the tile's edge is negative."""
    beyond = np.maximum(distance, 0)
    falloff = 1 - rng.uniform(0.2, 0.6) * np.exp(-beyond / rng.uniform(3, 14))
    inside = np.clip(distance / rng.uniform(1, 4) + 0.5, 0, 1) * falloff
    canvas.tone = (canvas.tone * inside + rng.uniform(8, 24) * (1 - inside)).astype(np.float32)


def _somewhere(rng: Generator, size: Size) -> tuple[float, float]:
    return float(rng.uniform(0, size[1])), float(rng.uniform(0, size[0]))
