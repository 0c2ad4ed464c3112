"""Semantic segmentation: a picture of any size in, numbered objects and their measurements out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from graticule import formats
from graticule.errors import InvalidParameters
from graticule.jobs import Job
from graticule.manifest import Manifest, Postprocessing
from graticule.results import Measurements, mask_key
from graticule_workers.analysis.instances import Labels, analyse
from graticule_workers.analysis.probabilities import Output
from graticule_workers.analysis.tally import Tally
from graticule_workers.pipelines.answer import Answer, File, Model, Timed
from graticule_workers.pipelines.preprocess import Source, padded_size, prepare, scaled_size
from graticule_workers.pipelines.tiling import Blender, Grid, Restorer, Tile, lay_out, tile_size

Infer = Callable[[NDArray[Any]], NDArray[Any]]
"""Runs the network and waits: batch x channels x height x width (float32) in, batch x classes x height x width out."""

AT_ONCE = 4_194_304
"""Pixels of a picture up to which the outputs for all classes are held at a time."""
ADJUSTABLE = ("threshold", "minimum_area", "fill_holes", "touches_edge_buffer")
"""Post-processing that a job's parameters may override."""

_FAST_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]


@dataclass(frozen=True)
class Segmentation:
    """What was found in one picture."""

    labels: Labels
    """height x width of the picture, 0 = background, n = the object with the id n."""
    measurements: Measurements
    flags: tuple[str, ...]
    """What was unusual about the picture."""


class SegmentPicture:
    """See `Pipeline`."""

    def __init__(self, job: Job, manifest: Manifest, max_pixels: int) -> None:
        """Raises InvalidParameters."""
        self._job = job
        self._manifest = manifest
        self._spec = adjusted(manifest.postprocessing, job.parameters)
        self._max_pixels = max_pixels

    def __call__(self, data: bytes, model: Model, timed: Timed) -> Answer:
        """Raises UnreadableImage, ImageTooLarge, UnfitImage, and whatever the model raises."""
        image = self._job.image
        with timed("decode"):
            picture = formats.decode(data, image.filename, frame=image.frame, max_pixels=self._max_pixels)
        found = segment(picture.pixels, self._manifest, self._spec, model.infer, timed)
        with timed("store"):
            mask = self._mask(encode_mask(found.labels))
        objects = found.measurements.objects
        return Answer(
            measurements=found.measurements,
            files={"mask": mask},
            parameters=applied(self._spec),
            image=picture.info,
            calibration=picture.calibration,
            confidence=sum(o.confidence for o in objects) / len(objects) if objects else None,
            flags=found.flags,
        )

    def _mask(self, data: bytes) -> File:
        sha256 = hashlib.sha256(data).hexdigest()
        return File(
            key=mask_key(self._job.job_id, sha256),
            data=data,
            sha256=sha256,
            media_type="image/png",
            description="Each pixel holds the id of its object; 0 is background.",
        )


def segment(pixels: NDArray[Any], manifest: Manifest, spec: Postprocessing, infer: Infer, timed: Timed) -> Segmentation:
    """Find and measure the objects in a decoded picture, height x width (x 3), of any size.

    A large picture goes through the network in tiles, at most `manifest.batch_limit` of them in one run, and its
    outputs are never held as a whole. `spec` is the manifest's post-processing, adjusted to the job.
    Raises UnfitImage, and whatever `infer` raises.
    """
    height, width = pixels.shape[:2]
    preprocessing = manifest.preprocessing
    content = scaled_size((height, width), preprocessing)
    one_run = tile_size(content, preprocessing.size) == padded_size(content, preprocessing.size)
    if one_run and height * width <= AT_ONCE:
        return _segment_at_once(pixels, manifest, spec, infer, timed)
    return _segment_by_tiles(pixels, manifest, spec, infer, timed)


def _segment_at_once(
    pixels: NDArray[Any], manifest: Manifest, spec: Postprocessing, infer: Infer, timed: Timed
) -> Segmentation:
    with timed("preprocess"):
        prepared = prepare(pixels, manifest.preprocessing)
    with timed("infer"):
        (output,) = infer(prepared.tensor[np.newaxis])
    with timed("analyse"):
        analysis = analyse(prepared.restore(output), spec)
    return Segmentation(analysis.labels, analysis.measurements, prepared.flags)


def _segment_by_tiles(
    pixels: NDArray[Any], manifest: Manifest, spec: Postprocessing, infer: Infer, timed: Timed
) -> Segmentation:
    with timed("preprocess"):
        source = Source(pixels, manifest.preprocessing)
        grid = lay_out(source.content, manifest.preprocessing.size)
    mosaic = _Mosaic(source, grid, spec)
    at_a_time = manifest.batch_limit(*grid.size)
    for first in range(0, len(grid.tiles), at_a_time):
        mosaic.add(grid.tiles[first : first + at_a_time], infer, timed)
    with timed("analyse"):
        analysis = mosaic.tally.finish()
    return Segmentation(analysis.labels, analysis.measurements, source.flags)


class _Mosaic:
    """What becomes of the tiles: blended, brought back to the picture's size, counted."""

    def __init__(self, source: Source, grid: Grid, spec: Postprocessing) -> None:
        self._source = source
        self._size = grid.size
        self._blender = Blender(grid)
        self._restorer = Restorer(source.content, source.original)
        self.tally = Tally(*source.original, spec)

    def add(self, tiles: Sequence[Tile], infer: Infer, timed: Timed) -> None:
        """The next tiles in the order of the grid, in one run of the network."""
        with timed("preprocess"):
            batch = np.stack([self._source.cut(tile.row.start, tile.column.start, self._size) for tile in tiles])
        with timed("infer"):
            outputs = infer(batch)
        with timed("analyse"):
            for tile, output in zip(tiles, outputs, strict=True):
                self._blend(tile, output)

    def _blend(self, tile: Tile, output: Output) -> None:
        if band := self._blender.add(tile, output):
            for part in self._restorer.add(band):
                self.tally.add(part.top, part.output)


def adjusted(spec: Postprocessing, parameters: dict[str, Any]) -> Postprocessing:
    """The manifest's post-processing with a job's parameters. Raises InvalidParameters."""
    unknown = sorted(set(parameters) - set(ADJUSTABLE))
    if unknown:
        raise InvalidParameters(f"Unknown parameter(s) {', '.join(unknown)}; this model takes {', '.join(ADJUSTABLE)}.")
    if not parameters:
        return spec
    try:
        return Postprocessing.model_validate({**spec.model_dump(), **parameters})
    except ValidationError as error:
        mistakes = "; ".join(
            f"{'.'.join(map(str, e['loc']))}: {e['msg']}, found {e['input']!r}" for e in error.errors(include_url=False)
        )
        raise InvalidParameters(f"Parameters do not fit: {mistakes}.") from error


def applied(spec: Postprocessing) -> dict[str, Any]:
    """What `result.json` says about the post-processing."""
    return {name: getattr(spec, name) for name in ADJUSTABLE}


def encode_mask(labels: Labels) -> bytes:
    """PNG with each pixel's object id, 8 bits while the ids fit, else 16."""
    dtype = np.uint8 if labels.max(initial=0) <= np.iinfo(np.uint8).max else np.uint16
    good, data = cv2.imencode(".png", labels.astype(dtype), _FAST_PNG)
    if not good:
        raise ValueError(f"a mask of shape {labels.shape} could not be written as PNG")
    return data.tobytes()
