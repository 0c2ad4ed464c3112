"""Everything that is told about a finished stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graticule.client import Client
from graticule_workers.streams.drift import (
    Drift,
    correct_positions,
    drift_from_many_pairs,
    drift_from_pairs,
    drift_from_tracks,
)
from graticule_workers.streams.linking import MEMORY, SEARCH_RANGE, link
from graticule_workers.streams.packages import package
from graticule_workers.streams.series import Series, Table, read_images, read_series
from graticule_workers.streams.summary import summarise

METHODS = ("tracks", "pairs", "many-pairs")
"""How drift is told. All but the first need every picture of the stream."""

_BY_PICTURES: dict[str, Callable[..., Drift]] = {"pairs": drift_from_pairs, "many-pairs": drift_from_many_pairs}


@dataclass(frozen=True)
class StreamAnalysis:
    """A stream, its tracks and its drift. The summary is that of the tracks without the first method's drift."""

    series: Series
    tracks: Table
    """As `link` gives them, and x_corrected_px, y_corrected_px: without the drift."""
    summary: Table
    drifts: dict[str, Drift]

    def drift_table(self) -> Table:
        """frame, and for each method its drift in x and y, px (and nm with a calibration)."""
        columns: dict[str, Any] = {"frame": np.arange(len(self.series.frames))}
        for method, drift in self.drifts.items():
            name = method.replace("-", "_")
            columns |= {f"{name}_x_px": drift[:, 0], f"{name}_y_px": drift[:, 1]}
            if pixel := self.series.pixel_nm:
                columns |= {f"{name}_x_nm": drift[:, 0] * pixel[0], f"{name}_y_nm": drift[:, 1] * pixel[1]}
        return package("pandas").DataFrame(columns)

    def facts(self) -> dict[str, Any]:
        """Some numbers for people; none where there is nothing to tell."""
        frames, summary = self.series.frames, self.summary
        drift = next(iter(self.drifts.values()))
        pixel = self.series.pixel_nm
        return {
            "frames": len(frames),
            "failed_frames": int((frames["status"] == "failed").sum()),
            "objects": len(self.series.objects),
            "mean_count": _known(frames["count"].mean()),
            "mean_area_fraction": _known(frames["area_fraction"].mean()),
            "mean_radius_px": _known(self.series.objects["radius"].mean()),
            "pixel_nm": f"{pixel[0]:g} x {pixel[1]:g}" if pixel else None,
            "tracks": len(summary),
            "tracks_of_4_frames_or_more": int((summary["frames"] >= 4).sum()),
            "median_growth_px_per_frame": _known(summary["growth_rate_px_per_frame"].median()),
            "drift_x_px": float(drift[-1, 0]),
            "drift_y_px": float(drift[-1, 1]),
        }


def analyse_stream(
    client: Client,
    name: str,
    *,
    search_range: float = SEARCH_RANGE,
    memory: int = MEMORY,
    methods: Sequence[str] = METHODS[:1],
) -> StreamAnalysis:
    """Read a finished stream, link it, tell its drift. Raises NotFound, BadInput, MissingPart, StoreUnavailable."""
    series = read_series(client, name)
    tracks = link(series.objects, search_range=search_range, memory=memory)
    drifts = {method: _drift(client, series, tracks, method) for method in methods}
    still = correct_positions(tracks, next(iter(drifts.values())))
    summary = summarise(still, pixel_nm=series.pixel_nm)
    corrected = {f"{side}_corrected_px": still[side].to_numpy() for side in ("x", "y")}
    return StreamAnalysis(series, tracks.assign(**corrected), summary, drifts)


def _drift(client: Client, series: Series, tracks: Table, method: str) -> Drift:
    if method in _BY_PICTURES:
        return _BY_PICTURES[method](read_images(client, series))
    return drift_from_tracks(tracks, len(series.frames))


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
