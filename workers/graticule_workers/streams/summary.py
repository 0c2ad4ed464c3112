"""One row for each track: how long it was seen, how it moved, how it grew."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from graticule_workers.streams.packages import package
from graticule_workers.streams.series import Table

LEAST_FRAMES = 4
"""Frames that a track must be seen in for a rate of growth to be told."""
MOST_POINTS = 512
"""A longer track is thinned evenly for its rate of growth, which compares every pair of its frames."""


def summarise(tracks: Table, *, pixel_nm: tuple[float, float] | None = None) -> Table:
    """A row for each track of `link`; with drift removed first (`correct_positions`), what remains is the objects' own.

    Columns: track, class, first_frame, last_frame, frames, inferred_frames, touches_edge (in any frame); in px:
    displacement (from the first to the last frame), largest_displacement, path_length, movement_per_frame,
    smallest_radius, largest_radius, mean_radius; growth_rate (px/frame): the median over the frames of the median slope
    between each and all others (Siegel), none for tracks seen in three frames or fewer. Inferred frames count for
    lengths, not for radii and growth. `pixel_nm`: (width, height) of a pixel; adds the same lengths in nm.
    """
    pandas = package("pandas")
    columns: dict[str, Any] = _counts(tracks)
    columns |= {f"{name}_px": values for name, values in _lengths(tracks, 1.0, 1.0).items()}
    radii = _radii(tracks)
    columns |= {f"{name}_px": values for name, values in radii.items()}
    columns["growth_rate_px_per_frame"] = growth = _growth(tracks)
    if pixel_nm:
        side = float(np.sqrt(pixel_nm[0] * pixel_nm[1]))
        columns |= {f"{name}_nm": values for name, values in _lengths(tracks, *pixel_nm).items()}
        columns |= {f"{name}_nm": values * side for name, values in radii.items()}
        columns["growth_rate_nm_per_frame"] = growth * side
    return pandas.DataFrame(columns)


def _counts(tracks: Table) -> dict[str, Any]:
    starts, lengths = _pieces(tracks)
    frame = tracks["frame"].to_numpy()
    return {
        "track": tracks["track"].to_numpy()[starts],
        "class": tracks["class"].to_numpy()[starts],
        "first_frame": frame[starts],
        "last_frame": frame[starts + lengths - 1],
        "frames": lengths,
        "inferred_frames": _sums(tracks["inferred"].to_numpy().astype(np.int64), starts),
        "touches_edge": _sums(tracks["touches_edge"].to_numpy().astype(np.int64), starts) > 0,
    }


def _lengths(tracks: Table, width: float, height: float) -> dict[str, NDArray[Any]]:
    starts, lengths = _pieces(tracks)
    x, y = tracks["x"].to_numpy() * width, tracks["y"].to_numpy() * height
    owner = np.repeat(np.arange(len(starts)), lengths)
    away = np.hypot(x - x[starts][owner], y - y[starts][owner])
    steps = np.hypot(np.diff(x, prepend=x[:1]), np.diff(y, prepend=y[:1]))
    steps[starts] = 0
    path = _sums(steps, starts)
    return {
        "displacement": away[starts + lengths - 1],
        "largest_displacement": np.maximum.reduceat(away, starts) if len(starts) else away,
        "path_length": path,
        "movement_per_frame": np.divide(path, lengths - 1, out=np.zeros(len(path)), where=lengths > 1),
    }


def _radii(tracks: Table) -> dict[str, NDArray[Any]]:
    seen = tracks[~tracks["inferred"].to_numpy()]
    starts, lengths = _pieces(seen)
    radius = seen["radius"].to_numpy()
    if not len(starts):
        return dict.fromkeys(("smallest_radius", "largest_radius", "mean_radius"), np.zeros(0))
    return {
        "smallest_radius": np.minimum.reduceat(radius, starts),
        "largest_radius": np.maximum.reduceat(radius, starts),
        "mean_radius": _sums(radius, starts) / lengths,
    }


def _growth(tracks: Table) -> NDArray[Any]:
    seen = tracks[~tracks["inferred"].to_numpy()]
    starts, lengths = _pieces(seen)
    frame, radius = seen["frame"].to_numpy(), seen["radius"].to_numpy()
    rates = np.full(len(starts), np.nan)
    for number in np.flatnonzero(lengths >= LEAST_FRAMES):
        piece = slice(starts[number], starts[number] + lengths[number])
        rates[number] = siegel_slope(frame[piece], radius[piece])
    return rates


def siegel_slope(x: NDArray[Any], y: NDArray[Any]) -> float:
    """Median over the points of the median slope from each to all others; x increases strictly."""
    if len(x) > MOST_POINTS:
        kept = np.linspace(0, len(x) - 1, MOST_POINTS).round().astype(int)
        x, y = x[kept], y[kept]
    across = x[:, None] - x[None, :]
    up = y[:, None] - y[None, :]
    others = ~np.eye(len(x), dtype=bool)
    slopes = (up[others] / across[others]).reshape(len(x), len(x) - 1)
    return float(np.median(np.median(slopes, axis=1)))


def _pieces(tracks: Table) -> tuple[NDArray[Any], NDArray[Any]]:
    """(first row, number of rows) of each track."""
    track = tracks["track"].to_numpy()
    starts = np.flatnonzero(np.diff(track, prepend=-1))
    return starts, np.diff(np.append(starts, len(track)))


def _sums(values: NDArray[Any], starts: NDArray[Any]) -> NDArray[Any]:
    return np.add.reduceat(values, starts) if len(starts) else values[:0]
