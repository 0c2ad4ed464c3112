"""Labelling and measuring a mask on one core, beside scikit-image with the same columns."""

from __future__ import annotations

import time
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.figures import Figure, figure, ratio
from graticule.manifest import Postprocessing
from graticule.results import Calibration
from graticule_workers.analysis.instances import find_regions, measure

SIDE = 2048
OBJECTS = 1000
COLUMNS = ("label", "area", "centroid", "bbox", "perimeter", "eccentricity", "orientation", "equivalent_diameter_area")
"""Of scikit-image: what a result holds, too."""

_SPEC = Postprocessing.model_validate(
    {"activation": "none", "classes": [{"index": 0, "name": "void", "colour": "#ff0000"}]}
)
_NM = Calibration(pixel_width=0.5, pixel_height=0.5, unit="nm", source="user")


def measure_shapes(rounds: int) -> list[Figure]:
    """Milliseconds of processor time for one mask, each round both ways."""
    from skimage.measure import label, regionprops_table

    cv2.setNumThreads(1)
    mask = draw_mask()

    def mine() -> int:
        regions = find_regions(mask, 0, 0)
        ones = regions.area.astype(float)
        return measure(regions, np.stack([ones, ones]), _SPEC, _NM).count

    def theirs() -> int:
        return len(regionprops_table(label(mask, connectivity=2), properties=COLUMNS)["label"])

    assert mine() == theirs() == OBJECTS
    mine_ms, their_ms = zip(*((_milliseconds(mine), _milliseconds(theirs)) for _ in range(rounds)), strict=True)
    group = f"{SIDE} x {SIDE} mask, {OBJECTS:,} objects, one core"
    return [
        figure(group, "label and measure", "ms", mine_ms, "at most 50"),
        figure(group, "scikit-image, same columns", "ms", their_ms),
        ratio(group, "scikit-image / graticule", their_ms, mine_ms, "at least 1"),
    ]


def draw_mask(side: int = SIDE, objects: int = OBJECTS) -> NDArray[np.bool_]:
    """Ellipses on a jittered grid, none of which touch."""
    rng, across = np.random.default_rng(3), int(np.ceil(np.sqrt(objects)))
    cell = side / across
    mask = np.zeros((side, side), np.uint8)
    for number in range(objects):
        row, column = divmod(number, across)
        centre = (int((column + 0.5) * cell + rng.uniform(-4, 4)), int((row + 0.5) * cell + rng.uniform(-4, 4)))
        axes = (int(rng.uniform(6, cell / 2 - 8)), int(rng.uniform(6, cell / 2 - 8)))
        cv2.ellipse(mask, centre, axes, float(rng.uniform(0, 180)), 0, 360, (1,), -1)
    return mask.astype(bool)


def _milliseconds(action: Callable[[], object]) -> float:
    began = time.process_time()
    action()
    return 1000 * (time.process_time() - began)
