"""The analysis of a finished stream: linking, drift by tracks, a summary of every track."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benchmarks.figures import Figure, figure

FRAMES = (1_000, 10_000)
OBJECTS = 100


def measure() -> list[Figure]:
    """Seconds for a short and a long stream; linear when the long one takes ten times as long."""
    figures, whole = [], []
    for frames in FRAMES:
        group = f"stream of {frames:,} frames x {OBJECTS} objects"
        seconds = _seconds(draw_objects(frames), frames)
        figures += [figure(group, name, "s", [value]) for name, value in seconds.items()]
        whole.append(sum(seconds.values()))
        figures.append(figure(group, "all", "s", [whole[-1]], "seconds, not minutes"))
    ratio = whole[1] / whole[0] / (FRAMES[1] / FRAMES[0])
    return [*figures, figure("streams", "time per frame, long / short", "", [ratio], "at most about 1")]


def draw_objects(frames: int) -> Any:  # noqa: ANN401 (a table of pandas)
    """Objects that wander, and are missed now and then."""
    import pandas

    rng = np.random.default_rng(0)
    places = rng.uniform(0, 1024, (OBJECTS, 2)) + np.cumsum(rng.normal(0, 0.5, (frames, OBJECTS, 2)), axis=0)
    seen = rng.random((frames, OBJECTS)) > 0.03
    frame = np.repeat(np.arange(frames), seen.sum(axis=1))
    x, y = places[seen].T
    table = pandas.DataFrame({"frame": frame, "x": x, "y": y, "radius": 6 + 1e-4 * frame})
    return table.assign(object_id=range(1, len(table) + 1), touches_edge=False, **{"class": "void"})


def _seconds(objects: Any, frames: int) -> dict[str, float]:  # noqa: ANN401
    from graticule_workers.streams import correct_positions, drift_from_tracks, link, summarise

    times = [time.perf_counter()]
    tracks = link(objects)
    times.append(time.perf_counter())
    drift = drift_from_tracks(tracks, frames)
    times.append(time.perf_counter())
    summarise(correct_positions(tracks, drift))
    times.append(time.perf_counter())
    return dict(zip(("link", "drift by tracks", "summary"), np.diff(times).tolist(), strict=True))
