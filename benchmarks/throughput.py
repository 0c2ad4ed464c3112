"""Pictures a second through store, queue and one worker, beside the same pipeline bare in one process.

Both read the same PNG bytes and make the same masks. Rounds alternate, so that a machine that slows down slows both.
Sending is part of neither: the jobs wait in their queue when the clock starts, which is when the worker is let in. It
stops when the last job's ending is told, which comes after its result was written.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bare import BarePipeline
from benchmarks.cpu import CpuMeter, engine_seconds
from benchmarks.figures import Figure, figure, ratio
from benchmarks.jobs import Endings, Sender, results_of
from benchmarks.models import NOOP, TILE, UNET, BenchModel, prepare_models
from benchmarks.pictures import tiles
from benchmarks.processes import WORKER, held, server_pids, servers, worker
from graticule.registry import Registry
from graticule.results import Result, Timings
from graticule.settings import Settings
from graticule.store import Store
from graticule_workers.engine.session import usable_cores

_GOALS = {TILE: ">= 0.85", UNET: ">= 0.95"}
_STAGES = [stage for stage in Timings.model_fields if stage != "queued"]
_WARM_UP = 8
"""Pictures before the first round."""


def measure(place: Path, *, rounds: int = 5, pictures: int = 300, heavy_pictures: int = 32) -> list[Figure]:
    """The tile model and a heavier one through the cluster and bare; a model that costs nothing through the cluster."""
    models = prepare_models(place / "models")
    with servers(place / "cluster") as settings:
        for model in models.values():
            Registry(Store(settings)).publish(model.folder)
        return [
            *_beside_bare(settings, models[TILE], rounds, pictures),
            *_beside_bare(settings, models[UNET], rounds, heavy_pictures),
            *_without_inference(settings, models[NOOP], rounds, pictures),
        ]


@dataclass(frozen=True)
class Drained:
    """One round through the cluster."""

    speed: float
    """Pictures a second."""
    cpu: dict[str, float]
    """CPU milliseconds a picture of each process, and of the worker `beside engine`."""
    results: list[Result]


class Cluster:
    """A worker that drains what was sent while it was held."""

    def __init__(self, settings: Settings, model: BenchModel, pid: int) -> None:
        """`pid`: the worker, which serves `model` only."""
        self.settings, self.model, self.pid = settings, model, pid
        self._sender = Sender(settings)
        self.drain(tiles(_WARM_UP, side=model.side, first=1_000_000), f"warm-up/{pid}")

    def drain(self, pictures: list[bytes], stream: str) -> Drained:
        """Send the pictures, then let the worker in and wait for the last one."""
        endings = Endings(self.settings)
        with held(self.pid):
            jobs = self._sender.send(pictures, self.model.name, stream)
            meter = CpuMeter({WORKER: self.pid, **server_pids(self.settings)})
            engine = engine_seconds(self.pid)
            started = time.perf_counter()
        endings.wait_for(len(jobs))
        seconds = time.perf_counter() - started
        used = meter.seconds()
        used["engine"] = engine_seconds(self.pid) - engine
        return Drained(
            speed=len(jobs) / seconds,
            cpu={name: 1000 * value / len(jobs) for name, value in used.items()},
            results=results_of(self.settings, jobs),
        )


def _beside_bare(settings: Settings, model: BenchModel, rounds: int, count: int) -> list[Figure]:
    pipelines = {
        "one session, all threads": BarePipeline.one_wide(model),
        "single-threaded sessions": BarePipeline.many_narrow(model),
    }
    bare: dict[str, list[float]] = defaultdict(list)
    drained: list[Drained] = []
    with worker(settings, model.name) as pid:
        cluster = Cluster(settings, model, pid)
        with held(pid):
            for pipeline in pipelines.values():
                pipeline.speed(tiles(_WARM_UP, side=model.side, first=1_000_000))
        for number in range(rounds):
            pictures = tiles(count, side=model.side, first=number * count)
            with held(pid):
                for name, pipeline in pipelines.items():
                    bare[name].append(pipeline.speed(pictures))
            drained.append(cluster.drain(pictures, f"beside-bare/{number}"))
    best = max(bare, key=lambda name: statistics.median(bare[name]))
    speeds = [one.speed for one in drained]
    group = f"{model.name}, {model.side} x {model.side}"
    return [
        *(figure(group, f"bare, {name}", "images/s", values) for name, values in bare.items()),
        figure(group, "cluster, one worker", "images/s", speeds),
        ratio(group, f"cluster / bare ({best})", speeds, bare[best], _GOALS.get(model.name, "")),
        *_cpu_figures(group, drained),
        *_stage_figures(group, drained),
    ]


def _without_inference(settings: Settings, model: BenchModel, rounds: int, count: int) -> list[Figure]:
    """What one and two task processes can carry when the model costs nothing; each round starts fresh workers."""
    drained: dict[int, list[Drained]] = defaultdict(list)
    for number in range(rounds):
        pictures = tiles(count, side=model.side, first=number * count)
        for processes in (1, 2):
            with worker(settings, model.name, processes=processes) as pid:
                cluster = Cluster(settings, model, pid)
                drained[processes].append(cluster.drain(pictures, f"no-op/{processes}/{number}"))
    figures = []
    for processes, all_rounds in drained.items():
        group = f"{model.name}, {model.side} x {model.side}, {processes} task process{'es' if processes > 1 else ''}"
        speeds = [one.speed for one in all_rounds]
        figures += [
            figure(group, "cluster", "images/s", speeds),
            figure(group, "cluster, per core", "images/s", [speed / usable_cores() for speed in speeds]),
            *_cpu_figures(group, all_rounds),
        ]
    return figures


def _cpu_figures(group: str, drained: list[Drained]) -> list[Figure]:
    names = [name for name in drained[0].cpu if name != "engine"]
    figures = [figure(group, f"CPU of {name}", "ms/image", [one.cpu[name] for one in drained]) for name in names]
    if all(one.cpu["engine"] for one in drained):
        beside = [one.cpu[WORKER] - one.cpu["engine"] for one in drained]
        figures.append(figure(group, "CPU of worker beside its engine threads", "ms/image", beside, "<= 2.5"))
    return figures


def _stage_figures(group: str, drained: list[Drained]) -> list[Figure]:
    """Mean time of each stage under load. Stages of different pictures overlap, and `infer` includes its queue."""

    def mean(one: Drained, stage: str) -> float:
        return 1000 * statistics.fmean(getattr(result.timings, stage) for result in one.results)

    return [figure(group, f"stage {stage}", "ms/image", [mean(one, stage) for one in drained]) for stage in _STAGES]
