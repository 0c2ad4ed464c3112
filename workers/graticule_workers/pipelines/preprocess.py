"""From a decoded picture to the network's input, as the manifest says: in one piece, or cut out of a large picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from graticule.manifest import Normalisation, Padding, Preprocessing, SizePolicy
from graticule_workers.rows import row_chunks

Image = NDArray[Any]
"""float32, height x width (x channels)."""
Size = tuple[int, int]
"""(height, width) in pixels."""
Pieces = Callable[[], Iterable[Image]]
"""Gives the picture from the top to the bottom, as often as it is asked."""

_BORDERS = {
    "reflect": cv2.BORDER_REFLECT_101,
    "edge": cv2.BORDER_REPLICATE,
    "constant": cv2.BORDER_CONSTANT,
}


@dataclass(frozen=True)
class Prepared:
    """The network's input and the way back."""

    tensor: Image
    """channels x height x width, padded."""
    content: Size
    """The picture within the padded input."""
    original: Size
    """The picture as it was decoded."""
    flags: tuple[str, ...]
    """What was unusual: 'constant-image', 'non-finite-pixels', 'float-range-stretched', 'integer-range-stretched'."""

    def restore(self, output: Image) -> Image:
        """Bring the network's output, channels x height x width, back to the picture's size."""
        height, width = self.content
        content = output[:, :height, :width]
        if self.content == self.original:
            return content
        rows, columns = self.original
        planes = [cv2.resize(plane, (columns, rows), interpolation=cv2.INTER_LINEAR) for plane in content]
        return np.stack(planes)


class Source:
    """A large picture from which the network's input is cut. What is said of `prepare` holds for each piece of it.

    The picture itself is not copied, unless it is scaled: then the scaled picture is kept, 4 bytes for each pixel and
    channel.
    """

    def __init__(self, pixels: NDArray[Any], spec: Preprocessing) -> None:
        self._pixels = pixels
        self._spec = spec
        self._levels = _levels(self._pieces, pixels.dtype, spec.normalisation)
        self.flags = self._levels.flags
        self.original: Size = (pixels.shape[0], pixels.shape[1])
        self.content = scaled_size(self.original, spec)
        self._scaled = None if self.content == self.original else self._scale()

    def cut(self, top: int, left: int, size: Size) -> Image:
        """channels x height x width of the scaled picture, padded where it ends at the right and at the bottom."""
        where = slice(top, top + size[0]), slice(left, left + size[1])
        image = self._normalised(self._pixels[where]) if self._scaled is None else self._scaled[where]
        return _channels_first(_pad(image, size, self._spec.padding))

    def _pieces(self) -> Iterator[Image]:
        for rows in self._row_chunks():
            yield _to_colour(self._pixels[rows], self._spec.colour)

    def _row_chunks(self) -> Iterator[slice]:
        return row_chunks(0, self._pixels.shape[0], self._pixels.shape[1])

    def _normalised(self, pixels: NDArray[Any]) -> Image:
        return _normalise(_to_colour(pixels, self._spec.colour), self._levels, self._spec.normalisation)

    def _scale(self) -> Image:
        """First the width, piece by piece, then the height: the same as both at once."""
        (height, _), (rows, columns) = self.original, self.content
        method = _interpolation(self.original, self.content)
        channels = (3,) if self._spec.colour == "rgb" else ()
        narrow = np.empty((height, columns, *channels), np.float32)
        for chunk in self._row_chunks():
            piece = self._normalised(self._pixels[chunk])
            narrow[chunk] = cv2.resize(piece, (columns, len(piece)), interpolation=method)
        return cv2.resize(narrow, (columns, rows), interpolation=method)


def prepare(pixels: NDArray[Any], spec: Preprocessing) -> Prepared:
    """Colour, normalisation, scaling and padding, in this order."""
    image = _to_colour(pixels, spec.colour)
    levels = _levels(lambda: (image,), pixels.dtype, spec.normalisation)
    original = (pixels.shape[0], pixels.shape[1])
    content = scaled_size(original, spec)
    scaled = _normalise(image, levels, spec.normalisation)
    if content != original:
        scaled = cv2.resize(scaled, content[::-1], interpolation=_interpolation(original, content))
    padded = _pad(scaled, padded_size(content, spec.size), spec.padding)
    return Prepared(tensor=_channels_first(padded), content=content, original=original, flags=levels.flags)


def scaled_size(original: Size, spec: Preprocessing) -> Size:
    """The picture after isotropic scaling, by the manifest's `resize` and to fit into a fixed size."""
    height, width = original
    factor = spec.resize.short_side / min(height, width) if spec.resize else 1.0
    if spec.size.policy == "fixed":
        factor = min(spec.size.tile[0] / height, spec.size.tile[1] / width)
    return max(1, round(height * factor)), max(1, round(width * factor))


