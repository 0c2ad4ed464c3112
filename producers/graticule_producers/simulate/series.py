"""A camera over a production line: simulated tiles written into a folder, one after another."""

from __future__ import annotations

import csv
import io
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from graticule.errors import BadInput, GraticuleError
from graticule_producers.simulate.tile import DEFECT_SHARE, LARGEST_SIDE, SMALLEST_SIDE, Tile, draw_tile

TRUTH_FILE = "truth.csv"
_TRUTH_COLUMNS = ("file", "mask", "kind", "width_px", "height_px", "defect_area_px", "seed", "index")
_NAME = re.compile(r"^tile-(\d{6,})\.(jpg|png)$")
_QUALITY = 95
"""JPEG quality of the real photographs."""


@dataclass
class Report:
    """What was written."""

    folder: Path
    kinds: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def count(self) -> int:
        """Pictures."""
        return self.kinds.total()


def simulate_tiles(
    out: Path,
    *,
    count: int | None = None,
    rate: float = 4.0,
    seed: int = 1,
    size: tuple[int, int] | None = None,
    truth: Path | None = None,
    defect_share: float = DEFECT_SHARE,
    stop: threading.Event | None = None,
    on_tile: Callable[[Report], object] = lambda report: None,
) -> Report:
    """Write tiles into `out`, `rate` a second (0: as fast as possible), until `count` or `stop`.

    Each picture appears whole, by a rename. Numbers go on behind those that the folder holds already, so that nothing
    is overwritten. `truth`: a folder for the exact masks and `truth.csv`. Raises BadInput for impossible arguments and
    GraticuleError when a file cannot be written.
    """
    _check(out, seed, size, truth, defect_share)
    stop = stop or threading.Event()
    report, began = Report(out), time.monotonic()
    try:
        out.mkdir(parents=True, exist_ok=True)
        first = _next_number(out)
        while (count is None or report.count < count) and not _wait(stop, began, report.count, rate):
            index = first + report.count
            tile = draw_tile(seed, index, size, defect_share=defect_share)
            _save(out, truth, tile, seed, index)
            report.kinds[tile.kind] += 1
            report.seconds = time.monotonic() - began
            on_tile(report)
    except OSError as error:
        raise GraticuleError(
            f"Cannot write into {str(error.filename or out)!r}: {error.strerror or error}.",
            data=f"{report.count} pictures were written before; none is half written.",
        ) from error
    return report


def tile_name(index: int) -> str:
    """File name of a picture. It does not tell what is in it: that stands in `truth.csv`."""
    return f"tile-{index:06d}.jpg"


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it appears with all its bytes or not at all."""
    unfinished = path.with_name(f".{path.name}.tmp")
    try:
        unfinished.write_bytes(data)
        os.replace(unfinished, path)  # noqa: PTH105  (the atomic one on every system)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _check(out: Path, seed: int, size: tuple[int, int] | None, truth: Path | None, defect_share: float) -> None:
    if seed < 0:
        raise BadInput(f"A seed is 0 or greater; found {seed}.")
    if size and not SMALLEST_SIDE <= size[0] <= size[1] <= LARGEST_SIDE:
        raise BadInput(
            f"Sizes are MIN:MAX with {SMALLEST_SIDE} <= MIN <= MAX <= {LARGEST_SIDE} px; found {size[0]}:{size[1]}."
        )
    if not 0 <= defect_share <= 1:
        raise BadInput(f"The share of defects is between 0 and 1; found {defect_share:g}.")
    if truth and truth.absolute().is_relative_to(out.absolute()):
        raise BadInput(
            f"The folder for the truth, {str(truth)!r}, lies in the folder of the pictures: whoever watches that would"
            " take the masks for pictures.",
            advice="Choose a folder beside it.",
        )


def _wait(stop: threading.Event, began: float, done: int, rate: float) -> bool:
    """Wait until the next picture is due; True when it is time to stop."""
    due = began + done / rate if rate else 0.0
    return stop.wait(max(0.0, due - time.monotonic()))


def _next_number(out: Path) -> int:
    numbers = (int(match[1]) for path in out.iterdir() if (match := _NAME.match(path.name)))
    return max(numbers, default=0) + 1


def _save(out: Path, truth: Path | None, tile: Tile, seed: int, index: int) -> None:
    # The truth first: whoever sees a picture finds its truth.
    if truth:
        _save_truth(truth, tile, seed, index)
    buffer = io.BytesIO()
    Image.fromarray(tile.pixels).save(buffer, "JPEG", quality=_QUALITY)
    write_atomically(out / tile_name(index), buffer.getvalue())


def _save_truth(truth: Path, tile: Tile, seed: int, index: int) -> None:
    truth.mkdir(parents=True, exist_ok=True)
    name = tile_name(index)
    mask = Path(name).with_suffix(".png").name
    buffer = io.BytesIO()
    Image.fromarray(tile.mask.astype(np.uint8) * 255).save(buffer, "PNG")
    write_atomically(truth / mask, buffer.getvalue())
    height, width = tile.mask.shape
    table = truth / TRUTH_FILE
    is_new = not table.exists()
    with table.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow(_TRUTH_COLUMNS)
        writer.writerow((name, mask, tile.kind, width, height, int(tile.mask.sum()), seed, index))
