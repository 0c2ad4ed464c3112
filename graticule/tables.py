"""Tables of a run: one row for each picture (`results`) and one for each object (`objects`), as CSV and Parquet.

Rows are written as they come, into files that end in `.part`; `close` gives them their names, so that a table of an
earlier run is replaced by a whole one or not at all. Both formats have the same columns and rows. Lengths end in `_px`
(`area_px` counts pixels), times in `_s`.

CSV is UTF-8 with a byte order mark and CRLF (RFC 4180), as Excel and pandas read it. A text that a spreadsheet would
take for a formula (it begins with `=`, `+`, `-`, `@`, a tab or a line break) gets an apostrophe in front: `plain` takes
it off again. Parquet holds every text as it is.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol

from graticule.errors import MissingPart
from graticule.jobs import Job
from graticule.results import Failure, Result, Timings

RESULTS = "results"
OBJECTS = "objects"

Kind = Literal["text", "integer", "number", "flag", "time"]
Columns = tuple[tuple[str, Kind], ...]
Row = dict[str, Any]

_PART = ".part"
_ROW_GROUP = 5_000
_FLUSH_EVERY = 20
# A text that looks like one that was marked already is marked again, so that `plain` gives back every text.
_FORMULA = re.compile("'*[=+\\-@\\t\\r\\n＝＋－＠]")

_STAGES = tuple(Timings.model_fields)
OBJECT_COLUMNS: Columns = (
    ("file", "text"),
    ("path", "text"),
    ("job_id", "text"),
    ("object_id", "integer"),
    ("class", "text"),
    ("area_px", "integer"),
    ("equivalent_radius_px", "number"),
    ("centroid_x_px", "number"),
    ("centroid_y_px", "number"),
    ("left_px", "integer"),
    ("top_px", "integer"),
    ("right_px", "integer"),
    ("bottom_px", "integer"),
    ("touches_edge", "flag"),
    ("confidence", "number"),
)


@dataclass(frozen=True)
class Entry:
    """A picture and what became of it."""

    file: str
    path: str
    outcome: Result | Failure | None
    """None: nothing yet, or never sent; then `message` says why."""
    status: Literal["succeeded", "failed", "waiting"]
    error: str = ""
    message: str = ""
    job_id: str = ""
    mask: str = ""
    """Path of the mask, relative to the table; empty: none."""
    overlay: str = ""


def result_columns(classes: Iterable[str]) -> Columns:
    """Columns of the table of results for a model with these classes."""
    return (
        ("file", "text"),
        ("path", "text"),
        ("job_id", "text"),
        ("status", "text"),
        ("error", "text"),
        ("error_message", "text"),
        ("error_stage", "text"),
        ("model", "text"),
        ("model_version", "text"),
        ("model_sha256", "text"),
        ("image_sha256", "text"),
        ("width_px", "integer"),
        ("height_px", "integer"),
        ("count", "integer"),
        ("area_fraction", "number"),
        *((f"count_{name}", "integer") for name in classes),
        ("mean_radius_px", "number"),
        ("mean_confidence", "number"),
        ("max_confidence", "number"),
        ("flags", "text"),
        ("pixel_width", "number"),
        ("pixel_height", "number"),
        ("pixel_unit", "text"),
        ("captured_at", "time"),
        ("completed_at", "time"),
        *((f"{stage}_s", "number") for stage in _STAGES),
        ("mask", "text"),
        ("overlay", "text"),
    )


def result_row(entry: Entry) -> Row:
    """The row of one picture; columns that have no value are left out."""
    row: Row = {
        "file": entry.file,
        "path": entry.path,
        "job_id": entry.job_id,
        "status": entry.status,
        "error": entry.error,
        "error_message": entry.message,
        "mask": entry.mask,
        "overlay": entry.overlay,
    }
    if entry.outcome:
        row |= _job_values(entry.outcome.job) | {"completed_at": entry.outcome.completed_at}
    if isinstance(entry.outcome, Failure):
        row |= {"error": entry.outcome.error, "error_message": entry.outcome.message}
        row["error_stage"] = entry.outcome.stage
    if isinstance(entry.outcome, Result):
        row |= _measured(entry.outcome)
    return row


def object_rows(entry: Entry) -> list[Row]:
    """The rows of the objects in one picture."""
    if not isinstance(entry.outcome, Result):
        return []
    return [
        {
            "file": entry.file,
            "path": entry.path,
            "job_id": entry.job_id,
            "object_id": found.id,
            "class": found.class_name,
            "area_px": found.area,
            "equivalent_radius_px": found.equivalent_radius,
            "centroid_x_px": found.centroid[0],
            "centroid_y_px": found.centroid[1],
            **dict(zip(("left_px", "top_px", "right_px", "bottom_px"), found.bounding_box, strict=True)),
            "touches_edge": found.touches_edge,
            "confidence": found.confidence,
        }
        for found in entry.outcome.segmentation.objects
    ]


class Tables:
    """The four files of a run. Entries are written in the order of their places, whatever order they come in."""

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        """`classes`: names of the model's classes, without its background. Raises MissingPart, OSError."""
        self.folder = folder
        columns = {RESULTS: result_columns(classes), OBJECTS: OBJECT_COLUMNS}
        self._files = {name: _open_table(folder, name, columns[name]) for name in columns}
        self._early: dict[int, Entry] = {}
        self._next = 0

    def add(self, place: int, entry: Entry) -> None:
        """Take the entry of the picture number `place` (0, 1, ...); it is written when those before it are."""
        self._early[place] = entry
        while self._next in self._early:
            self._write(self._early.pop(self._next))
            self._next += 1

    def close(self) -> list[Path]:
        """Write what still waits for earlier places, and give the files their names."""
        try:
            for place in sorted(self._early):
                self._write(self._early[place])
            self._early.clear()
            return [file.finish() for files in self._files.values() for file in files]
        except OSError:
            self.discard()
            raise

    def discard(self) -> None:
        """Remove the unfinished files; tables of an earlier run stay."""
        for files in self._files.values():
            for file in files:
                file.discard()

    def __enter__(self) -> Tables:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def _write(self, entry: Entry) -> None:
        for file in self._files[RESULTS]:
            file.write([result_row(entry)])
        if rows := object_rows(entry):
            for file in self._files[OBJECTS]:
                file.write(rows)


