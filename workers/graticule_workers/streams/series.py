"""A stream as tables: its frames in order, and the objects of each."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from graticule.client import Client
from graticule.errors import NotFound
from graticule.job_index import MOST_JOBS, JobIndex
from graticule.jobs import Job
from graticule.results import Failure, Result
from graticule.selection import natural_key
from graticule_workers.streams.packages import package

_READERS = 8

Table = Any
"""A pandas DataFrame."""


@dataclass(frozen=True)
class Series:
    """A stream. Row i of `frames` is the frame with the number i, which the other tables use."""

    name: str
    frames: Table
    """Columns: frame, job_id, file, frame_in_file, captured_at (UTC, or none), status (succeeded, failed), width_px,
    height_px, count, area_fraction, mean_radius_px, mean_radius_nm, density_per_um2, pixel_width_nm, pixel_height_nm.
    """
    objects: Table
    """frame, object_id, class, x, y, radius, area (px, px2), touches_edge, confidence."""
    jobs: tuple[Job, ...]

    @property
    def pixel_nm(self) -> tuple[float, float] | None:
        """(width, height) of a pixel in nm, where all calibrated frames agree; else none."""
        pairs = self.frames[["pixel_width_nm", "pixel_height_nm"]].dropna().drop_duplicates()
        return (float(pairs.iloc[0, 0]), float(pairs.iloc[0, 1])) if len(pairs) == 1 else None


def read_series(client: Client, name: str, *, limit: int = MOST_JOBS) -> Series:
    """The newest `limit` jobs of a stream that have ended, the first picture first.

    Frames are ordered by the time when the picture was taken, then by the producer's sequence, then by the file's name
    and the frame within it. A frame that failed has no objects. Raises NotFound for a stream without ended jobs.
    """
    summaries = JobIndex(client.settings).series(name, limit=limit)
    if not summaries:
        raise NotFound(f"There is no stream {name!r} with jobs that have ended.", advice="See: graticule stream list.")
    with ThreadPoolExecutor(_READERS, "read") as readers:
        found = list(readers.map(client.outcome, (summary.job_id for summary in summaries)))
    return tabulate(name, [outcome for outcome in found if outcome is not None])


def tabulate(name: str, outcomes: Sequence[Result | Failure]) -> Series:
    """The tables of a stream from what its jobs ended in, in any order."""
    pandas = package("pandas")
    ordered = sorted(outcomes, key=_order)
    frames = pandas.DataFrame([_frame_row(number, outcome) for number, outcome in enumerate(ordered)])
    rows = [row for number, outcome in enumerate(ordered) for row in _object_rows(number, outcome)]
    return Series(
        name,
        frames,
        pandas.DataFrame(rows, columns=list(_OBJECT_COLUMNS)).astype(_OBJECT_COLUMNS),
        tuple(outcome.job for outcome in ordered),
    )


def read_images(client: Client, series: Series) -> Iterator[NDArray[Any]]:
    """The pictures of a stream, height x width, float32 grey, in order; a few are read ahead."""
    jobs = iter(series.jobs)
    with ThreadPoolExecutor(_READERS, "read") as readers:
        waiting = deque(readers.submit(client.frame, job) for job in islice(jobs, _READERS))
        while waiting:
            pixels = waiting.popleft().result().astype(np.float32)
            waiting.extend(readers.submit(client.frame, job) for job in islice(jobs, 1))
            yield cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) if pixels.ndim == 3 else pixels


_MEASURED = (
    "width_px",
    "height_px",
    "count",
    "area_fraction",
    "mean_radius_px",
    "mean_radius_nm",
    "density_per_um2",
    "pixel_width_nm",
    "pixel_height_nm",
)
_OBJECT_COLUMNS = {
    "frame": "int64",
    "object_id": "int64",
    "class": "object",
    "x": "float64",
    "y": "float64",
    "radius": "float64",
    "area": "int64",
    "touches_edge": "bool",
    "confidence": "float64",
}


def _order(outcome: Result | Failure) -> tuple[Any, ...]:
    job = outcome.job
    return (
        job.captured_at or job.submitted_at,
        job.sequence or 0,
        natural_key(job.image.filename),
        job.image.frame,
        job.job_id,
    )


def _frame_row(number: int, outcome: Result | Failure) -> dict[str, Any]:
    job = outcome.job
    row: dict[str, Any] = {
        "frame": number,
        "job_id": job.job_id,
        "file": job.image.filename,
        "frame_in_file": job.image.frame,
        "captured_at": job.captured_at,
        "status": outcome.status,
    }
    values: dict[str, Any] = dict.fromkeys(_MEASURED, None)
    if isinstance(outcome, Result):
        measured = outcome.segmentation
        pixel = (outcome.calibration.nanometres if outcome.calibration else None) or (None, None)
        values |= {
            "width_px": outcome.picture.width,
            "height_px": outcome.picture.height,
            "count": measured.count,
            "area_fraction": measured.area_fraction,
            "mean_radius_px": measured.mean_radius,
            "mean_radius_nm": measured.mean_radius_nm,
            "density_per_um2": measured.density_per_um2,
            "pixel_width_nm": pixel[0],
            "pixel_height_nm": pixel[1],
        }
    return row | {name: np.nan if value is None else value for name, value in values.items()}


def _object_rows(number: int, outcome: Result | Failure) -> Iterator[tuple[Any, ...]]:
    if isinstance(outcome, Result):
        for found in outcome.segmentation.objects:
            yield (
                number,
                found.id,
                found.class_name,
                *found.centroid,
                found.equivalent_radius,
                found.area,
                found.touches_edge,
                found.confidence,
            )
