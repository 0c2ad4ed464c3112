"""Objects of a picture for which the network's output comes band by band and is not kept.

What an object is can only be told when the whole mask is known: parts of it lie in several bands, small ones are
dropped, small holes are filled. So the probabilities are added up over the connected parts of each band's mask, and of
its holes. No such part is ever divided between an object and something else; in the end each goes to the object that
one of its pixels belongs to. Areas, boxes and centroids are those of the mask, the sums differ by rounding only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from graticule.manifest import Postprocessing
from graticule.results import Calibration
from graticule_workers.analysis.instances import (
    Analysis,
    Labels,
    Sums,
    components,
    find_regions,
    look_up,
    measure,
    sum_by_label,
)
from graticule_workers.analysis.probabilities import Output, foreground
from graticule_workers.rows import row_chunks


class Tally:
    """Takes every row of a picture once; then measures it."""

    def __init__(self, height: int, width: int, spec: Postprocessing, calibration: Calibration | None = None) -> None:
        self._spec = spec
        self._calibration = calibration
        self._mask = np.zeros((height, width), np.uint8)
        self._places: list[NDArray[Any]] = []
        self._sums: list[Sums] = []

    def add(self, top: int, output: Output) -> None:
        """Rows of the picture from `top` on, classes x rows x width."""
        for rows in row_chunks(0, *output.shape[1:]):
            self._add(top + rows.start, np.ascontiguousarray(output[:, rows]))

    def finish(self) -> Analysis:
        """The numbers of the whole picture. Raises UnfitImage when there are more objects than a mask can number."""
        regions = find_regions(self._mask, self._spec.minimum_area, self._spec.fill_holes)
        owners = regions.labels.ravel()[np.concatenate(self._places)]
        sums = np.stack([np.bincount(owners, row, len(regions) + 1)[1:] for row in np.concatenate(self._sums, axis=1)])
        return Analysis(regions.labels, measure(regions, sums, self._spec, self._calibration))

    def _add(self, top: int, output: Output) -> None:
        mask = foreground(output, self._spec).view(np.uint8)
        self._mask[top : top + len(mask)] = mask
        for labels, count in self._parts(mask):
            self._places.append(top * mask.shape[1] + _places(labels, count))
            self._sums.append(sum_by_label(labels, count, output, self._spec))

    def _parts(self, mask: NDArray[Any]) -> Iterator[tuple[Labels, int]]:
        """Parts of objects, and parts of holes that may come to be filled: (labels, how many)."""
        labels, stats, _ = components(mask, connectivity=8)
        yield labels, len(stats) - 1
        if self._spec.fill_holes > 1:
            labels, stats, _ = components(1 - mask, connectivity=4)
            small = stats[:, cv2.CC_STAT_AREA] < self._spec.fill_holes
            small[0] = False
            look_up(np.cumsum(small, dtype=np.int32) * small, labels, labels)
            yield labels, int(small.sum())


def _places(labels: Labels, count: int) -> NDArray[Any]:
    """The index of a pixel, any, of each of the labels 1 .. `count`."""
    places = np.zeros(count, np.int64)
    inside = np.flatnonzero(labels > 0)
    places[labels.reshape(-1)[inside] - 1] = inside
    return places
