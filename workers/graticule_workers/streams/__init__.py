"""Series of pictures: objects linked to tracks, how tracks grow and move, how far the field of view drifts.

    series = read_series(client, "/data/camera")
    tracks = link(series.objects, search_range=15, memory=3)
    summary = summarise(tracks)
    drift = drift_from_tracks(tracks, frames=len(series.frames))

Positions are in pixels, x to the right, y down; tables are pandas' (see docs/streams.md for their columns).
"""

from graticule_workers.streams.drift import (
    correct_positions,
    drift_from_many_pairs,
    drift_from_pairs,
    drift_from_tracks,
    remove_drift,
    shift_between,
)
from graticule_workers.streams.linking import link
from graticule_workers.streams.series import Series, read_images, read_series
from graticule_workers.streams.summary import summarise

__all__ = [
    "Series",
    "correct_positions",
    "drift_from_many_pairs",
    "drift_from_pairs",
    "drift_from_tracks",
    "link",
    "read_images",
    "read_series",
    "remove_drift",
    "shift_between",
    "summarise",
]