class TableFile(Protocol):
    """A table that grows in one file format."""

    def write(self, rows: list[Row]) -> None:
        """Append rows."""
        ...

    def finish(self) -> Path:
        """Write what is left and give the file its name."""
        ...

    def discard(self) -> None:
        """Remove the unfinished file."""
        ...


class CsvTable:
    """A CSV file that can be read up to its newest rows while it grows."""

    def __init__(self, path: Path, columns: Columns) -> None:
        self._path, self._part = path, path.with_name(path.name + _PART)
        self._columns = columns
        # Excel takes a file without the byte order mark for one in the local code page.
        self._file = self._part.open("w", newline="", encoding="utf-8-sig")
        self._writer = csv.writer(self._file)
        self._writer.writerow([name for name, _ in columns])
        self._unflushed = 0

    def write(self, rows: list[Row]) -> None:
        """Append rows."""
        self._writer.writerows([_cell(row.get(name), kind) for name, kind in self._columns] for row in rows)
        self._unflushed += len(rows)
        if self._unflushed >= _FLUSH_EVERY:
            self._file.flush()
            self._unflushed = 0

    def finish(self) -> Path:
        """Give the file its name."""
        self._file.close()
        os.replace(self._part, self._path)  # noqa: PTH105
        return self._path

    def discard(self) -> None:
        """Remove the unfinished file."""
        _close_quietly(self._file.close)
        self._part.unlink(missing_ok=True)


class ParquetTable:
    """A Parquet file, written in groups of rows."""

    def __init__(self, path: Path, columns: Columns) -> None:
        self._pa, parquet = _pyarrow()
        self._path, self._part = path, path.with_name(path.name + _PART)
        self._schema = self._pa.schema([(name, _arrow_type(self._pa, kind)) for name, kind in columns])
        self._names = [name for name, _ in columns]
        self._writer = parquet.ParquetWriter(self._part, self._schema, compression="zstd")
        self._rows: list[Row] = []

    def write(self, rows: list[Row]) -> None:
        """Append rows."""
        self._rows.extend(rows)
        if len(self._rows) >= _ROW_GROUP:
            self._flush()

    def finish(self) -> Path:
        """Write what is left and give the file its name."""
        self._flush()
        self._writer.close()
        os.replace(self._part, self._path)  # noqa: PTH105
        return self._path

    def discard(self) -> None:
        """Remove the unfinished file."""
        _close_quietly(self._writer.close)
        self._part.unlink(missing_ok=True)

    def _flush(self) -> None:
        if self._rows:
            columns = {name: [row.get(name) for row in self._rows] for name in self._names}
            self._writer.write_table(self._pa.table(columns, schema=self._schema))
            self._rows = []


def plain(text: str) -> str:
    """A text as it was before `CsvTable` wrote it."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def _open_table(folder: Path, name: str, columns: Columns) -> tuple[TableFile, TableFile]:
    return ParquetTable(folder / f"{name}.parquet", columns), CsvTable(folder / f"{name}.csv", columns)


def _job_values(job: Job) -> Row:
    name, _, version = job.model.partition("@")
    return {
        "job_id": job.job_id,
        "model": name,
        "model_version": version or None,
        "image_sha256": job.image.sha256,
        "captured_at": job.captured_at,
    }


def _measured(result: Result) -> Row:
    measured, calibration = result.segmentation, result.calibration
    row: Row = {
        "model": result.model.name,
        "model_version": result.model.version,
        "model_sha256": result.model.sha256,
        "width_px": result.picture.width,
        "height_px": result.picture.height,
        "count": measured.count,
        "area_fraction": measured.area_fraction,
        "mean_radius_px": measured.mean_radius,
        "mean_confidence": result.confidence,
        "max_confidence": max((found.confidence for found in measured.objects), default=None),
        "flags": " ".join(result.flags),
    }
    row |= {f"count_{name}": count for name, count in measured.count_by_class.items()}
    row |= {f"{stage}_s": getattr(result.timings, stage) for stage in _STAGES}
    if calibration:
        row |= {"pixel_width": calibration.pixel_width, "pixel_height": calibration.pixel_height}
        row["pixel_unit"] = calibration.unit
    return row


def _cell(value: object, kind: Kind) -> object:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat()
    if kind == "flag":
        return "true" if value else "false"
    if isinstance(value, str) and _FORMULA.match(value):
        return f"'{value}"
    return value


def _arrow_type(pa: Any, kind: Kind) -> object:  # noqa: ANN401 (a module)
    types = {
        "text": pa.string(),
        "integer": pa.int64(),
        "number": pa.float64(),
        "flag": pa.bool_(),
        "time": pa.timestamp("us", tz="UTC"),
    }
    return types[kind]


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingPart("Writing tables", "local", "pyarrow") from error
    return pa, parquet


def _close_quietly(close: Callable[[], object]) -> None:
    """A file that is thrown away need not be closed well: on a full disk it cannot be."""
    try:
        close()
    except OSError:
        pass