def padded_size(content: Size, size: SizePolicy) -> Size:
    """The scaled picture with the border that the size policy adds at the right and at the bottom."""
    if size.policy == "fixed":
        return size.tile
    height, width = (-(-side // size.multiple) * size.multiple for side in content)
    if size.policy == "tiled":
        return max(height, size.tile[0]), max(width, size.tile[1])
    return height, width


@dataclass(frozen=True)
class _Levels:
    """What must be known of the whole picture before a part of it can be normalised."""

    offset: float
    """Subtracted first."""
    factor: float
    """Then multiplied."""
    substitute: float | None
    """Takes the place of NaN and infinities; None: there are none."""
    flags: tuple[str, ...]


def _to_colour(pixels: NDArray[Any], colour: str) -> Image:
    """A new array."""
    image = pixels.astype(np.float32)
    if colour == "grey":
        return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image
    return image if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)


def _levels(pieces: Pieces, dtype: np.dtype[Any], spec: Normalisation) -> _Levels:
    whole = np.issubdtype(dtype, np.integer)
    low, high, substitute = _range(pieces()) if whole else _finite_range(pieces)
    flags = ("non-finite-pixels",) if substitute is not None else ()
    if low == high:
        flags = (*flags, "constant-image")
    if spec.kind == "minmax":
        return _Levels(low, _stretch(low, high), substitute, flags)
    if spec.kind == "physical":
        return _Levels(0, 1, substitute, flags)
    # Counts of 32 bits never come near their type's maximum, and signed ones below zero have no place on its scale.
    if whole and dtype.itemsize <= 2 and low >= 0:
        return _Levels(0, 1 / np.iinfo(dtype).max, substitute, flags)
    if low < 0 or high > 1:
        kind = "integer" if whole else "float"
        return _Levels(low, _stretch(low, high), substitute, (*flags, f"{kind}-range-stretched"))
    return _Levels(0, 1, substitute, flags)


def _range(pieces: Iterable[Image]) -> tuple[float, float, None]:
    lows, highs = zip(*((float(piece.min()), float(piece.max())) for piece in pieces), strict=True)
    return min(lows), max(highs), None


def _finite_range(pieces: Pieces) -> tuple[float, float, float | None]:
    """(minimum, maximum, median) of the finite pixels; no median when all are.

    NaN and infinities, which some detectors write for dead pixels, are replaced by the median of the others.
    """
    low, high, finite, total = math.inf, -math.inf, 0, 0
    for piece in pieces():
        values = _finite(piece)
        low = float(values.min(initial=low))
        high = float(values.max(initial=high))
        finite += values.size
        total += piece.size
    if not finite:
        return 0, 0, 0
    return low, high, None if finite == total else _median(map(_finite, pieces()), finite)


def _finite(image: Image) -> Image:
    good = np.isfinite(image)
    return image if good.all() else image[good]


def _median(pieces: Iterable[Image], count: int) -> float:
    values = np.empty(count, np.float32)
    end = 0
    for piece in pieces:
        values[end : end + piece.size] = piece.ravel()
        end += piece.size
    return float(np.median(values, overwrite_input=True))


def _stretch(low: float, high: float) -> float:
    """The factor that brings low .. high to a range of 1; a constant picture becomes 0."""
    return 1 / (high - low) if high > low else 0


def _normalise(image: Image, levels: _Levels, spec: Normalisation) -> Image:
    """Repair dead pixels and normalise, in place."""
    if levels.substitute is not None:
        np.copyto(image, np.float32(levels.substitute), where=~np.isfinite(image))
    if levels.offset:
        image -= np.float32(levels.offset)
    if levels.factor != 1:
        image *= np.float32(levels.factor)
    if spec.kind in ("standardise", "physical"):
        image = (image - np.asarray(spec.mean, np.float32)) / np.asarray(spec.std, np.float32)
    return image


def _interpolation(original: Size, content: Size) -> int:
    smaller = content[0] < original[0] or content[1] < original[1]
    return cv2.INTER_AREA if smaller else cv2.INTER_LINEAR


def _pad(image: Image, target: Size, padding: Padding) -> Image:
    bottom, right = target[0] - image.shape[0], target[1] - image.shape[1]
    if not bottom and not right:
        return image
    value = (padding.value,) * 4
    return cv2.copyMakeBorder(image, 0, bottom, 0, right, _BORDERS[padding.mode], value=value)


def _channels_first(image: Image) -> Image:
    return image[np.newaxis] if image.ndim == 2 else np.ascontiguousarray(image.transpose(2, 0, 1))
