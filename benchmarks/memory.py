"""What an idle cluster costs."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.figures import Figure, figure
from graticule.local.cluster import EmbeddedCluster
from graticule.local.status import collect_status
from graticule.settings import load_settings

_SETTLES = 5.0
"""Seconds after the start until the parts have given back what starting needed."""


def measure(place: Path) -> list[Figure]:
    """Resident memory of each part of a cluster that has nothing to do, the shipped models loaded."""
    with EmbeddedCluster(load_settings(data_dir=place / "cluster")) as settings:
        time.sleep(_SETTLES)
        parts = collect_status(settings).parts
    return [figure("idle memory", part.name, "MB", [part.memory_mb]) for part in parts if part.memory_mb]
