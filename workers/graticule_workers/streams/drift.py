"""How far the field of view has drifted, told in three ways, and how to take that out.

A drift is an array, frames x 2: where what stood at (x, y) in the first frame stands in frame i, less (x, y), in px.
The first row is (0, 0).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from graticule.errors import BadInput
from graticule_workers.streams.packages import package
from graticule_workers.streams.series import Table

OFFSETS = (1, 2, 4)
"""Frames between the pictures of a pair, where many pairs are taken."""

_FLAT = 1e-5
"""Structure below this part of the picture's values is rounding."""
_LONGEST_SIDE = 512
"""Larger pictures are compared at a reduced size: the peak is found to a small part of a pixel all the same."""
_BACKGROUND = 1 / 16
"""Part of the picture's side beyond which structures count as background: light and bending, not specimen."""

_ROUNDS = 3
_NEAR = 2.5
"""Movements within so many median distances from the middle count as common."""
_REFINEMENTS = 1
_LEAST_OVERLAP = 0.1
"""Part of the windows that must overlap for a shift to be believed."""

Drift = NDArray[Any]
"""float64, frames x 2 (x, y), px."""
Picture = NDArray[Any]
"""float32, height x width."""


def drift_from_tracks(tracks: Table, frames: int, *, least: int = 1) -> Drift:
    """By the median movement of all objects between two frames.

    `tracks`: as `link` gives them. `frames`: how many the series has. `least`: where fewer objects than this are seen
    in both frames, the drift stays what it was. Objects that move on their own are outvoted while they are a minority.
    """
    steps = np.zeros((frames, 2))
    known = np.zeros(frames, bool)
    seen = ~tracks["inferred"].to_numpy()
    # Places that were inferred tell where an object must have been, but not when it moved: better than nothing.
    for only_seen in (True, False):
        for number, moved in _movements(tracks, seen if only_seen else np.ones(len(seen), bool)):
            if len(moved) >= least and not known[number]:
                steps[number], known[number] = _common_movement(moved), True
    return np.cumsum(steps, axis=0)


def drift_from_pairs(images: Iterable[Picture]) -> Drift:
    """By cross-correlation of each picture with the one before. Errors of the steps add up over a long series."""
    return _drift_of_pairs(images, (1,))


def drift_from_many_pairs(images: Iterable[Picture], offsets: Sequence[int] = OFFSETS) -> Drift:
    """By cross-correlation of pictures that are `offsets` frames apart, all pairs solved together by least squares."""
    if not offsets or min(offsets) < 1 or 1 not in offsets:
        raise BadInput(f"Offsets are numbers of frames of at least 1, with 1 among them; found {tuple(offsets)}.")
    return _drift_of_pairs(images, tuple(offsets))


def shift_between(first: Picture, second: Picture) -> tuple[float, float]:
    """(x, y), px: how far what is seen in `first` has moved in `second`. Pictures of the same size."""
    shape = _checked_shape(first, None)
    _checked_shape(second, shape)
    return _shift(_Spectrum(first), _Spectrum(second))


def correct_positions(tracks: Table, drift: Drift) -> Table:
    """The same table with the drift of its frame taken off each x and y."""
    offset = drift[tracks["frame"].to_numpy()]
    inferred, row = tracks["inferred"].to_numpy(), np.arange(len(tracks))
    columns = {}
    for name, taken_off in (("x", offset[:, 0]), ("y", offset[:, 1])):
        values = tracks[name].to_numpy() - taken_off
        if inferred.any():  # a gap is bridged anew: between its ends the drift need not have been even
            values[inferred] = np.interp(row[inferred], row[~inferred], values[~inferred])
        columns[name] = values
    return tracks.assign(**columns)


