"""From a closed file to its readable result on an idle cluster, and the time line of a single picture."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count as numbers
from pathlib import Path

from benchmarks.figures import Figure, figure, percentile
from benchmarks.machine import ROOT
from benchmarks.models import TILE, prepare_models
from benchmarks.pictures import tiles
from benchmarks.processes import graticule, running, servers, worker
from graticule.client import Client
from graticule.errors import ClusterError
from graticule.events import Events
from graticule.jobs import utc_now
from graticule.local.child import Part
from graticule.registry import Registry
from graticule.results import Result, Timings
from graticule.settings import Settings

_STAGES = [stage for stage in Timings.model_fields if stage != "queued"]
_WARM_UP = 5
_ANSWER_WITHIN = 60.0


def measure(place: Path, *, pictures: int = 100) -> list[Figure]:
    """p50 and p99 of file closed -> result readable, with and without inference; medians of each step between."""
    model = prepare_models(place / "models")[TILE]
    with servers(place / "cluster") as settings:
        Registry(Client(settings).store).publish(model.folder)
        with worker(settings, model.name), _watcher(settings, place / "watched") as folder:
            camera = Camera(settings, folder)
            camera.wait_until_watched(tiles(_WARM_UP, first=1_000_000))
            passages = [camera.shoot(data) for data in tiles(pictures)]
    return [*_percentiles(passages), *_time_line(passages)]


@dataclass(frozen=True)
class Passage:
    """One picture on its way. Times in seconds since the epoch, all of one machine's clock."""

    closed: float
    read: float
    result: Result

    @property
    def whole(self) -> float:
        """Seconds from closing the file to having read the result."""
        return self.read - self.closed

    @property
    def steps(self) -> dict[str, float]:
        """Seconds of each step, in order; together they are `whole`."""
        timings, submitted = self.result.timings, self.result.job.submitted_at.timestamp()
        completed = self.result.completed_at.timestamp()
        stages = {stage: getattr(timings, stage) for stage in _STAGES}
        return {
            "notice, check and send the file": submitted - self.closed,
            "record, ring, reach the worker": timings.queued,
            **stages,
            "look up the model, make the result": completed - submitted - timings.queued - sum(stages.values()),
            "write result.json, tell, read it": self.read - completed,
        }


class Camera:
    """Writes pictures into the watched folder, one at a time, and waits for each one's result."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._client, self._events = Client(settings), Events(settings)
        self._folder = folder
        self._numbers = numbers()

    def wait_until_watched(self, pictures: list[bytes]) -> None:
        """Write pictures until one gets an answer, then the rest of them: all is warm afterwards."""
        deadline = time.monotonic() + _ANSWER_WITHIN
        position = self._events.last_id()
        while True:
            self._write(pictures[0])
            told, position = self._events.read(position, wait=1.0)
            if told:
                break
            if time.monotonic() > deadline:
                raise ClusterError(f"The watcher sent nothing within {_ANSWER_WITHIN:g} s.")
        while told:  # what was written meanwhile
            told, position = self._events.read(position, wait=1.0)
        for data in pictures[1:]:
            self.shoot(data)

    def shoot(self, data: bytes) -> Passage:
        """Write one picture and wait until its result can be read."""
        position = self._events.last_id()
        self._write(data)
        closed = utc_now().timestamp()
        told, _ = self._events.read(position, wait=_ANSWER_WITHIN / 3)
        outcome = self._client.outcome(told[0].job_id) if told else None
        read = utc_now().timestamp()
        if not isinstance(outcome, Result):
            raise ClusterError(f"A picture in the watched folder ended in {outcome!r}.")
        return Passage(closed, read, outcome)

    def _write(self, data: bytes) -> None:
        (self._folder / f"{next(self._numbers):06}.png").write_bytes(data)


@contextmanager
def _watcher(settings: Settings, folder: Path) -> Iterator[Path]:
    folder.mkdir()
    part = Part(
        name="watcher",
        command=[
            *graticule("watch", str(folder), "--model", TILE),
            *("--journal", str(folder.with_name("journal.sqlite"))),
        ],
        environment=settings.to_env(),
        folder=ROOT,
    )
    with running([part], settings.data_dir / "logs"):
        yield folder


def _percentiles(passages: list[Passage]) -> list[Figure]:
    whole = [1000 * passage.whole for passage in passages]
    beyond = [1000 * (passage.whole - passage.result.timings.infer) for passage in passages]
    group = "file closed -> result read, idle"
    return [
        figure(group, "p50", "ms", [percentile(whole, 50)]),
        figure(group, "p99", "ms", [percentile(whole, 99)]),
        figure(group, "beyond inference, p50", "ms", [percentile(beyond, 50)], "<= 100"),
        figure(group, "beyond inference, p99", "ms", [percentile(beyond, 99)], "<= 300"),
    ]


def _time_line(passages: list[Passage]) -> list[Figure]:
    """Median of each step over all pictures. Medians need not add up to the median of the whole."""
    group = "time line of one picture, idle (medians)"
    names = list(passages[0].steps)
    return [
        figure(group, name, "ms", [1000 * statistics.median(passage.steps[name] for passage in passages)])
        for name in names
    ]
