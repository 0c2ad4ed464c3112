"""Continuous batching: as soon as a stream of the device is free, it takes what waits. No timer: a lone picture never
waits, and a backlog fills the batches by itself. Tensors that somebody sent wait in the same line, but each runs alone.
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
from typing import Any, TypeGuard

import numpy as np

from graticule.errors import GraticuleError, InferenceFailed, OutOfMemory
from graticule.tensors import Tensors
from graticule_workers.engine.session import Array
from graticule_workers.engine.turnstile import Turnstile

log = logging.getLogger(__name__)

Run = Callable[[Array], Array]
"""batch x channels x height x width in, batch x ... out."""
RunTensors = Callable[[Tensors], Tensors]
"""All inputs in, all outputs out."""
Ran = Callable[[int, float], None]
"""Told after every run: pictures, seconds."""


@dataclass(kw_only=True)
class Waiting:
    """Something that waits for the model."""

    job: str = ""
    """For the log and the watchdog."""
    alone: bool = False
    urgent: bool = False
    """A person waits for it: it goes before the others."""
    started: Callable[[], None] = lambda: None
    """Called when the run begins."""
    answer: Future[Any] = field(default_factory=Future)


@dataclass
class Request(Waiting):
    """Pictures of one shape."""

    images: Array


@dataclass
class TensorRequest(Waiting):
    """The inputs of one run, as they are."""

    feed: Tensors


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
        tensors: RunTensors | None = None,
        limit: Callable[[int, int], int] | None = None,
        turnstile: Turnstile | None = None,
        ran: Ran = lambda images, seconds: None,
    ) -> None:
        """`lone` serves a request that has the device to itself; `crowd` holds one function for each parallel stream;
        `tensors` serves tensors, on any of the streams.

        `maximum`: pictures in one run; `limit` tells a lower one for pictures of a height and width.
        """
        self.name = name
        self._lone = lone
        self._tensors = tensors
        self._maximum = maximum
        self._limit = limit or (lambda height, width: maximum)
        self._turnstile = turnstile or Turnstile()
        self._ran = ran
        self._waiting: deque[Request | TensorRequest] = deque()
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
        return self._wait(request)

    def run(self, request: TensorRequest) -> Tensors:
        """Run the model on tensors; blocks. Raises InferenceFailed, OutOfMemory."""
        return self._wait(request)

    def _wait(self, request: Request | TensorRequest) -> Any:  # noqa: ANN401 (what the request is answered with)
        with self._wake:
            if self._closed:
                raise InferenceFailed("The model was unloaded while the job waited for it.")
            # Behind the urgent ones that came before: at the very front, the first of many would never be served.
            place = sum(other.urgent for other in self._waiting) if request.urgent else len(self._waiting)
            self._waiting.insert(place, request)
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
            if isinstance(batch, TensorRequest):
                self._answer_tensors(batch)
            else:
                self._answer(batch, self._lone if alone_here else run)
            with self._wake:
                del self._running[index]

    def _next_batch(self, index: int) -> list[Request] | TensorRequest:
        with self._wake:
            self._wake.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return []
            batch = self._take()
            jobs, shape = _described(batch)
            self._running[index] = Running(self.name, jobs, shape, time.monotonic())
            return batch

    def _take(self) -> list[Request] | TensorRequest:
        """The oldest request and those of its shape, but no more than this stream's share of what waits."""
        first = self._waiting.popleft()
        if isinstance(first, TensorRequest):
            return first
        if first.alone:
            return [first]
        free = len(self._threads) - len(self._running)
        waiting = len(first.images) + sum(_pictures(request) for request in self._waiting)
        height, width = first.images.shape[-2:]
        limit = min(self._maximum, self._limit(height, width), -(-waiting // max(1, free)))
        batch, images = [first], len(first.images)
        passed: list[Request | TensorRequest] = []
        while self._waiting and images < limit:
            request = self._waiting.popleft()
            if _joins(request, first, limit - images):
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

    def _answer_tensors(self, request: TensorRequest) -> None:
        assert self._tensors is not None, "this model runs no tensors"
        try:
            with self._turnstile.passing(alone=request.alone):
                request.started()
                began = time.perf_counter()
                output = self._tensors(request.feed)
                self._ran(1, time.perf_counter() - began)
        except Exception as error:  # whatever went wrong, the job must hear of it
            request.answer.set_exception(_as_inference_failure(error))
            return
        request.answer.set_result(output)

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


def _pictures(request: Request | TensorRequest) -> int:
    return len(request.images) if isinstance(request, Request) else 1


def _joins(request: Request | TensorRequest, first: Request, room: int) -> TypeGuard[Request]:
    """Whether a request may run together with the one that was taken first."""
    return (
        isinstance(request, Request)
        and not request.alone
        and request.images.shape[1:] == first.images.shape[1:]
        and len(request.images) <= room
    )


def _described(batch: list[Request] | TensorRequest) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The jobs of a run and its shape, for the log."""
    if isinstance(batch, TensorRequest):
        return (batch.job,), next(iter(batch.feed.values())).shape
    images = sum(len(request.images) for request in batch)
    return tuple(request.job for request in batch), (images, *batch[0].images.shape[1:])


def _as_inference_failure(error: Exception) -> GraticuleError:
    return error if isinstance(error, GraticuleError) else InferenceFailed(f"The model could not be run: {error}.")


def name_native_thread(name: str) -> None:
    """Show the thread under its name in `top -H` and profilers; Python itself does so from 3.14 on."""
    if sys.platform == "linux":
        set_name = 15  # PR_SET_NAME
        ctypes.CDLL(None).prctl(set_name, name.encode()[:15], 0, 0, 0)
