"""Large pictures through a network of limited size: where the tiles lie, and how their answers become one.

Neighbouring tiles overlap. Near a tile's inner edges the network lacks context, so the outer quarter of the overlap at
each end counts for nothing; over the half between, one tile fades out while the other fades in. All weights on a pixel
add up to one. Tiles come row by row, and what no later tile touches is handed on at once: no more than one row of tiles
is in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from graticule.manifest import SizePolicy
from graticule_workers.analysis.probabilities import Output
from graticule_workers.pipelines.preprocess import Size, padded_size
from graticule_workers.rows import row_chunks

_STEPS = 4096
"""Weights are multiples of 1 / 4096: in float32 they add up to one exactly, so that nothing is lost or gained."""


@dataclass(frozen=True, eq=False)
class Span:
    """A tile along one axis of the scaled picture, in pixels."""

    start: int
    """Where the tile begins."""
    first: int
    """The first pixel on which the tile counts."""
    last: int
    """The pixel after the last one on which it counts."""
    settled: int
    """Pixels before this one are touched by no later tile."""
    weights: NDArray[Any]
    """float32, one for each pixel from `first` to `last`."""

    @property
    def inside(self) -> slice:
        """The pixels of the tile that count."""
        return slice(self.first - self.start, self.last - self.start)


@dataclass(frozen=True)
class Tile:
    """One input of the network."""

    row: Span
    column: Span

    def crop(self, output: Output) -> Output:
        """What counts of the tile's output, classes x height x width."""
        return output[:, self.row.inside, self.column.inside]

    @property
    def weights(self) -> NDArray[Any]:
        """Weight of each pixel of the crop, height x width."""
        return np.outer(self.row.weights, self.column.weights)


@dataclass(frozen=True)
class Grid:
    """Tiles that cover a picture."""

    size: Size
    """A tile's height and width, the same for all."""
    rows: tuple[Span, ...]
    columns: tuple[Span, ...]

    @cached_property
    def tiles(self) -> tuple[Tile, ...]:
        """Every tile, row by row from the left to the right."""
        return tuple(Tile(row, column) for row in self.rows for column in self.columns)


@dataclass(frozen=True)
class Band:
    """Finished rows of a picture, over its whole width."""

    top: int
    output: Output


def tile_size(content: Size, size: SizePolicy) -> Size:
    """The network's input for a scaled picture: the whole padded picture, or a tile of it."""
    padded = padded_size(content, size)
    if size.policy != "multiple-of":
        return size.tile
    if padded[0] * padded[1] <= size.largest:
        return padded
    height, width = (_fitting(*sides, size.overlap, size.multiple) for sides in zip(padded, size.tile, strict=True))
    return height, width


def lay_out(content: Size, size: SizePolicy) -> Grid:
    """Cover a scaled picture with tiles."""
    tile, padded = tile_size(content, size), padded_size(content, size)
    rows, columns = (
        lay_out_axis(content[axis], padded[axis], tile[axis], size.overlap, size.multiple) for axis in (0, 1)
    )
    return Grid(tile, rows, columns)


@lru_cache(maxsize=64)
def lay_out_axis(content: int, padded: int, tile: int, overlap: int, multiple: int) -> tuple[Span, ...]:
    """Tiles of `tile` px along an axis of `content` px that is padded to `padded` px, all at multiples of `multiple`.

    As few as possible, evenly spread: none sticks out, neighbours share `overlap` px or more.
    """
    starts = _starts(padded, tile, overlap, multiple)
    pixels = np.arange(content) + 0.5
    fades = [np.ones(content)]
    fades += [_fade_in(pixels, (before + tile + after) / 2, overlap / 2) for before, after in pairwise(starts)]
    fades += [np.zeros(content)]
    weights = [here - there for here, there in pairwise(fades)]
    counting = [np.flatnonzero(weight) for weight in weights]
    firsts = [int(where[0]) for where in counting]
    lasts = [int(where[-1]) + 1 for where in counting]
    return tuple(
        Span(start, first, last, settled, weight[first:last].astype(np.float32))
        for start, first, last, settled, weight in zip(
            starts, firsts, lasts, [*firsts[1:], content], weights, strict=True
        )
    )


