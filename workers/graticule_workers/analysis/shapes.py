"""The shapes of labelled regions: perimeter, eccentricity, orientation; the same numbers as scikit-image's.

A mask is taken as runs: pixels of one label that stand next to each other in a row. There are far fewer runs than
pixels, and the moments of a run are known in closed form. Perimeters need only the pixels of the borders.

Conventions, as in scikit-image: the perimeter is that of the line through the centres of the border pixels with
4-connected insides (`perimeter(neighborhood=4)`); eccentricity and orientation are those of the ellipse with the same
second moments; the orientation is the angle in radians from the vertical axis to the major axis, counter-clockwise,
-pi/2 .. pi/2. With pixels that are not square, both are those of the true proportions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]
"""float64."""

# What a border pixel adds to the perimeter, by its neighbours on the border: 2 for each beside, above or below,
# 10 for each diagonal one, 1 for itself.
_STEPS = np.zeros(50)
_STEPS[[5, 7, 15, 17, 25, 27]] = 1
_STEPS[[21, 33]] = math.sqrt(2)
_STEPS[[13, 23]] = (1 + math.sqrt(2)) / 2


@dataclass(frozen=True)
class Shapes:
    """Entry i of each array is the region with the label i + 1."""

    perimeter: Floats
    """Pixels."""
    eccentricity: Floats
    """0 (circle) .. 1 (line)."""
    orientation: Floats
    """Radians."""


def measure_shapes(
    labels: NDArray[np.int32], centroid: Floats, box: NDArray[Any], aspect: float = 1.0, *, touching: bool = False
) -> Shapes:
    """Shapes of the labels 1 .. n, `labels` being height x width (0: background).

    `centroid`: n x (x, y), px. `box`: n x (left, top, right, bottom), px. `aspect`: width of a pixel divided by its
    height. `touching`: regions may have common borders, as instances may; connected regions of a mask have none.
    """
    if not len(centroid):
        return Shapes(*(np.zeros(0) for _ in range(3)))
    left, top = box[:, :2].min(axis=0)
    right, bottom = box[:, 2:].max(axis=0)
    part = np.ascontiguousarray(labels[top:bottom, left:right])
    eccentricity, orientation = _ellipses(part, centroid - (left, top), aspect)
    return Shapes(_perimeters(part, len(centroid), touching), eccentricity, orientation)


def _ellipses(labels: NDArray[np.int32], centroid: Floats, aspect: float) -> tuple[Floats, Floats]:
    """(eccentricity, orientation) from the second moments about the centroids."""
    row, start, length, owner = _runs(labels)
    count = len(centroid)
    across = start + (length - 1) / 2 - centroid[owner, 0]
    down = row - centroid[owner, 1]
    area = np.bincount(owner, length, count)
    xx = np.bincount(owner, length * (across**2 + (length * length - 1) / 12), count) / area * aspect**2
    yy = np.bincount(owner, length * down**2, count) / area
    xy = np.bincount(owner, length * across * down, count) / area * aspect
    middle, half = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    larger, smaller = middle + half, np.maximum(middle - half, 0)
    ratio = np.divide(smaller, larger, out=np.ones_like(larger), where=larger > 0)
    equal = xx == yy
    orientation = 0.5 * np.arctan2(2 * xy, yy - xx)
    orientation[equal] = np.where(xy[equal] > 0, math.pi / 4, -math.pi / 4)
    return np.sqrt(1 - ratio), orientation


def _runs(labels: NDArray[np.int32]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """(row, first column, length, label - 1) of each run."""
    height, width = labels.shape
    # A run begins where a pixel differs from the one before, or in a new row.
    changes = np.empty((height, width), bool)
    changes[:, 0] = True
    np.not_equal(labels[:, 1:], labels[:, :-1], out=changes[:, 1:])
    begins = np.flatnonzero(changes)
    ends = np.append(begins[1:], labels.size)
    owner = labels.reshape(-1)[begins]
    inside = owner > 0
    begins, ends, owner = begins[inside], ends[inside], owner[inside]
    row, start = np.divmod(begins, width)
    return row, start, ends - begins, owner.astype(np.intp) - 1


def _perimeters(labels: NDArray[np.int32], count: int, touching: bool) -> Floats:
    """Perimeters of the labels 1 .. `count`."""
    width = labels.shape[1]
    around = cv2.copyMakeBorder(labels, 1, 1, 1, 1, cv2.BORDER_CONSTANT) if touching else _framed_mask(labels)
    flat, step = around.reshape(-1), width + 2
    border = _border(around)
    on_border = np.zeros_like(flat)
    own = on_border[border] = flat[border]
    code = np.ones(len(border), np.uint8)
    for weight, offsets in ((2, (-1, 1, -step, step)), (10, (-step - 1, -step + 1, step - 1, step + 1))):
        beside = sum((on_border[border + offset] == own).view(np.uint8) for offset in offsets)
        code += np.uint8(weight) * beside
    rows, columns = np.divmod(border, step)
    owner = labels.reshape(-1)[(rows - 1) * width + columns - 1]
    return np.bincount(owner - 1, _STEPS[code], count)


def _framed_mask(labels: NDArray[np.int32]) -> NDArray[Any]:
    """Ones where there is a region, with a frame of zeros. Where regions do not touch no more need be known."""
    framed = np.zeros((labels.shape[0] + 2, labels.shape[1] + 2), np.uint8)
    np.greater(labels, 0, out=framed[1:-1, 1:-1].view(bool))
    return framed


def _border(around: NDArray[Any]) -> NDArray[np.intp]:
    """Places of the pixels that have something else, or the edge of the picture, beside, above or below them."""
    flat, step = around.reshape(-1), around.shape[1]
    if around.dtype == np.uint8:
        cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
        return np.flatnonzero((flat ^ np.asarray(cv2.erode(around, cross)).reshape(-1)).view(bool))
    inside = np.flatnonzero(flat)
    own = flat[inside]
    differs = np.zeros(len(inside), bool)
    for offset in (-1, 1, -step, step):
        differs |= flat[inside + offset] != own
    return inside[differs]
