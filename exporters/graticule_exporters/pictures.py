"""What the parity gate feeds: chance, and pictures like those of instruments, prepared as workers prepare them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graticule.errors import BadInput, GraticuleError
from graticule.formats import SUFFIXES, decode
from graticule.manifest import Normalisation
from graticule_exporters.network import Array, Feed, Port, Size

Planes = NDArray[np.float32]
"""channels x height x width, 0..1."""

MOST_PICTURES = 64
"""Of a folder, evenly taken; more would not tell more and would take long."""
CALIBRATION = 16
"""Pictures that the smaller precisions are calibrated with, when the user has none."""


@dataclass(frozen=True)
class Case:
    """One set of inputs on which two networks are compared."""

    name: str
    batch: int
    size: Size
    feed: Feed
    real: bool
    """Looks like what the network will see: the user's own pictures; without them, drawn ones."""


@dataclass(frozen=True)
class Plan:
    """What is to be fed."""

    inputs: tuple[Port, ...]
    normalisation: Normalisation
    sizes: tuple[Size, ...]
    """The first is the one that the network is exported at."""
    batches: tuple[int, ...]
    pictures: tuple[NDArray[Any], ...] = ()
    """The user's own, as decoded."""


def cases(plan: Plan) -> Iterator[Case]:
    """Chance and pictures at every size, in small and larger batches. The same plan gives the same numbers."""
    for number, size in enumerate(plan.sizes):
        for batch in plan.batches:
            chance = np.random.default_rng([number, batch])
            yield _case("random numbers", plan, chance, batch, size, drawn=False)
            yield _case("drawn pictures", plan, chance, batch, size, drawn=True)
    yield from _own_pictures(plan)
    black = np.zeros((_channels(plan), *plan.sizes[0]), np.float32)
    yield Case("a black picture", 1, plan.sizes[0], _feed(plan, [black], np.random.default_rng(0)), real=False)


def calibration(plan: Plan) -> list[Feed]:
    """Pictures, one at a time, that show a network what numbers to expect; others than those of `cases`.

    No chance: that has a range which pictures never use. The user's own pictures, every second one, where there are
    some: they are what the network will see.
    """
    chance = np.random.default_rng(99)
    size, channels, batch = plan.sizes[0], _channels(plan), plan.batches[0]
    planes = [fitted(to_planes(pixels, channels), size) for pixels in plan.pictures[::2]]
    planes = planes or [draw(chance, size, channels) for _ in range(CALIBRATION)]
    return [_feed(plan, [one] * batch, chance) for one in planes]


def prepared(planes: Planes, spec: Normalisation) -> Planes:
    """Pixels 0..1 as numbers for the network. `physical`: as if they lay two deviations around the mean."""
    if spec.kind == "physical":
        return planes * np.float32(4) - np.float32(2)
    if spec.kind == "standardise":
        mean, deviation = (np.asarray(values, np.float32)[:, None, None] for values in (spec.mean, spec.std))
        return (planes - mean) / deviation
    return planes


def draw(chance: np.random.Generator, size: Size, channels: int) -> Planes:
    """A picture with what micrographs and photographs have: uneven light, bright and dark objects, an edge, noise."""
    height, width = size
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    slope = chance.normal(0, 0.3, 2)
    light = 0.5 + slope[0] * (y / height - 0.5) + slope[1] * (x / width - 0.5)
    for _ in range(int(chance.integers(4, 12))):
        centre = chance.random(2) * (height, width)
        radius = chance.uniform(0.02, 0.15) * min(size)
        distance = np.hypot(y - centre[0], x - centre[1]) / radius
        # A soft disk: inside 1, outside 0, a rim of a tenth of its radius.
        light = light + chance.normal(0, 0.35) / (1 + np.exp(np.clip((distance - 1) * 10, -40, 40)))
    light = light + 0.15 * (x * np.sin(chance.random()) > y * np.cos(chance.random()))
    planes = np.stack([light * chance.uniform(0.8, 1.2) for _ in range(channels)])
    noisy = planes + chance.normal(0, 0.03, planes.shape)
    return np.clip(noisy, 0, 1).astype(np.float32)


