"""Whether a worker really consumes: a process that only holds a connection is not healthy."""

from __future__ import annotations

import socket
import threading
import time

from graticule.settings import Settings
from graticule.workers_index import WorkersIndex

LOOP_SILENCE = 20.0
"""Seconds without a turn of Celery's event loop, Redis being reachable, from which it counts as stuck."""
QUEUE_PATIENCE = 30.0
"""Seconds for which jobs may wait while threads are free and none is taken."""


class Pulse:
    """Signs of life of one worker process, by `time.monotonic`. Thread-safe."""

    def __init__(self) -> None:
        now = time.monotonic()
        self._lock = threading.Lock()
        self._loop_turned = now
        self._took_job = now
        self._reachable_since: float | None = None
        self._idle_since: float | None = now

    def loop_turned(self) -> None:
        """Celery's event loop is alive and connected."""
        with self._lock:
            self._loop_turned = time.monotonic()

    def took_job(self) -> None:
        """A job was taken from a queue."""
        with self._lock:
            self._took_job = time.monotonic()

    def looked(self, *, reachable: bool, waiting: int = 0, free_threads: int = 0) -> None:
        """Note what a look at Redis showed: jobs that wait in this worker's queues, threads that could take them."""
        now = time.monotonic()
        with self._lock:
            self._reachable_since = (self._reachable_since or now) if reachable else None
            hungry = reachable and waiting > 0 and free_threads > 0
            self._idle_since = (self._idle_since or now) if hungry else None

    def complaint(self) -> str:
        """What is wrong, in a sentence; empty when all is well, or when Redis is away, which no restart would heal."""
        now = time.monotonic()
        with self._lock:
            if self._reachable_since is None:
                return ""
            silent = now - max(self._loop_turned, self._reachable_since)
            starving = now - max(self._took_job, self._idle_since) if self._idle_since is not None else 0.0
        if silent > LOOP_SILENCE:
            return f"Redis answers, but the consumer has not turned for {silent:.0f} s."
        if starving > QUEUE_PATIENCE:
            return f"Jobs wait and threads are free, but none was taken for {starving:.0f} s."
        return ""


def check(settings: Settings) -> tuple[bool, str]:
    """Whether every worker of this host is healthy, and a sentence; for a container's health check.

    Raises BrokerUnavailable.
    """
    here = socket.gethostname()
    workers = [worker for worker in WorkersIndex(settings).alive() if worker.host == here]
    if not workers:
        return False, f"No worker on {here} has given a sign of life lately."
    ill = [f"{worker.name} is {worker.state}" for worker in workers if worker.state != "ready"]
    if ill:
        return False, "; ".join(ill) + "."
    return True, f"{len(workers)} worker process(es) on {here} at work."
