"""From a specimen to a bright-field TEM micrograph: bending, thickness, Fresnel fringes, electrons, camera.

Voids are holes in a phase object that the lens images out of focus: the fringes at their edges come from the wave, not
from a brush. Dislocations are seen by diffraction contrast, which is painted: dark rings with lobes, strokes, shadows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from graticule_producers.simulate.shapes import Field, Size, filled, smooth_noise, stroked
from graticule_producers.simulate.specimen import MARGIN, Loop, Void, draw_specimen

Focus = Literal["under", "in", "over"]
FOCI: tuple[Focus, ...] = get_args(Focus)
CLASSES = ("background", "void", "loop", "line")
"""What the values of a truth mask stand for."""

_WAVELENGTH = 0.00197
"""Of electrons of 300 kV, nm."""
_INTERACTION = 0.00653
"""Phase for each volt and nanometre at 300 kV, rad."""
_INNER_POTENTIAL = 22.0
"""Of steel or nickel, volt."""
_FRAME = 24
"""Pixels around a picture that fringes have to fade out in."""
_OVERLAP = 0.5
"""Part of a pixel that a shape must cover to count as the pixel's."""


@dataclass(frozen=True)
class Optics:
    """How a series was taken."""

    pixel_nm: float
    defocus_nm: float
    """Positive: under-focus, voids have dark rims around bright ones; negative: over-focus; about 0: in focus."""
    dose: float
    """Electrons for each pixel of an empty picture."""
    blur: float
    """Of the camera, px (the width of its point-spread function)."""
    sharpened: float
    """Part of the blur that the noise has, too."""


@dataclass(frozen=True)
class Micrograph:
    """A picture and what is really in it."""

    pixels: NDArray[np.uint8]
    """height x width."""
    mask: NDArray[np.uint8]
    """height x width: index into `CLASSES`; where things lie upon each other the void counts, then the loop."""


