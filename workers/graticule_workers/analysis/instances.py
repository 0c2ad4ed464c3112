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
from graticule.results import Calibration, DetectedObject, Distribution, Measurements
from graticule_workers.analysis.probabilities import Output, evidence, foreground
from graticule_workers.analysis.shapes import measure_shapes
from graticule_workers.rows import row_chunks

Labels = NDArray[Any]
"""int32, height x width."""
Sums = NDArray[Any]
"""float64, one row for each answer of `evidence`, one column for each region."""

_UM2 = 1e-6
"""Square micrometres in a square nanometre."""
_SQUARE = 1e-3
"""Width and height of a pixel may differ by this part for the pixel to count as square."""
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


def analyse(output: Output, spec: Postprocessing, calibration: Calibration | None = None) -> Analysis:
    """Measure the objects in a network's output, classes x height x width (logits or probabilities, see the manifest).

    Raises UnfitImage when there are more objects than a mask can number.
    """
    output = np.ascontiguousarray(output)
    regions = find_regions(foreground(output, spec), spec.minimum_area, spec.fill_holes)
    sums = sum_by_label(regions.labels, len(regions), output, spec)
    return Analysis(regions.labels, measure(regions, sums, spec, calibration))


def find_regions(mask: NDArray[Any], minimum_area: int, fill_holes: int) -> Regions:
    """The connected regions of `mask` of at least `minimum_area` pixels, holes below `fill_holes` px filled."""
    rows, columns = _surroundings(mask.view(np.uint8), fill_holes)
    kept = mask[rows, columns].astype(np.uint8)
    _drop_small(kept, minimum_area, connectivity=8)
    if fill_holes > 1:
        kept ^= 1
        _drop_small(kept, fill_holes, connectivity=4)
        kept ^= 1
    labels = np.zeros(mask.shape, np.int32)
    _, stats, centroids = components(kept, connectivity=8, labels=labels[rows, columns])
    if len(stats) - 1 > MAX_OBJECTS:
        raise UnfitImage(
            f"{len(stats) - 1} objects were found; a mask can number {MAX_OBJECTS}.",
            advice="Raise the minimum area or the threshold.",
        )
    left, top, width, height, area = stats[1:].T
    left, top = left + columns.start, top + rows.start
    centroid = centroids[1:] + np.array([columns.start, rows.start])
    return Regions(labels, area, centroid, np.stack([left, top, left + width, top + height], axis=1))


