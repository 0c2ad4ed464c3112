"""From a closed file to its readable result, on an idle cluster."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.pictures import tiles
from graticule.client import Client
from graticule.events import Events
from graticule.results import Result
from graticule.settings import Settings


def file_to_result(settings: Settings, folder: Path, count: int) -> dict[str, float]:
    """Milliseconds from closing a file to its result, and the same less the model's time: p50 and p99."""
    folder.mkdir()
    client, events = Client(settings), Events(settings)
    command = [sys.executable, "-m", "graticule", "watch", str(folder), "--model", "tile-defects"]
    command += ["--journal", str(folder.parent / "journal.sqlite")]
    environment = settings.to_env()
    watcher = subprocess.Popen(command, env={**environment, "PATH": ""}, stderr=subprocess.DEVNULL)
    try:
        time.sleep(3)  # the watcher starts
        whole, beyond = [], []
        for index, data in enumerate(tiles(count, first=10_000)):
            position = events.last_id()
            path = folder / f"{index}.png"
            path.write_bytes(data)
            closed = time.perf_counter()
            result = _next_result(client, events, position)
            seconds = time.perf_counter() - closed
            whole.append(seconds)
            beyond.append(seconds - result.timings.infer)
    finally:
        watcher.terminate()
        watcher.wait()
    return {**_percentiles("file closed -> result (ms)", whole), **_percentiles("... less inference (ms)", beyond)}


def _next_result(client: Client, events: Events, position: str) -> Result:
    while True:
        told, position = events.read(position, wait=5)
        if told:
            outcome = client.outcome(told[0].job_id)
            assert isinstance(outcome, Result)
            return outcome


def _percentiles(name: str, seconds: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=100)
    return {f"{name} p50": 1000 * cuts[49], f"{name} p99": 1000 * cuts[98]}
