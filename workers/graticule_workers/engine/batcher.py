"""Continuous batching: as soon as a stream of the device is free, it takes what waits. No timer: a lone picture never
waits, and a backlog fills the batches by itself.
"""

from __future__ import annotations

import ctypes
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from graticule.errors import GraticuleError, InferenceFailed, OutOfMemory
from graticule_workers.engine.session import Array
from graticule_workers.engine.turnstile import Turnstile

log = logging.getLogger(__name__)

Run = Callable[[Array], Array]
"""batch x channels x height x width in, batch x ... out."""
Ran = Callable[[int, float], None]
"""Told after every run: pictures, seconds."""


@dataclass
class Request:
    """Pictures of one shape that wait for the model."""

    images: Array
    job: str = ""
    """For the log and the watchdog."""
    alone: bool = False
    started: Callable[[], None] = lambda: None
    """Called when the run begins."""
    answer: Future[Array] = field(default_factory=Future)


@dataclass(frozen=True)
class Running:
    """A run that is under way."""

    model: str
    jobs: tuple[str, ...]
    shape: tuple[int, ...]
    since: float
    """By `time.monotonic`."""


class Batcher:
    """Runs a model on whatever waits, oldest first, pictures of equal shape together."""

    def __init__(
        self,
        name: str,
        lone: Run,
        crowd: Sequence[Run],
        maximum: int,
        *,
        limit: Callable[[int, int], int] | None = None,
        turnstile: Turnstile | None = None,
        ran: Ran = lambda images, seconds: None,
    ) -> None:
        """`lone` serves a request that has the device to itself; `crowd` holds one function for each parallel stream.

        `maximum`: pictures in one run; `limit` tells a lower one for pictures of a height and width.
        """
        self.name = name
        self._lone = lone
        self._maximum = maximum
        self._limit = limit or (lambda height, width: maximum)
        self._turnstile = turnstile or Turnstile()
        self._ran = ran
        self._waiting: deque[Request] = deque()
        self._running: dict[int, Running] = {}
        self._wake = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._serve, args=(index, run), name=f"engine-{name}-{index}", daemon=True)
            for index, run in enumerate(crowd)
        ]
        for thread in self._threads:
            thread.start()

    def infer(self, request: Request) -> Array:
        """Run the model on a request's pictures; blocks. Raises InferenceFailed, OutOfMemory."""
        with self._wake:
            if self._closed:
                raise InferenceFailed("The model was unloaded while the job waited for it.")
            self._waiting.append(request)
            self._wake.notify()
        return request.answer.result()

    def running(self) -> list[Running]:
        """The runs that are under way."""
        with self._wake:
            return list(self._running.values())

    def close(self) -> None:
        """Finish what waits, then stop the threads."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        for thread in self._threads:
            thread.join()

    def _serve(self, index: int, run: Run) -> None:
        name_native_thread("engine")
        while batch := self._next_batch(index):
            # Requests that come later find a busy device and go to their own stream.
            alone_here = len(self._running) == 1 and not self._waiting
            self._answer(batch, self._lone if alone_here else run)
            with self._wake:
                del self._running[index]

    def _next_batch(self, index: int) -> list[Request]:
        with self._wake:
            self._wake.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return []
            batch = self._take()
            self._running[index] = Running(
                self.name,
                tuple(request.job for request in batch),
                (sum(len(request.images) for request in batch), *batch[0].images.shape[1:]),
                time.monotonic(),
            )
            return batch

    def _take(self) -> list[Request]:
        """The oldest request and those of its shape, but no more than this stream's share of what waits."""
        first = self._waiting.popleft()
        if first.alone:
            return [first]
        free = len(self._threads) - len(self._running)
        waiting = len(first.images) + sum(len(request.images) for request in self._waiting)
        height, width = first.images.shape[-2:]
        limit = min(self._maximum, self._limit(height, width), -(-waiting // max(1, free)))
        batch, images = [first], len(first.images)
        passed: list[Request] = []
        while self._waiting and images < limit:
            request = self._waiting.popleft()
            fits = request.images.shape[1:] == first.images.shape[1:] and images + len(request.images) <= limit
            if fits and not request.alone:
                batch.append(request)
                images += len(request.images)
            else:
                passed.append(request)
        self._waiting.extendleft(reversed(passed))
        return batch

    def _answer(self, batch: list[Request], run: Run) -> None:
        try:
            with self._turnstile.passing(alone=batch[0].alone):
                for request in batch:
                    request.started()
                output = self._timed_run(batch, run)
        except Exception as error:  # whatever went wrong, the pictures' jobs must hear of it
            for request in batch:
                request.answer.set_exception(_as_inference_failure(error))
            return
        first = 0
        for request in batch:
            request.answer.set_result(output[first : first + len(request.images)])
            first += len(request.images)

    def _timed_run(self, batch: list[Request], run: Run) -> Array:
        images = batch[0].images if len(batch) == 1 else np.concatenate([request.images for request in batch])
        started = time.perf_counter()
        output = self._run_halving(images, run)
        self._ran(len(images), time.perf_counter() - started)
        return output

    def _run_halving(self, images: Array, run: Run) -> Array:
        """Run; where memory does not suffice, in halves, and in smaller batches from then on."""
        try:
            return run(images)
        except OutOfMemory:
            if len(images) == 1:
                raise
        half = len(images) // 2
        self._maximum = min(self._maximum, max(1, half))
        log.warning("%s: not enough memory for %d pictures at once; going on with %d", self.name, len(images), half)
        return np.concatenate([self._run_halving(images[:half], run), self._run_halving(images[half:], run)])


def _as_inference_failure(error: Exception) -> GraticuleError:
    return error if isinstance(error, GraticuleError) else InferenceFailed(f"The model could not be run: {error}.")


def name_native_thread(name: str) -> None:
    """Show the thread under its name in `top -H` and profilers; Python itself does so from 3.14 on."""
    if sys.platform == "linux":
        set_name = 15  # PR_SET_NAME
        ctypes.CDLL(None).prctl(set_name, name.encode()[:15], 0, 0, 0)
