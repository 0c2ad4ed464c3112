"""Results written back beside the pictures, as the older real-time TEM tool did: `masks/<file name>`, for files with
several frames `masks/<file name>/frame-0000.png` and so on, and `masks/defect-details.json`, one JSON object a line.

A result counts as written back when the journal says so, after mask and line are there. A run that was killed in
between finds the line by its `job-id` and writes no second one.
"""

from __future__ import annotations

import io
import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from graticule.endings import EndedJobs
from graticule.errors import GraticuleError
from graticule.outputs import write_atomically
from graticule.records import Records
from graticule.render import binary_mask
from graticule.results import Result
from graticule.selection import RESULTS_FOLDER
from graticule.store import Store, printable
from graticule_producers.defect_record import DefectRecord
from graticule_producers.watcher.journal import Journal, Place
from graticule_producers.watcher.outage import Outage

log = logging.getLogger(__name__)

DETAILS_FILE = "defect-details.json"
LOSSLESS = {".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF"}
"""A mask keeps its picture's name where that is a name for such a file; else `.png` follows it."""
_TURN = 0.5
"""Seconds after which the thread looks at least whether it was told to stop."""


class ResultsFolder:
    """The folder `masks` of a watched folder. One writer."""

    def __init__(self, root: Path, *, legacy_fraction: bool = False) -> None:
        """`legacy_fraction`: records also hold `void_frac_legacy`, which the older tool took for the area fraction."""
        self.root = root
        self.folder = root / RESULTS_FOLDER
        self._legacy_fraction = legacy_fraction
        self._written: set[str] | None = None

    def keep(self, result: Result, labels: np.ndarray, place: Place) -> None:
        """Write the mask and the record of a picture, once. Raises OSError."""
        if self._written is None:
            self._written = self._read_written()
        path = self._mask_path(place)
        write_atomically(path, _encoded(labels, path))
        if result.job.job_id not in self._written:
            self._append(self._record(result, place, path))
            self._written.add(result.job.job_id)

    def _mask_path(self, place: Place) -> Path:
        path = self.folder / place.path
        if place.frame is not None:
            return path / f"frame-{place.frame:04d}.png"
        return path if path.suffix.lower() in LOSSLESS else path.with_name(path.name + ".png")

    def _record(self, result: Result, place: Place, mask: Path) -> dict[str, Any]:
        record = DefectRecord.of(result, str(self.root / place.path), str(mask)).model_dump(mode="json", by_alias=True)
        if place.frame is not None:
            record["frame"] = place.frame
        if self._legacy_fraction:
            record["void_frac_legacy"] = legacy_fraction(result)
        return {**record, "job-id": result.job.job_id}

    def _append(self, record: dict[str, Any]) -> None:
        with (self.folder / DETAILS_FILE).open("ab") as file:
            file.write(json.dumps(record).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _read_written(self) -> set[str]:
        """The jobs that have a line. Half a line, which a kill or a full disk left, is cut off."""
        path = self.folder / DETAILS_FILE
        if not path.exists():
            return set()
        with path.open("r+b") as file:
            lines = file.read().splitlines(keepends=True)
            if lines and not lines[-1].endswith(b"\n"):
                file.truncate(sum(map(len, lines[:-1])))
                lines.pop()
        return set(_job_ids(lines))


class Returner(threading.Thread):
    """Waits for the results of the pictures that were sent and writes them back."""

    def __init__(self, store: Store, journal: Journal, folder: ResultsFolder) -> None:
        super().__init__(name="watcher-returns", daemon=True)
        self._records = Records(store)
        self._journal = journal
        self._folder = folder
        self._ended = EndedJobs(store.settings)
        self._halt = threading.Event()
        self._lock = threading.Lock()
        self._due = journal.not_returned()
        self._outage = Outage(
            f"the folder {printable(str(folder.folder))!r}, or what it is filled from,",
            log,
            promise="Results are kept and written there later.",
        )
        self.returned = 0

    @property
    def due(self) -> int:
        """Results that are still to come."""
        with self._lock:
            return len(self._due)

    def expect(self, job_id: str, place: Place) -> None:
        """A picture was sent."""
        with self._lock:
            self._due[job_id] = place

    def halt(self) -> None:
        """Let the thread end soon; what is due is written back by the next run."""
        self._halt.set()

    def run(self) -> None:
        """Write back until told to stop."""
        early = self._waiting()
        while not self._halt.is_set():
            if wait := max(0.0, self._outage.next_try - time.monotonic()):
                self._halt.wait(min(wait, _TURN))
                continue
            waiting = self._waiting()
            # What earlier runs sent has perhaps ended long ago, and no event will tell of it.
            ended = list(early) or self._ended.next(waiting, _TURN)
            early = {}
            for job_id in ended:
                if self._halt.is_set():
                    return
                self._try(job_id, waiting[job_id])

    def _waiting(self) -> dict[str, Place]:
        with self._lock:
            return dict(self._due)

    def _try(self, job_id: str, place: Place) -> None:
        try:
            over = self._return(job_id, place)
        except (GraticuleError, OSError) as error:
            self._outage.failed(error)
            return
        self._outage.succeeded(self.due)
        if over:
            with self._lock:
                self._due.pop(job_id, None)

    def _return(self, job_id: str, place: Place) -> bool:
        """Whether the job has ended, and its result is where it belongs."""
        outcome = self._records.outcome(job_id)
        if isinstance(outcome, Result):
            self._folder.keep(outcome, self._records.labels(outcome), place)
            self._journal.returned(job_id)
            self.returned += 1
        elif outcome:
            # Not noted in the journal: should somebody try it again, the next run finds its result.
            log.warning("%r has no result: %s", printable(place.path), outcome.message)
        return outcome is not None


def legacy_fraction(result: Result) -> float | None:
    """The older tool's `void_frac`: object pixels / (number of objects x height of the picture, px).

    None without objects, where the older tool divided by zero.
    """
    found, image = result.segmentation, result.picture
    if not found.count:
        return None
    return found.area_fraction * image.width * image.height / (found.count * image.height)


def _encoded(labels: np.ndarray, path: Path) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(binary_mask(labels)).save(buffer, LOSSLESS[path.suffix.lower()])
    return buffer.getvalue()


def _job_ids(lines: list[bytes]) -> Iterator[str]:
    """Lines of the older tool have none."""
    for line in lines:
        try:
            yield json.loads(line)["job-id"]
        except (ValueError, KeyError, TypeError):
            continue
