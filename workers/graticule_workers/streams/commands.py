"""`graticule stream list | show | export`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as Shown
from rich.text import Text

from graticule.client import Client
from graticule.errors import BadInput, GraticuleError
from graticule.job_index import JobIndex
from graticule.settings import Settings
from graticule_workers.streams.analysis import METHODS, StreamAnalysis, analyse_stream
from graticule_workers.streams.packages import package
from graticule_workers.streams.series import Table

_RENAMED = {"x": "x_px", "y": "y_px", "radius": "radius_px", "area": "area_px"}
_SHOWN_TRACKS = 10


def list_streams(settings: Settings, *, as_json: bool) -> int:
    """Print every series that the index knows, the one with the newest job first."""
    found = JobIndex(settings).streams()
    if as_json:
        print(json.dumps([info.model_dump(mode="json") for info in found]))  # noqa: T201
        return 0
    table = Shown("Stream", "Jobs", "Newest", "Changed")
    for info in found:
        newest = info.newest
        table.add_row(
            Text(info.name), f"{info.jobs:,}", Text(newest.filename), f"{newest.changed_at:%Y-%m-%d %H:%M:%S}"
        )
    Console(soft_wrap=True).print(table)
    return 0


def show(settings: Settings, name: str, *, search_range: float, memory: int, as_json: bool) -> int:
    """Print what a stream amounts to: frames, objects, tracks, drift, and the tracks that were seen longest."""
    analysis = analyse_stream(Client(settings), name, search_range=search_range, memory=memory)
    facts = analysis.facts()
    if as_json:
        print(json.dumps(facts))  # noqa: T201
        return 0
    console = Console(soft_wrap=True, highlight=False)
    table = Shown(title=Text(name), show_header=False, title_justify="left")
    for fact, value in facts.items():
        table.add_row(fact.replace("_", " "), _short(value))
    console.print(table)
    _print_tracks(console, analysis.summary)
    return 0


def export(
    settings: Settings,
    name: str,
    *,
    out: Path,
    search_range: float,
    memory: int,
    methods: Sequence[str],
) -> int:
    """Write the tables of a stream as Parquet into a folder; each file appears whole."""
    unknown = sorted(set(methods) - set(METHODS))
    if unknown or not methods:
        raise BadInput(f"Drift is told by {', '.join(METHODS)}; found {', '.join(unknown) or 'none'}.")
    analysis = analyse_stream(Client(settings), name, search_range=search_range, memory=memory, methods=methods)
    written = write_tables(analysis, out)
    console = Console(soft_wrap=True, highlight=False)
    for path, rows in written:
        console.print(f"{path}: {rows:,} rows", markup=False)
    return 0


def write_tables(analysis: StreamAnalysis, out: Path) -> list[tuple[Path, int]]:
    """(path, rows) of every table that was written. Raises GraticuleError when a file cannot be written."""
    package("pyarrow")
    tables = {
        "frames": analysis.series.frames,
        "objects": analysis.series.objects.rename(columns=_RENAMED),
        "tracks": analysis.tracks.rename(columns=_RENAMED),
        "track_summary": analysis.summary,
        "drift": analysis.drift_table(),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        return [(_write(out / f"{name}.parquet", table), len(table)) for name, table in tables.items()]
    except OSError as error:
        raise GraticuleError(f"Cannot write {str(error.filename or out)!r}: {error.strerror or error}.") from error


def _write(path: Path, table: Table) -> Path:
    unfinished = path.with_name(f".{path.name}.tmp")
    try:
        table.to_parquet(unfinished, index=False, compression="zstd")
        os.replace(unfinished, path)  # noqa: PTH105 (replaces on every system)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def _print_tracks(console: Console, summary: Table) -> None:
    if not len(summary):
        return
    longest = summary.sort_values(["frames", "track"], ascending=[False, True]).head(_SHOWN_TRACKS)
    names = [
        "track",
        "class",
        "first_frame",
        "last_frame",
        "displacement_px",
        "mean_radius_px",
        "growth_rate_px_per_frame",
    ]
    table = Shown(*(name.replace("_", " ") for name in names), title="Longest tracks", title_justify="left")
    for row in longest[names].to_dict("records"):
        table.add_row(*(_short(value) for value in row.values()))
    console.print(table)


def _short(value: Any) -> str:  # noqa: ANN401
    if value is None or value != value:  # not a number
        return "–"
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