class Experiment:
    """A specimen before the camera: frame after frame of it."""

    def __init__(self, seed: int, index: int, size: Size, *, frames: int = 1, focus: Focus | None = None) -> None:
        """The experiment number `index` of the series `seed`: always the same one. `focus`: instead of a random one."""
        self._seed = (seed, index)
        rng = np.random.default_rng([seed, index])
        self.focus: Focus = focus or FOCI[rng.integers(len(FOCI))]
        self.optics = _optics(rng, self.focus)
        self.specimen = draw_specimen(rng, size, frames)
        self.frames = frames
        self._ground = _ground(rng, (size[0] + 2 * MARGIN, size[1] + 2 * MARGIN))
        self._levels: tuple[float, float] | None = None

    def take(self, frame: int = 0) -> Micrograph:
        """Take the picture of one frame."""
        rng = np.random.default_rng([*self._seed, 1 + frame])
        drift = self.specimen.drift[frame]
        dark, loops, lines = self._diffraction(drift)
        thickness, amplitude, voids = self._voids(frame, drift)
        intensity = _moved(self._ground, drift, self.specimen.size) * dark
        seen = intensity * self._fringes(thickness, amplitude)
        counts = self._camera(rng, seen)
        if self._levels is None:  # one exposure for the whole series
            low, high = np.percentile(counts, (0.05, 99.95))
            self._levels = float(low), float(max(high, low + 1e-6))
        low, high = self._levels
        pixels = np.clip(8 + 240 * (counts - low) / (high - low), 0, 255).round().astype(np.uint8)
        mask = np.zeros(self.specimen.size, np.uint8)
        mask[lines], mask[loops] = 3, 2
        mask[voids] = 1
        return Micrograph(pixels, mask)

    def places(self, frame: int) -> list[tuple[int, float, float, float]]:
        """(identity, x, y, radius of the circle of equal area), px, of every void with its centre in the picture.

        x and y count from the centre of the first pixel.
        """
        height, width = self.specimen.size
        found = []
        for void in self.specimen.voids:
            radius = void.radius_at(frame)
            x, y = (void.centre + self.specimen.drift[frame] - 0.5).tolist()
            if radius > 0 and 0 <= x < width and 0 <= y < height:
                sides = void.facets
                shape = sides * math.tan(math.pi / sides) / math.pi if sides else 1.0
                found.append((void.identity, x, y, radius * math.sqrt(shape)))
        return found

    def _voids(self, frame: int, drift: NDArray[np.float64]) -> tuple[Field, Field, NDArray[np.bool_]]:
        """(nm of nothing along the beam, amplitude, where voids are)."""
        size = self.specimen.size
        thickness, amplitude = np.zeros(size, np.float32), np.ones(size, np.float32)
        outlines = [void.outline(frame, drift) for void in self.specimen.voids if void.radius_at(frame) > 0]
        for void in self.specimen.voids:
            if void.radius_at(frame) > 0:
                self._carve(void, frame, drift, thickness, amplitude)
        return thickness, amplitude, filled(size, *outlines) > _OVERLAP

    def _carve(self, void: Void, frame: int, drift: NDArray[np.float64], thickness: Field, amplitude: Field) -> None:
        radius = void.radius_at(frame)
        x, y = void.centre + drift - 0.5
        window = _window(self.specimen.size, x, y, 1.3 * radius + 2)
        rows, columns = np.mgrid[window]
        if void.facets:
            normals = void.angle + 2 * np.pi * np.arange(void.facets) / void.facets
            across = np.max([(columns - x) * math.cos(one) + (rows - y) * math.sin(one) for one in normals], axis=0)
            # A truncated octahedron: facets that stand more or less along the beam around one across it.
            depth = np.clip(void.steepness * (radius - across), 0, 1.3 * radius)
        else:
            depth = 2 * np.sqrt(np.maximum(radius**2 - (columns - x) ** 2 - (rows - y) ** 2, 0))
        thickness[window] += depth * self.optics.pixel_nm
        amplitude[window] *= 1 + 0.5 * void.inside * np.clip(depth / radius, 0, 1)

    def _diffraction(self, drift: NDArray[np.float64]) -> tuple[Field, NDArray[np.bool_], NDArray[np.bool_]]:
        """(what is left of the light, where loops are, where lines are)."""
        size = self.specimen.size
        left = np.ones(size, np.float32)
        lines, loops = np.zeros(size, bool), np.zeros(size, bool)
        for line in self.specimen.lines:
            cover = stroked(size, line.path + drift, line.width)
            left *= 1 - line.darkness * cover
            lines |= cover > _OVERLAP
        for loop in self.specimen.loops:
            self._paint(loop, drift, left, loops)
        return left, loops, lines

    def _paint(self, loop: Loop, drift: NDArray[np.float64], left: Field, loops: NDArray[np.bool_]) -> None:
        x, y = np.array(loop.centre) + drift - 0.5
        window = _window(self.specimen.size, x, y, 2.5 * loop.radii[0] + 4)
        rows, columns = np.mgrid[window]
        along = (columns - x) * math.cos(loop.angle) + (rows - y) * math.sin(loop.angle)
        across = (rows - y) * math.cos(loop.angle) - (columns - x) * math.sin(loop.angle)
        distance = np.hypot(along / loop.radii[0], across / loop.radii[1])
        ring = np.exp(-0.5 * ((distance - 1) * loop.radii[1] / loop.width) ** 2)
        lobes = 0.25 + 0.75 * np.cos(np.arctan2(rows - y, columns - x) - loop.lobes) ** 2
        shadow = 0.25 * np.exp(-0.5 * (distance / 1.6) ** 2)
        left[window] *= 1 - loop.darkness * np.clip(ring * lobes + shadow, 0, 1)
        loops[window] |= distance <= 1 + loop.width / (2 * loop.radii[1])

    def _fringes(self, thickness: Field, amplitude: Field) -> Field:
        """Intensity behind the lens of a wave that went through the specimen."""
        wave = amplitude * np.exp(1j * _INTERACTION * _INNER_POTENTIAL * -thickness)
        wave = np.pad(wave, _FRAME, mode="edge")  # what leaves the picture must not come in on the other side
        frequency = _frequencies(wave.shape) / self.optics.pixel_nm
        spread = np.exp(-((frequency * 0.25) ** 2))  # of the source, and of the lens's aperture
        # A lens that is too weak shows the wave as it would have been before it came to the specimen.
        lens = spread * np.exp(1j * np.pi * _WAVELENGTH * self.optics.defocus_nm * frequency**2)
        return np.abs(np.fft.ifft2(np.fft.fft2(wave) * lens)[_FRAME:-_FRAME, _FRAME:-_FRAME]) ** 2

    def _camera(self, rng: Generator, intensity: Field) -> Field:
        optics = self.optics
        soft = _softened(intensity, optics.blur * math.sqrt(1 - optics.sharpened**2))
        counted = rng.poisson(np.clip(soft, 0, None) * optics.dose) / optics.dose
        return _softened(counted, optics.blur * optics.sharpened)