def remove_drift(
    images: Iterable[Picture], drift: Drift, *, enlarged: bool = False, fill: float = 0.0
) -> Iterator[Picture]:
    """The pictures moved back by their drift (bilinear), in their own type.

    `enlarged`: on a canvas that has room for everything that was ever in view; else on one of the pictures' size, that
    of the first frame. `fill`: the value where a picture shows nothing.
    """
    low, high = np.floor(-drift.max(axis=0)).astype(int), np.ceil(-drift.min(axis=0)).astype(int)
    for image, (x, y) in zip(images, drift, strict=False):
        height, width = image.shape[:2]
        left, top = (int(-low[0]), int(-low[1])) if enlarged else (0, 0)
        size = (width + int(high[0] - low[0]), height + int(high[1] - low[1])) if enlarged else (width, height)
        matrix = np.array([[1, 0, left - x], [0, 1, top - y]], np.float64)
        moved = cv2.warpAffine(
            image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(fill,) * 4
        )
        yield np.asarray(moved)


def _movements(tracks: Table, counts: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """(frame, movements since the frame before) of the objects that count in both."""
    track, frame = tracks["track"].to_numpy(), tracks["frame"].to_numpy()
    places = tracks[["x", "y"]].to_numpy()
    pairs = np.flatnonzero((track[1:] == track[:-1]) & counts[1:] & counts[:-1]) + 1
    if not len(pairs):
        return
    pairs = pairs[np.argsort(frame[pairs], kind="stable")]
    numbers, starts = np.unique(frame[pairs], return_index=True)
    moved = places[pairs] - places[pairs - 1]
    yield from zip(numbers.tolist(), np.split(moved, starts[1:]), strict=True)


def _common_movement(moved: NDArray[Any]) -> NDArray[Any]:
    """The median, of those near it: objects that move on their own would pull it to their side, in every frame."""
    middle = np.median(moved, axis=0)
    for _ in range(_ROUNDS):
        away = np.hypot(*(moved - middle).T)
        middle = np.median(moved[away <= _NEAR * np.median(away)], axis=0)
    return middle


def _drift_of_pairs(images: Iterable[Picture], offsets: tuple[int, ...]) -> Drift:
    behind: deque[_Spectrum] = deque(maxlen=max(offsets))
    pairs: list[tuple[int, int, float, float]] = []
    shape, number = None, -1
    for number, image in enumerate(images):
        shape = _checked_shape(image, shape)
        spectrum = _Spectrum(image)
        near = [offset for offset in offsets if offset <= len(behind)]
        pairs.extend((number - offset, number, *_shift(behind[-offset], spectrum)) for offset in near)
        behind.append(spectrum)
    return _solved(pairs, number + 1)


def _solved(pairs: list[tuple[int, int, float, float]], frames: int) -> Drift:
    """Positions of all frames, the first being (0, 0), that fit all differences best."""
    drift = np.zeros((frames, 2))
    if frames < 2:
        return drift
    sparse = package("scipy.sparse")
    solve = package("scipy.sparse.linalg").spsolve
    table = np.array(pairs)
    rows = np.arange(len(table))
    matrix = sparse.csc_array((np.ones(len(rows)), (rows, table[:, 1].astype(int))), (len(rows), frames))
    matrix = matrix - sparse.csc_array((np.ones(len(rows)), (rows, table[:, 0].astype(int))), (len(rows), frames))
    free = matrix.tocsc()[:, 1:]
    drift[1:] = np.asarray(solve((free.T @ free).tocsc(), free.T @ table[:, 2:])).reshape(frames - 1, 2)
    return drift


def _checked_shape(image: Picture, expected: tuple[int, ...] | None) -> tuple[int, ...]:
    if image.ndim != 2 or (expected is not None and image.shape != expected):
        raise BadInput(f"Drift needs grey pictures of one size; found {image.shape} after {expected or 'none'}.")
    return image.shape


class _Spectrum:
    """A picture's Fourier transform, without background and without the jump at its edges."""

    def __init__(self, image: Picture) -> None:
        image = np.nan_to_num(image.astype(np.float32, copy=False), posinf=0, neginf=0)
        self.scale = max(1.0, max(image.shape) / _LONGEST_SIDE)
        if self.scale > 1:
            size = (round(image.shape[1] / self.scale), round(image.shape[0] / self.scale))
            self.scale = image.shape[1] / size[0]
            image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
        width = max(1.0, _BACKGROUND * max(image.shape))
        fine = image - cv2.GaussianBlur(image, (0, 0), width, borderType=cv2.BORDER_REFLECT_101)
        if float(np.abs(fine).max()) <= _FLAT * float(np.abs(image).max()):
            fine = np.zeros_like(fine)
        # Bright specks and dead pixels do not move with the specimen: none may outweigh the picture.
        spread = float(np.median(np.abs(fine))) * 1.4826
        fine = np.clip(fine, -4 * spread, 4 * spread) if spread > 0 else fine
        self.size: tuple[int, int] = (image.shape[0], image.shape[1])
        self._fine = fine
        self.values = np.fft.rfft2(fine * _window(self.size))

    def seen_through(self, x: float, y: float) -> NDArray[Any]:
        """The transform with the window moved by (x, y), px of the reduced picture."""
        return np.fft.rfft2(self._fine * _moved_window(self.size, x, y))


def _shift(first: _Spectrum, second: _Spectrum) -> tuple[float, float]:
    """Place of the peak of the cross-correlation.

    Windows that stand still cut out other parts of what moves, which falsifies the shift a little, and always: with the
    window of the second picture moved by what was found, both show the same part.
    """
    surface = np.fft.irfft2(second.values * np.conj(first.values), s=first.size) / _overlap(first.size)
    x, y = _peak(surface)
    for _ in range(_REFINEMENTS):
        moved = second.seen_through(x, y)
        x, y = _peak(np.fft.irfft2(moved * np.conj(first.values), s=first.size))
    return float(x * first.scale), float(y * first.scale)


def _peak(surface: NDArray[Any]) -> tuple[float, float]:
    """(x, y) of the largest value, by the quadratic form through it and its eight neighbours; cyclic."""
    height, width = surface.shape
    row, column = np.unravel_index(int(surface.argmax()), surface.shape)
    around = np.array([-1, 0, 1])
    down, across = _vertex(surface[np.ix_((row + around) % height, (column + around) % width)])
    y, x = row + down, column + across
    return float(x - width if x > width / 2 else x), float(y - height if y > height / 2 else y)


@lru_cache(maxsize=4)
def _window(size: tuple[int, int]) -> NDArray[Any]:
    """Falls to zero at the edges, height x width."""
    rows, columns = (np.hanning(side + 2)[1:-1] for side in size)
    return np.outer(rows, columns).astype(np.float32)


def _moved_window(size: tuple[int, int], x: float, y: float) -> NDArray[Any]:
    def side(length: int, moved: float) -> NDArray[Any]:
        place = (np.arange(length) + 1 - moved) / (length + 1)
        return np.where((place > 0) & (place < 1), np.sin(np.pi * place) ** 2, 0)

    return np.outer(side(size[0], y), side(size[1], x)).astype(np.float32)


@lru_cache(maxsize=4)
def _overlap(size: tuple[int, int]) -> NDArray[Any]:
    """How far the windows of two pictures overlap at each shift: uncorrected, every shift would be seen too small."""
    overlap = np.fft.irfft2(np.abs(np.fft.rfft2(_window(size))) ** 2, s=size)
    return np.maximum(overlap / overlap[0, 0], _LEAST_OVERLAP)


def _vertex(values: NDArray[Any]) -> tuple[float, float]:
    """(down, across) from the middle of 3 x 3 values to the top of the quadratic form through them.

    Row and column by themselves would be wrong where the peak lies askew, as that of any real texture does.
    """
    bend_down = values[0, 1] - 2 * values[1, 1] + values[2, 1]
    bend_across = values[1, 0] - 2 * values[1, 1] + values[1, 2]
    twist = (values[0, 0] - values[0, 2] - values[2, 0] + values[2, 2]) / 4
    slope = np.array([values[2, 1] - values[0, 1], values[1, 2] - values[1, 0]]) / 2
    determinant = bend_down * bend_across - twist**2
    if bend_down >= 0 or determinant <= 0:
        return 0.0, 0.0
    down = -(bend_across * slope[0] - twist * slope[1]) / determinant
    across = -(bend_down * slope[1] - twist * slope[0]) / determinant
    return float(np.clip(down, -1, 1)), float(np.clip(across, -1, 1))
