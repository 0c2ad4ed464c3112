"""Objects from a semantic mask: threshold, minimum area, holes, labels, and the numbers of each object.

The order of steps is that of the TEM tool which graticule replaces: threshold, drop small objects, fill small holes,
label. Objects are 8-connected, the background is 4-connected (its topological dual). Coordinates are in pixels, x to
the right and y down, (0, 0) being the centre of the first pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from graticule.errors import UnfitImage
from graticule.manifest import Postprocessing
from graticule.results import DetectedObject, Measurements

Probabilities = NDArray[Any]
"""float32, classes x height x width, or height x width."""
Labels = NDArray[Any]
"""int32, height x width."""

MAX_OBJECTS = 65_535
"""What a 16-bit mask can number."""


@dataclass(frozen=True)
class Regions:
    """Connected regions of a mask, numbered from 1; row i of each table is region i + 1."""

    labels: Labels
    """height x width, 0 = background."""
    area: NDArray[Any]
    """Pixels."""
    centroid: NDArray[Any]
    """(x, y)."""
    box: NDArray[Any]
    """(left, top, right, bottom); right and bottom are the first column and row outside."""

    def __len__(self) -> int:
        return len(self.area)


@dataclass(frozen=True)
class Analysis:
    """Labels and numbers of one picture."""

    labels: Labels
    """height x width, 0 = background, n = the object with the id n."""
    measurements: Measurements


def analyse(output: Probabilities, spec: Postprocessing) -> Analysis:
    """Measure the objects in a network's output, classes x height x width (logits or probabilities, see the manifest).

    Raises UnfitImage when there are more objects than a mask can number.
    """
    classes, foreground = _probabilities(output, spec)
    regions = find_regions(foreground > spec.threshold, spec.minimum_area, spec.fill_holes)
    return Analysis(regions.labels, _measure(regions, classes, foreground, spec))


def find_regions(mask: NDArray[Any], minimum_area: int, fill_holes: int) -> Regions:
    """The connected regions of `mask` of at least `minimum_area` pixels, holes below `fill_holes` px filled."""
    kept = _without_small(mask.astype(np.uint8), minimum_area, connectivity=8)
    if fill_holes > 1:
        kept = 1 - _without_small(1 - kept, fill_holes, connectivity=4)
    labels, stats, centroids = _components(kept, connectivity=8)
    if len(stats) - 1 > MAX_OBJECTS:
        raise UnfitImage(
            f"{len(stats) - 1} objects were found; a mask can number {MAX_OBJECTS}.",
            advice="Raise the minimum area or the threshold.",
        )
    left, top, width, height, area = stats[1:].T
    return Regions(labels, area, centroids[1:], np.stack([left, top, left + width, top + height], axis=1))


def _without_small(mask: NDArray[Any], minimum: int, connectivity: int) -> NDArray[Any]:
    """Regions of ones with fewer than `minimum` pixels become zero."""
    if minimum <= 1:
        return mask
    labels, stats, _ = _components(mask, connectivity)
    keep = (stats[:, cv2.CC_STAT_AREA] >= minimum).astype(np.uint8)
    keep[0] = 0
    return keep[labels]


def _components(mask: NDArray[Any], connectivity: int) -> tuple[Labels, NDArray[Any], NDArray[Any]]:
    """(labels, statistics, centroids) with a row for each label, the background first."""
    _, labels, stats, centroids = cv2.connectedComponentsWithStats(mask, connectivity=connectivity, ltype=cv2.CV_32S)
    return np.asarray(labels), np.asarray(stats), np.asarray(centroids)


def _probabilities(output: Probabilities, spec: Postprocessing) -> tuple[Probabilities, Probabilities]:
    """(class probabilities without the background, foreground probability)."""
    if spec.activation == "softmax":
        weights = np.exp(output - output.max(axis=0))
        weights /= weights.sum(axis=0)
        return weights[1:], 1 - weights[0]
    classes = 1 / (1 + np.exp(-output)) if spec.activation == "sigmoid" else output
    return classes, classes.max(axis=0)


def _measure(regions: Regions, classes: Probabilities, foreground: Probabilities, spec: Postprocessing) -> Measurements:
    names = [c.name for c in spec.classes[1:]] if spec.has_background else [c.name for c in spec.classes]
    objects = _objects(regions, classes, foreground, names, spec.touches_edge_buffer) if len(regions) else ()
    pixels = regions.labels.size
    members = {name: [o for o in objects if o.class_name == name] for name in names}
    return Measurements(
        count=len(objects),
        area_fraction=sum(o.area for o in objects) / pixels,
        count_by_class={name: len(members[name]) for name in names},
        area_fraction_by_class={name: sum(o.area for o in members[name]) / pixels for name in names},
        mean_radius=sum(o.equivalent_radius for o in objects) / len(objects) if objects else None,
        objects=objects,
    )


def _objects(
    regions: Regions, classes: Probabilities, foreground: Probabilities, names: list[str], buffer: int
) -> tuple[DetectedObject, ...]:
    inside = np.nonzero(regions.labels)
    ids = regions.labels[inside] - 1
    confidence = np.bincount(ids, foreground[inside], len(regions)) / regions.area
    votes = np.stack([np.bincount(ids, plane[inside], len(regions)) for plane in classes])
    height, width = regions.labels.shape
    edge = touches_edge(regions.box, height, width, buffer)
    radius = np.sqrt(regions.area / np.pi)
    return tuple(
        DetectedObject(
            id=i + 1,
            class_name=names[vote],
            area=int(regions.area[i]),
            equivalent_radius=float(radius[i]),
            centroid=tuple(regions.centroid[i].tolist()),
            bounding_box=tuple(regions.box[i].tolist()),
            touches_edge=bool(edge[i]),
            confidence=float(np.clip(confidence[i], 0, 1)),
        )
        for i, vote in enumerate(votes.argmax(axis=0))
    )


def touches_edge(box: NDArray[Any], height: int, width: int, buffer: int) -> NDArray[Any]:
    """Whether a box comes within `buffer` pixels of an edge: fewer than `buffer` pixels lie between."""
    left, top, right, bottom = box.T
    return (left < buffer) | (top < buffer) | (width - right < buffer) | (height - bottom < buffer)
