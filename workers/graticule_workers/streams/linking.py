"""Objects of one frame after another become tracks (trackpy's algorithm of Crocker and Grier)."""

from __future__ import annotations

from typing import Any

import numpy as np

from graticule.errors import BadInput
from graticule_workers.streams.packages import package
from graticule_workers.streams.series import Table

SEARCH_RANGE = 15.0
MEMORY = 3

_NUMBERS = ("x", "y", "radius")


def link(objects: Table, *, search_range: float = SEARCH_RANGE, memory: int = MEMORY) -> Table:
    """Tracks from the objects of a series; rows sorted by track and frame.

    `objects`: at least frame, x, y, radius (px), class, touches_edge, object_id (`Series.objects`). `search_range`: the
    farthest that an object can move between two frames, px. `memory`: for how many frames an object may be missed and
    still be the same.

    The answer has a row for each track and frame from the track's first to its last: track (0, 1, ...), frame, x, y,
    radius (px), touches_edge, class (that of most of its frames), object_id (0 where it was missed), inferred: whether
    it was missed in this frame, and position and radius stand between those before and after.
    Where so many objects crowd that there is no telling who is who, the range is reduced locally.
    Raises BadInput, MissingPart.
    """
    if search_range <= 0 or memory < 0:
        raise BadInput(f"search_range must be above 0 and memory at least 0; found {search_range:g} and {memory}.")
    pandas = package("pandas")
    if not len(objects):
        return pandas.DataFrame({name: pandas.Series(dtype=kind) for name, kind in _COLUMNS.items()})
    linked = _linked(objects, search_range, memory)
    return _with_gaps_filled(linked)


_COLUMNS = {
    "track": "int64",
    "frame": "int64",
    "x": "float64",
    "y": "float64",
    "radius": "float64",
    "touches_edge": "bool",
    "class": "object",
    "object_id": "int64",
    "inferred": "bool",
}


def _linked(objects: Table, search_range: float, memory: int) -> Table:
    trackpy = package("trackpy")
    trackpy.quiet()
    ordered = objects.sort_values(["frame", "object_id"], kind="stable").reset_index(drop=True)
    places = ordered[["x", "y"]].to_numpy()
    frames, starts = np.unique(ordered["frame"].to_numpy(), return_index=True)
    bounds = [*starts[1:].tolist(), len(ordered)]
    found = dict(zip(frames.tolist(), zip(starts.tolist(), bounds, strict=True), strict=True))
    nothing = np.empty((0, 2))
    steps = (
        (frame, places[slice(*found[frame])] if frame in found else nothing)
        for frame in range(int(frames[0]), int(frames[-1]) + 1)
    )
    track = np.empty(len(ordered), np.int64)
    linked = trackpy.linking.link_iter(
        steps, search_range, memory=memory, adaptive_stop=search_range / 10, adaptive_step=0.9
    )
    for frame, numbers in linked:
        if frame in found:
            track[slice(*found[frame])] = numbers
    return ordered.assign(track=track).sort_values(["track", "frame"], kind="stable").reset_index(drop=True)


def _with_gaps_filled(linked: Table) -> Table:
    """A row for each frame of each track."""
    track, frame = linked["track"].to_numpy(), linked["frame"].to_numpy()
    last_of_track = np.append(track[1:] != track[:-1], True)
    steps = np.where(last_of_track, 1, np.append(frame[1:], 0) - frame)
    source = np.repeat(np.arange(len(linked)), steps)
    behind = np.arange(len(source)) - np.repeat(np.cumsum(steps) - steps, steps)
    after = np.minimum(source + 1, len(linked) - 1)
    share = behind / steps[source]
    columns: dict[str, Any] = {"track": _renumbered(track)[source], "frame": frame[source] + behind}
    for name in _NUMBERS:
        values = linked[name].to_numpy()
        columns[name] = values[source] + share * (values[after] - values[source])
    inferred = behind > 0
    columns["touches_edge"] = linked["touches_edge"].to_numpy()[source]
    columns["class"] = _most_frequent(linked)[source]
    columns["object_id"] = np.where(inferred, 0, linked["object_id"].to_numpy()[source])
    columns["inferred"] = inferred
    return package("pandas").DataFrame(columns)


def _renumbered(track: np.ndarray) -> np.ndarray:
    return np.unique(track, return_inverse=True)[1]


def _most_frequent(linked: Table) -> np.ndarray:
    """For each row the class that its track has in most frames."""
    names, code = np.unique(linked["class"].to_numpy().astype(str), return_inverse=True)
    track = _renumbered(linked["track"].to_numpy())
    votes = np.bincount(track * len(names) + code, minlength=(track.max() + 1) * len(names))
    return names[votes.reshape(-1, len(names)).argmax(axis=1)].astype(object)[track]
