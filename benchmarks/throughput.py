"""Pictures a second through store, queue and worker, beside the same pipeline as a bare loop in one process.

Both read the same PNG bytes and encode the same masks. The bare loop has one session with all cores. Rounds alternate,
so that a machine that slows down slows both. Sending is part of neither: the jobs wait in their queue when the clock
starts, which is when the worker is let in.
"""

from __future__ import annotations

import os
import signal
import statistics
import time
from pathlib import Path

from benchmarks.pictures import tiles
from graticule import formats
from graticule.client import Client, JobHandle
from graticule.jobs import Lane
from graticule.local.cluster import running_cluster
from graticule.registry import Registry
from graticule.settings import Settings
from graticule.store import Store
from graticule_workers.analysis.instances import analyse
from graticule_workers.engine.pool import LoadedModel, ModelPool
from graticule_workers.pipelines.preprocess import prepare
from graticule_workers.pipelines.segmentation import encode_mask


def against_bare(settings: Settings, rounds: int, count: int) -> dict[str, float]:
    """Medians of images/s and of their ratio."""
    model = ModelPool(Registry(Store(settings)), settings).get("tile-defects")
    bare, cluster, ratios, cpu = [], [], [], []
    for number in range(rounds):
        pictures = tiles(count, first=number * count)
        with _suspended(settings):
            bare.append(_bare(model, pictures))
        speed, seconds = _through_cluster(settings, pictures)
        cluster.append(speed)
        cpu.append(seconds)
        ratios.append(cluster[-1] / bare[-1])
    return {
        "bare loop (images/s)": statistics.median(bare),
        "cluster (images/s)": statistics.median(cluster),
        "cluster / bare": statistics.median(ratios),
        "worker CPU with inference (ms/image)": 1000 * statistics.median(cpu),
    }


class _suspended:
    """Stops the worker while something else is measured or prepared."""

    def __init__(self, settings: Settings) -> None:
        info = running_cluster(settings)
        assert info is not None
        self.pid = info.parts["worker"]["pid"]

    def __enter__(self) -> int:
        os.kill(self.pid, signal.SIGSTOP)
        return self.pid

    def __exit__(self, *exception: object) -> None:
        os.kill(self.pid, signal.SIGCONT)


def _bare(model: LoadedModel, pictures: list[bytes]) -> float:
    started = time.perf_counter()
    for data in pictures:
        picture = formats.decode(data, "x.png")
        prepared = prepare(picture.pixels, model.manifest.preprocessing)
        output = model.infer(prepared.tensor, 60)
        encode_mask(analyse(prepared.restore(output), model.manifest.postprocessing).labels)
    return len(pictures) / (time.perf_counter() - started)


def _through_cluster(settings: Settings, pictures: list[bytes]) -> tuple[float, float]:
    """(images/s, CPU seconds of the worker for each image)."""
    client = Client(settings)
    with _suspended(settings) as worker:
        handles: list[JobHandle] = [
            client.submit(data, "tile-defects", filename=f"{i}.png", lane=Lane.BULK) for i, data in enumerate(pictures)
        ]
        cpu = _cpu_seconds(worker)
        started = time.perf_counter()
    for _ in client.as_completed(handles):
        pass
    seconds = time.perf_counter() - started
    return len(pictures) / seconds, (_cpu_seconds(worker) - cpu) / len(pictures)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
