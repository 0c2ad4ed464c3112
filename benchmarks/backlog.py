"""What a person waits for one picture while a long series of others waits in the bulk lane of the same model."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.bare import open_session
from benchmarks.figures import Figure, figure, percentile
from benchmarks.jobs import Endings, Sender
from benchmarks.models import TILE, BenchModel, prepare_models
from benchmarks.pictures import tiles
from benchmarks.processes import servers, worker
from graticule.client import Client
from graticule.errors import ClusterError
from graticule.jobs import Lane
from graticule.manifest import read_model_folder
from graticule.registry import Registry
from graticule.settings import Settings
from graticule_workers.engine.session import usable_cores

_WARM_UP = 8
_DISTINCT = 50
"""Pictures of the backlog that differ; they repeat."""


def measure(place: Path, *, jobs: int = 10_000, pictures: int = 100, rounds: int = 5) -> list[Figure]:
    """p50 and p95 of submit -> result in the interactive lane, idle and while `jobs` bulk jobs are worked off."""
    model = prepare_models(place / "models")[TILE]
    with servers(place / "cluster") as settings:
        Registry(Client(settings).store).publish(model.folder)
        person = Person(settings, model.name)
        with worker(settings, model.name):
            person.waits(tiles(_WARM_UP, first=1_000_000), "warm-up")
            idle = person.waits(tiles(pictures), "idle")
        runs = [_run_milliseconds(model) for _ in range(rounds)]
        Sender(settings).send(tiles(_DISTINCT), model.name, "backlog", count=jobs, lane=Lane.BULK)
        endings = Endings(settings)
        with worker(settings, model.name):
            endings.wait_for(min(_WARM_UP, jobs))
            busy = person.waits(tiles(pictures), "busy")
            left = jobs + pictures - endings.number
    if left <= 0:
        raise ClusterError(f"The backlog of {jobs} jobs was gone before the pictures were.", advice="Raise --jobs.")
    return _figures(f"{jobs:,} bulk jobs", idle, busy, runs)


class Person:
    """Submits one picture after another and waits for each."""

    def __init__(self, settings: Settings, model: str) -> None:
        self._client, self._model = Client(settings), model

    def waits(self, pictures: list[bytes], stream: str) -> list[float]:
        """Milliseconds from submitting each picture to having its result."""
        return [self._wait(data, f"{stream}/{index}") for index, data in enumerate(pictures)]

    def _wait(self, data: bytes, stream: str) -> float:
        started = time.perf_counter()
        handle = self._client.submit(data, self._model, filename="picture.png", stream=stream, lane=Lane.INTERACTIVE)
        handle.result()
        return 1000 * (time.perf_counter() - started)


@dataclass(frozen=True)
class Runs:
    """How long the model holds the device, milliseconds."""

    single: float
    """One picture, all cores."""
    batch: float
    """The largest batch that the manifest allows, all cores."""


def _run_milliseconds(model: BenchModel) -> Runs:
    manifest, data = read_model_folder(model.folder)
    session = open_session(data, usable_cores())

    def run(images: int) -> float:
        feed = {manifest.inputs[0].name: np.zeros((images, 1, model.side, model.side), np.float32)}
        session.run(None, feed)
        started = time.perf_counter()
        session.run(None, feed)
        return 1000 * (time.perf_counter() - started)

    return Runs(run(1), run(manifest.batch_limit(model.side, model.side)))


def _figures(backlog: str, idle: list[float], busy: list[float], runs: list[Runs]) -> list[Figure]:
    quiet, under = "interactive job, idle", f"interactive job under {backlog}"
    single = figure("one run of the model", "one picture", "ms", [one.single for one in runs])
    batch = figure("one run of the model", "the largest batch", "ms", [one.batch for one in runs])
    twice = 2 * percentile(idle, 95)
    return [
        figure(quiet, "p50", "ms", [percentile(idle, 50)]),
        figure(quiet, "p95", "ms", [percentile(idle, 95)]),
        single,
        batch,
        figure(under, "p50", "ms", [percentile(busy, 50)]),
        figure(under, "p95", "ms", [percentile(busy, 95)]),
        figure(under, "p95 / (2 x idle p95 + one picture)", "", [percentile(busy, 95) / (twice + single.median)]),
        figure(under, "p95 / (2 x idle p95 + one batch)", "", [percentile(busy, 95) / (twice + batch.median)], "<= 1"),
    ]