def _fitting(padded: int, tile: int, overlap: int, multiple: int) -> int:
    """The shortest tile, in pixels, of which no more are needed than of `tile`."""
    if padded <= tile:
        return padded
    count = len(_starts(padded, tile, overlap, multiple))
    shared = (count - 1) * -(-overlap // multiple)
    return multiple * -(-(padded // multiple + shared) // count)


def _starts(padded: int, tile: int, overlap: int, multiple: int) -> list[int]:
    places = (padded - tile) // multiple
    if not places:
        return [0]
    longest_step = (tile - overlap) // multiple
    steps = -(-places // longest_step)
    return [multiple * (places * index // steps) for index in range(steps + 1)]


def _fade_in(pixels: NDArray[Any], centre: float, width: float) -> NDArray[Any]:
    """From 0 to 1 along half a cosine wave of `width` px around `centre`; a step where the width is 0."""
    phase = np.clip((pixels - centre) / max(width, 1e-6) + 0.5, 0, 1)
    return np.round((0.5 - 0.5 * np.cos(np.pi * phase)) * _STEPS) / _STEPS


class Blender:
    """Makes one picture of the tiles' outputs, in the order of the grid. Each tile is given once."""

    def __init__(self, grid: Grid) -> None:
        self._width = grid.columns[-1].last
        self._last_column = grid.columns[-1]
        self._row: Output | None = None
        self._below: Output | None = None

    def add(self, tile: Tile, output: Output) -> Band | None:
        """Take a tile's output, classes x height x width. The end of a row of tiles gives the rows that are done."""
        row = self._open_row(tile.row, len(output)) if self._row is None else self._row
        weights = tile.weights
        for plane, more in zip(row, tile.crop(output), strict=True):  # one by one they fit into the cache
            plane[:, tile.column.first : tile.column.last] += more * weights
        if tile.column is not self._last_column:
            self._row = row
            return None
        done = tile.row.settled - tile.row.first
        self._row, self._below = None, row[:, done:].copy()
        return Band(tile.row.first, row[:, :done])

    def _open_row(self, span: Span, classes: int) -> Output:
        row = np.zeros((classes, span.last - span.first, self._width), np.float32)
        if self._below is not None:
            row[:, : self._below.shape[1]] = self._below
        return row


class Restorer:
    """Brings bands of the scaled picture back to the picture's size by linear interpolation, as `Prepared.restore`."""

    def __init__(self, content: Size, original: Size) -> None:
        self._same = content == original
        self._width = original[1]
        # Each row of the picture lies between two rows of the scaled one.
        place = np.clip((np.arange(original[0]) + 0.5) * (content[0] / original[0]) - 0.5, 0, content[0] - 1)
        self._above = place.astype(np.int64)
        self._below = np.minimum(self._above + 1, content[0] - 1)
        self._fraction = (place - self._above).astype(np.float32)
        self._done = 0
        self._last_row: Output | None = None

    def add(self, band: Band) -> Iterator[Band]:
        """The rows of the picture that can be told now that `band`, which follows the one before, is known."""
        if self._same:
            yield band
            return
        top, block = band.top, band.output
        if self._last_row is not None:
            top, block = top - 1, np.concatenate([self._last_row, block], axis=1)
        end = int(np.searchsorted(self._below, top + block.shape[1]))
        for rows in row_chunks(self._done, end, self._width):
            yield Band(rows.start, self._interpolate(block, top, rows))
        self._done, self._last_row = end, block[:, -1:].copy()

    def _interpolate(self, block: Output, top: int, rows: slice) -> Output:
        above, below = self._above[rows], self._below[rows]
        needed = block[:, above[0] - top : below[-1] + 1 - top]
        size = (self._width, needed.shape[1])
        wide = np.stack([cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR) for plane in needed])
        fraction = self._fraction[rows, np.newaxis]
        return wide[:, above - above[0]] * (1 - fraction) + wide[:, below - above[0]] * fraction