def _surroundings(mask: NDArray[Any], fill_holes: int) -> tuple[slice, slice]:
    """(rows, columns) around all ones of a mask; elsewhere is nothing to be found.

    Their margin is as wide as it must be for a part of the background that crosses it to have `fill_holes` pixels
    there already: whatever is smaller lies within, to its last pixel.
    """
    left, top, width, height = cv2.boundingRect(mask)
    margin = max(1, -(-fill_holes // max(1, min(width, height))))
    return (
        slice(max(0, top - margin), top + height + margin),
        slice(max(0, left - margin), left + width + margin),
    )


def _drop_small(mask: NDArray[Any], minimum: int, connectivity: int) -> None:
    """Regions of ones with fewer than `minimum` pixels become zero, in place."""
    if minimum <= 1:
        return
    labels, stats, _ = components(mask, connectivity)
    keep = (stats[:, cv2.CC_STAT_AREA] >= minimum).astype(np.uint8)
    keep[0] = 0
    look_up(keep, labels, mask)


def components(
    mask: NDArray[Any], connectivity: int, labels: Labels | None = None
) -> tuple[Labels, NDArray[Any], NDArray[Any]]:
    """(labels, statistics, centroids) of the ones in a mask (uint8), a row for each label, the background first.

    `labels`: an array to write them to.
    """
    # The default algorithm gives the same labels; with statistics it takes more than twice as long.
    _, labels, stats, centroids = cv2.connectedComponentsWithStatsWithAlgorithm(
        mask, connectivity, cv2.CV_32S, cv2.CCL_BBDT, labels=labels
    )
    return np.asarray(labels), np.asarray(stats), np.asarray(centroids)


def look_up(table: NDArray[Any], labels: Labels, found: NDArray[Any]) -> None:
    """Write `table[labels]` to `found`; by rows, because numpy makes 64-bit numbers of the labels first."""
    for rows in row_chunks(0, *labels.shape):
        np.take(table, labels[rows], out=found[rows], mode="clip")


def sum_by_label(labels: Labels, count: int, output: Output, spec: Postprocessing) -> Sums:
    """Sums of what `evidence` says over the pixels of each of the labels 1 .. `count`."""
    inside = np.flatnonzero(labels > 0)
    ids = labels.reshape(-1)[inside] - 1
    values = evidence(output.reshape(len(output), -1).take(inside, axis=1), spec)
    return np.stack([np.bincount(ids, value, count) for value in values])


def measure(
    regions: Regions,
    sums: Sums,
    spec: Postprocessing,
    calibration: Calibration | None = None,
    *,
    touching: bool = False,
) -> Measurements:
    """The numbers of a picture; `sums` are those of what `evidence` says over each region.

    `calibration`: without one (or with one that is no length) there are no physical numbers. `touching`: regions may
    have common borders, as the instances of an instance model may.
    """
    names = [c.name for c in spec.classes[1:]] if spec.has_background else [c.name for c in spec.classes]
    columns = _columns(regions, sums, names, spec.touches_edge_buffer, calibration, touching)
    objects = _objects(columns)
    pixel = calibration.nanometres if calibration else None
    radii, radii_nm = _distribution(columns["equivalent_radius"]), _distribution(columns.get("equivalent_radius_nm"))
    pixels = regions.labels.size
    members = {name: [o for o in objects if o.class_name == name] for name in names}
    return Measurements(
        count=len(objects),
        area_fraction=sum(o.area for o in objects) / pixels,
        count_by_class={name: len(members[name]) for name in names},
        area_fraction_by_class={name: sum(o.area for o in members[name]) / pixels for name in names},
        mean_radius=radii.mean if radii else None,
        mean_radius_nm=radii_nm.mean if radii_nm else None,
        density_per_um2=len(objects) / (pixels * pixel[0] * pixel[1] * _UM2) if pixel else None,
        radii=radii,
        radii_nm=radii_nm,
        objects=objects,
    )


def _columns(
    regions: Regions,
    sums: Sums,
    names: list[str],
    buffer: int,
    calibration: Calibration | None,
    touching: bool,
) -> dict[str, NDArray[Any] | list[str]]:
    """The fields of DetectedObject but for the id, each with an entry for every region."""
    height, width = regions.labels.shape
    aspect = calibration.pixel_width / calibration.pixel_height if calibration else 1.0
    shapes = measure_shapes(regions.labels, regions.centroid, regions.box, aspect, touching=touching)
    radius = np.sqrt(regions.area / np.pi)
    columns = {
        "class_name": [names[vote] for vote in sums[1:].argmax(axis=0)],
        "area": regions.area,
        "equivalent_radius": radius,
        "centroid": regions.centroid,
        "bounding_box": regions.box,
        "touches_edge": touches_edge(regions.box, height, width, buffer),
        "confidence": np.clip(sums[0] / regions.area, 0, 1),
        "perimeter": shapes.perimeter,
        "eccentricity": shapes.eccentricity,
        "orientation": shapes.orientation,
    }
    if calibration and (pixel := calibration.nanometres):
        columns |= {
            "area_nm2": regions.area * pixel[0] * pixel[1],
            "equivalent_radius_nm": radius * np.sqrt(pixel[0] * pixel[1]),
            "centroid_nm": regions.centroid * pixel,
        }
        if np.isclose(aspect, 1, rtol=_SQUARE, atol=0):
            columns["perimeter_nm"] = shapes.perimeter * np.sqrt(pixel[0] * pixel[1])
    return columns


def _objects(columns: dict[str, NDArray[Any] | list[str]]) -> tuple[DetectedObject, ...]:
    plain = [column if isinstance(column, list) else column.tolist() for column in columns.values()]
    return tuple(
        DetectedObject(id=number, **dict(zip(columns, values, strict=True)))
        for number, values in enumerate(zip(*plain, strict=True), start=1)
    )


def _distribution(values: Any) -> Distribution | None:  # noqa: ANN401 (an array, or nothing)
    if values is None or not len(values):
        return None
    p5, p25, median, p75, p95 = np.percentile(values, (5, 25, 50, 75, 95)).tolist()
    return Distribution(
        mean=float(values.mean()),
        standard_deviation=float(values.std()),
        minimum=float(values.min()),
        p5=p5,
        p25=p25,
        median=median,
        p75=p75,
        p95=p95,
        maximum=float(values.max()),
    )


def touches_edge(box: NDArray[Any], height: int, width: int, buffer: int) -> NDArray[Any]:
    """Whether a box comes within `buffer` pixels of an edge: fewer than `buffer` pixels lie between."""
    left, top, right, bottom = box.T
    return (left < buffer) | (top < buffer) | (width - right < buffer) | (height - bottom < buffer)
