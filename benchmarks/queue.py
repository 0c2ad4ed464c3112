"""What a queued task costs as the queue grows: time to send and to drain it, and memory of Redis.

The jobs are real ones (image and record in the store, message in Redis, result in the store) of a model that costs
nothing, on a few small pictures that repeat. No worker runs while they are sent.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.progress import Progress

from benchmarks.figures import Figure, figure
from benchmarks.jobs import Endings, Sender
from benchmarks.models import NOOP, prepare_models
from benchmarks.pictures import tiles
from benchmarks.processes import running, servers, worker_part
from graticule.broker import connect_redis
from graticule.jobs import Lane, queue_name
from graticule.registry import Registry
from graticule.settings import Settings
from graticule.store import Store

_PICTURES, _SIDE = 4, 64
_WARM_UP = 20
_ONCE_FROM = 10_000
"""So many jobs are sent once, not in every round."""


def measure(place: Path, *, most: int = 10_000, rounds: int = 5) -> list[Figure]:
    """Milliseconds a task and bytes of Redis a task for 100, 1,000, ... `most` queued tasks."""
    model = prepare_models(place / "models")[NOOP]
    with servers(place / "cluster") as settings, _progress() as progress:
        Registry(Store(settings)).publish(model.folder)
        queue = Queue(settings, progress)
        queue.fill_and_drain(_WARM_UP, "warm-up")
        filled: dict[int, list[Filled]] = defaultdict(list)
        for number in range(rounds):
            for size in _sizes(most):
                if number == 0 or size < _ONCE_FROM:
                    filled[size].append(queue.fill_and_drain(size, f"round-{number}"))
    return _figures(filled)


def _sizes(most: int) -> list[int]:
    """100, 1,000, ... up to `most`; `most` itself when it is smaller."""
    return [size for size in (100, 1_000, 10_000, 100_000) if size <= most] or [most]


@dataclass(frozen=True)
class Filled:
    """One filling and draining of the queue; all for one task."""

    send: float
    """Milliseconds."""
    drain: float
    """Milliseconds."""
    redis: float
    """Bytes by which Redis grew, buffers of its connections included."""
    message: float
    """Bytes of the queue's list alone."""


class Queue:
    """Fills the bulk queue of the model that costs nothing, and lets a worker drain it."""

    def __init__(self, settings: Settings, progress: Progress) -> None:
        self._settings, self._progress = settings, progress
        self._redis = connect_redis(settings)
        self._key = settings.key_prefix + queue_name(NOOP, Lane.BULK)
        self._sender = Sender(settings)
        self._pictures = tiles(_PICTURES, side=_SIDE)

    def fill_and_drain(self, size: int, stream: str) -> Filled:
        """Send `size` jobs while no worker is there, then start one and wait for the last job."""
        bar = self._progress.add_task(f"{size:,} tasks", total=2 * size)
        before = self._used_memory()
        started = time.perf_counter()
        self._sender.send(
            self._pictures,
            NOOP,
            f"{stream}/{size}",
            count=size,
            progress=lambda done: self._progress.update(bar, completed=done),
        )
        sent = time.perf_counter() - started
        redis = self._used_memory() - before
        message = cast("int", self._redis.memory_usage(self._key, samples=0))
        assert self._redis.llen(self._key) == size
        drained = self._drain(size, lambda done: self._progress.update(bar, completed=size + done))
        self._progress.remove_task(bar)
        return Filled(1000 * sent / size, 1000 * drained, redis / size, message / size)

    def _drain(self, size: int, progress: Callable[[int], object]) -> float:
        """Seconds a task, from the first ending that is seen to the last one: the worker's start is not in it."""
        endings = Endings(self._settings)
        part = replace(worker_part(self._settings, NOOP), is_ready=lambda _: endings.number > 0)
        with running([part], self._settings.data_dir / "logs"):
            first, started = endings.number, time.perf_counter()
            endings.wait_for(size, progress)
            return (time.perf_counter() - started) / max(1, size - first)

    def _used_memory(self) -> int:
        return cast("dict[str, Any]", self._redis.info("memory"))["used_memory"]


def _figures(filled: dict[int, list[Filled]]) -> list[Figure]:
    figures = []
    for size, rounds in filled.items():
        group = f"{size:,} queued tasks"
        figures += [
            figure(group, "send", "ms/task", [one.send for one in rounds]),
            figure(group, "drain", "ms/task", [one.drain for one in rounds]),
            figure(group, "Redis, used memory", "bytes/task", [one.redis for one in rounds]),
            figure(group, "Redis, the queue itself", "bytes/task", [one.message for one in rounds], "<= 2048"),
        ]
    return [*figures, *(_evenness(name, figures) for name in ("send", "drain") if len(filled) > 1)]


def _evenness(name: str, figures: list[Figure]) -> Figure:
    medians = [one.median for one in figures if one.name == name]
    sizes = f"{figures[0].group.split()[0]} to {figures[-1].group.split()[0]} tasks"
    return figure(sizes, f"{name}: dearest size / cheapest size", "", [max(medians) / min(medians)], "<= 1.2")


def _progress() -> Progress:
    return Progress(console=Console(stderr=True), transient=True)
