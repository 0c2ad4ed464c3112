"""A simulated microscope: micrographs or in-situ movies written into a folder, one frame after another."""

from __future__ import annotations

import csv
import io
import re
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from graticule.errors import BadInput, GraticuleError
from graticule_producers.simulate.micrograph import FOCI, Experiment, Focus
from graticule_producers.simulate.series import write_atomically

SMALLEST_SIDE, LARGEST_SIDE = 128, 4096
MOST_FRAMES = 100_000

_TRUTH_COLUMNS = ("file", "frame", "mask", "focus", "defocus_nm", "pixel_nm", "drift_x_px", "drift_y_px", "voids")
_TRACK_COLUMNS = ("file", "frame", "experiment", "void", "x_px", "y_px", "radius_px")
_NAME = re.compile(r"^tem-(\d{6,})(-frame-\d{4,})?\.tif$")
_NM_IN_CM = 1e7


@dataclass
class TemReport:
    """What was written."""

    folder: Path
    pictures: int = 0
    experiments: int = 0
    seconds: float = 0.0


def simulate_tem(
    out: Path,
    *,
    count: int | None = None,
    frames: int = 1,
    stack: bool = False,
    rate: float = 1.0,
    seed: int = 1,
    size: int = 1024,
    focus: Focus | None = None,
    truth: Path | None = None,
    stop: threading.Event | None = None,
    on_picture: Callable[[TemReport], object] = lambda report: None,
) -> TemReport:
    """Write `count` experiments of `frames` pictures each into `out`, `rate` pictures a second (0: without a pause).

    A single picture is `tem-000001.tif`; a movie is `tem-000001-frame-0000.tif`, ..., or with `stack` one file
    `tem-000001.tif` of many pages, which appears when it is done. TIFF, 8 bits, with the size of a pixel. Numbers go on
    behind those that the folder holds. `truth`: a folder for masks (`CLASSES` of micrograph.py), `truth.csv` (one row a
    picture: focus, drift) and `tracks.csv` (one row for each void in each picture).
    Raises BadInput for impossible arguments, GraticuleError when a file cannot be written.
    """
    _check(out, seed, size, frames, focus, truth)
    writer = _Writer(out, truth, stack, rate, stop or threading.Event(), on_picture)
    try:
        out.mkdir(parents=True, exist_ok=True)
        index = _next_number(out)
        while (count is None or writer.report.experiments < count) and not writer.is_over:
            writer.write(index, Experiment(seed, index, (size, size), frames=frames, focus=focus))
            index += 1
    except OSError as error:
        raise GraticuleError(
            f"Cannot write into {str(error.filename or out)!r}: {error.strerror or error}.",
            data=f"{writer.report.pictures} pictures were written before; none is half written.",
        ) from error
    return writer.report


class _Writer:
    def __init__(
        self,
        out: Path,
        truth: Path | None,
        stack: bool,
        rate: float,
        stop: threading.Event,
        on_picture: Callable[[TemReport], object],
    ) -> None:
        self.report = TemReport(out)
        self._out, self._truth, self._stack, self._rate = out, truth, stack, rate
        self._stop, self._on_picture = stop, on_picture
        self._began = time.monotonic()

    @property
    def is_over(self) -> bool:
        return self._stop.is_set()

    def write(self, index: int, experiment: Experiment) -> None:
        """All frames of an experiment, as far as there is time for them."""
        pages = []
        for frame in range(experiment.frames):
            if self._wait():
                break
            name = picture_name(index, frame, experiment.frames, stack=self._stack)
            picture = experiment.take(frame)
            # The truth first: whoever sees a picture finds its truth.
            if self._truth:
                self._write_truth(name, frame, index, experiment, picture.mask)
            if self._stack:
                pages.append(picture.pixels)
            else:
                write_atomically(self._out / name, _tiff([picture.pixels], experiment.optics.pixel_nm))
            self.report.pictures += 1
            self.report.seconds = time.monotonic() - self._began
            self._on_picture(self.report)
        if pages:
            name = picture_name(index, 0, experiment.frames, stack=True)
            write_atomically(self._out / name, _tiff(pages, experiment.optics.pixel_nm))
        self.report.experiments += 1

    def _wait(self) -> bool:
        """Wait until the next picture is due; True when it is time to stop."""
        due = self._began + self.report.pictures / self._rate if self._rate else 0.0
        return self._stop.wait(max(0.0, due - time.monotonic()))

    def _write_truth(
        self, name: str, frame: int, index: int, experiment: Experiment, mask: np.ndarray[Any, Any]
    ) -> None:
        assert self._truth is not None
        self._truth.mkdir(parents=True, exist_ok=True)
        stem = Path(name).stem + (f"-frame-{frame:04d}" if self._stack else "")
        buffer = io.BytesIO()
        Image.fromarray(mask).save(buffer, "PNG")
        write_atomically(self._truth / f"{stem}.png", buffer.getvalue())
        places = experiment.places(frame)
        in_file = frame if self._stack else 0
        optics, drift = experiment.optics, experiment.specimen.drift[frame]
        row = (name, in_file, f"{stem}.png", experiment.focus, optics.defocus_nm, optics.pixel_nm, *drift, len(places))
        _append(self._truth / "truth.csv", _TRUTH_COLUMNS, [row])
        _append(self._truth / "tracks.csv", _TRACK_COLUMNS, [(name, in_file, index, *place) for place in places])


def picture_name(index: int, frame: int, frames: int, *, stack: bool) -> str:
    """File name of a picture; of a stack, that of all its frames."""
    return f"tem-{index:06d}.tif" if stack or frames == 1 else f"tem-{index:06d}-frame-{frame:04d}.tif"


def _check(out: Path, seed: int, size: int, frames: int, focus: str | None, truth: Path | None) -> None:
    if seed < 0:
        raise BadInput(f"A seed is 0 or greater; found {seed}.")
    if not SMALLEST_SIDE <= size <= LARGEST_SIDE:
        raise BadInput(f"The side of a picture is {SMALLEST_SIDE} to {LARGEST_SIDE} px; found {size}.")
    if not 1 <= frames <= MOST_FRAMES:
        raise BadInput(f"An experiment has 1 to {MOST_FRAMES:,} frames; found {frames}.")
    if focus is not None and focus not in FOCI:
        raise BadInput(f"Focus is {', '.join(FOCI)}, or none for any; found {focus!r}.")
    if truth and truth.absolute().is_relative_to(out.absolute()):
        raise BadInput(
            f"The folder for the truth, {str(truth)!r}, lies in the folder of the pictures: whoever watches that would"
            " take the masks for pictures.",
            advice="Choose a folder beside it.",
        )


def _next_number(out: Path) -> int:
    numbers = (int(match[1]) for path in out.iterdir() if (match := _NAME.match(path.name)))
    return max(numbers, default=0) + 1


def _tiff(pages: list[np.ndarray[Any, Any]], pixel_nm: float) -> bytes:
    buffer = io.BytesIO()
    across = _NM_IN_CM / pixel_nm
    tifffile.imwrite(
        buffer,
        np.stack(pages) if len(pages) > 1 else pages[0],
        photometric="minisblack",
        resolution=(across, across),
        resolutionunit="CENTIMETER",
        metadata=None,
        software="graticule simulate tem",
    )
    return buffer.getvalue()


def _append(path: Path, columns: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> None:
    is_new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow(columns)
        writer.writerows(rows)