def _optics(rng: Generator, focus: Focus) -> Optics:
    away = rng.uniform(700, 3000)
    defocus = {"under": away, "over": -away, "in": rng.normal(0, 60)}[focus]
    return Optics(
        pixel_nm=rng.uniform(0.25, 0.8),
        defocus_nm=float(defocus),
        dose=float(np.exp(rng.uniform(math.log(60), math.log(900)))),
        blur=rng.uniform(0.5, 1.3),
        sharpened=rng.uniform(0.3, 0.95),
    )


def _ground(rng: Generator, size: Size) -> Field:
    """What a specimen without defects would look like: thickness, bending."""
    height, width = size
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    direction = rng.uniform(0, 2 * np.pi)
    ramp = (columns / width - 0.5) * math.cos(direction) + (rows / height - 0.5) * math.sin(direction)
    side = max(size)
    ground = 1 + rng.uniform(0, 0.35) * ramp
    ground += rng.uniform(0.01, 0.06) * smooth_noise(rng, size, (side / 3, side / 3))
    ground += rng.uniform(0.005, 0.03) * smooth_noise(rng, size, (side / 24, side / 24))
    ground += rng.uniform(0.0, 0.02) * smooth_noise(rng, size, (6, 6))
    for _ in range(rng.integers(0, 3)):
        ground *= _bend_contour(rng, size, rows, columns)
    return np.clip(ground, 0.08, None)


def _bend_contour(rng: Generator, size: Size, rows: Field, columns: Field) -> Field:
    """A broad dark band that winds through the picture."""
    direction, side = rng.uniform(0, np.pi), max(size)
    across = columns * math.cos(direction) + rows * math.sin(direction)
    across = across + 0.08 * side * smooth_noise(rng, size, (side / 3, side / 3))
    middle = rng.uniform(float(across.min()), float(across.max()))
    return 1 - rng.uniform(0.15, 0.6) * np.exp(-0.5 * ((across - middle) / (rng.uniform(0.02, 0.07) * side)) ** 2)


def _moved(ground: Field, drift: NDArray[np.float64], size: Size) -> Field:
    """The part of the ground that is seen, bilinear."""
    left, top = MARGIN - drift[0], MARGIN - drift[1]
    column, row = math.floor(left), math.floor(top)
    right, down = left - column, top - row
    part = ground[row : row + size[0] + 1, column : column + size[1] + 1]
    upper = (1 - right) * part[:, :-1] + right * part[:, 1:]
    return (1 - down) * upper[:-1] + down * upper[1:]


def _window(size: Size, x: float, y: float, reach: float) -> tuple[slice, slice]:
    height, width = size
    top, bottom = (int(np.clip(value, 0, height)) for value in (math.floor(y - reach), math.ceil(y + reach) + 1))
    left, right = (int(np.clip(value, 0, width)) for value in (math.floor(x - reach), math.ceil(x + reach) + 1))
    return slice(top, bottom), slice(left, right)


def _frequencies(shape: tuple[int, ...]) -> Field:
    """Periods for each pixel."""
    rows, columns = (np.fft.fftfreq(side) for side in shape)
    return np.hypot(rows[:, None], columns[None, :])


def _softened(image: Field, width: float) -> Field:
    """Blurred by a Gaussian, cyclic."""
    transform = np.fft.rfft2(image)
    rows, columns = np.fft.fftfreq(image.shape[0]), np.fft.rfftfreq(image.shape[1])
    square = rows[:, None] ** 2 + columns[None, :] ** 2
    return np.fft.irfft2(transform * np.exp(-2 * (np.pi * width) ** 2 * square), s=image.shape)