def load_pictures(folder: Path) -> tuple[NDArray[Any], ...]:
    """Pictures of a folder, as decoded: height x width (x 3). Raises BadInput when it holds none that can be read."""
    try:
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    except OSError as error:
        raise BadInput(f"Cannot look into {str(folder)!r}: {error.strerror}.") from error
    step = max(1, -(-len(paths) // MOST_PICTURES))
    found = []
    for path in paths[::step]:
        try:
            found.append(decode(path.read_bytes(), path.name).pixels)
        except (GraticuleError, OSError):
            continue
    if not found:
        raise BadInput(
            f"--pictures {str(folder)!r} holds no picture that graticule reads ({', '.join(sorted(SUFFIXES))}).",
            data="No model was written.",
        )
    return tuple(found)


def to_planes(pixels: NDArray[Any], channels: int) -> Planes:
    """A decoded picture as channels x height x width, 0..1: integers by their type's range, others stretched."""
    if np.issubdtype(pixels.dtype, np.integer):
        values = pixels.astype(np.float32) / np.iinfo(pixels.dtype).max
    else:
        low, high = float(np.nanmin(pixels)), float(np.nanmax(pixels))
        values = (np.nan_to_num(pixels.astype(np.float32), nan=low) - low) / ((high - low) or 1)
    planes = values[np.newaxis] if values.ndim == 2 else values.transpose(2, 0, 1)
    if len(planes) == channels:
        return planes
    return np.repeat(planes.mean(axis=0, keepdims=True), channels, axis=0).astype(np.float32)


def fitted(planes: Planes, size: Size) -> Planes:
    """Cut from the middle, and mirrored at the border where the picture is smaller."""
    for axis, length in ((1, size[0]), (2, size[1])):
        have = planes.shape[axis]
        if have < length:
            widths = [(0, 0)] * 3
            widths[axis] = (0, length - have)
            planes = np.pad(planes, widths, mode="symmetric")
        else:
            planes = np.take(planes, range((have - length) // 2, (have - length) // 2 + length), axis=axis)
    return planes


def _own_pictures(plan: Plan) -> Iterator[Case]:
    size = plan.sizes[0]
    for number, pixels in enumerate(plan.pictures):
        planes = fitted(to_planes(pixels, _channels(plan)), size)
        feed = _feed(plan, [planes], np.random.default_rng([7, number]))
        yield Case(f"picture {number + 1} of the user's", 1, size, feed, real=True)


def _case(name: str, plan: Plan, chance: np.random.Generator, batch: int, size: Size, *, drawn: bool) -> Case:
    channels = _channels(plan)
    if drawn:
        pictures = [draw(chance, size, channels) for _ in range(batch)]
    else:
        pictures = [chance.random((channels, *size), dtype=np.float32) for _ in range(batch)]
    return Case(name, batch, size, _feed(plan, pictures, chance), real=drawn and not plan.pictures)


def _feed(plan: Plan, pictures: Sequence[Planes], chance: np.random.Generator) -> Feed:
    feed: Feed = {}
    for port in plan.inputs:
        shape = port.sized(len(pictures), pictures[0].shape[1:])
        if port.is_picture:
            values: Array = np.stack([prepared(planes, plan.normalisation) for planes in pictures])
        else:
            values = chance.random(shape, dtype=np.float32)
        feed[port.name] = _as_type(values, port.type)
    return feed


def _as_type(values: Array, kind: str) -> Array:
    dtype = np.dtype(kind)
    if np.issubdtype(dtype, np.integer):
        return np.round(np.clip(values, 0, 1) * min(255, np.iinfo(dtype).max)).astype(dtype)
    return values.astype(dtype)


def _channels(plan: Plan) -> int:
    picture = next(port for port in plan.inputs if port.is_picture)
    return int(picture.shape[1])
