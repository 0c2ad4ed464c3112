"""Continuous batching: as soon as the device is free, take whatever waits. No timer, so a lone picture never waits."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graticule.errors import GraticuleError, InferenceFailed

Array = NDArray[Any]
"""float32."""


@dataclass
class _Request:
    tensor: Array
    answer: Future[Array] = field(default_factory=Future)


class Batcher:
    """One thread that runs a model on pictures of equal shape together, oldest first."""

    def __init__(self, name: str, run: Callable[[Array], Array], maximum: int) -> None:
        """`run` takes batch x channels x height x width and gives batch x ...; `maximum` pictures in one run."""
        self._run = run
        self._maximum = maximum
        self._waiting: deque[_Request] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name=f"engine-{name}", daemon=True)
        self._thread.start()

    def infer(self, tensor: Array, timeout: float) -> Array:
        """Run the model on one picture, channels x height x width; blocks. Raises InferenceFailed."""
        request = _Request(tensor)
        with self._wake:
            if self._closed:
                raise InferenceFailed("The model was unloaded while the job waited for it.")
            self._waiting.append(request)
            self._wake.notify()
        try:
            return request.answer.result(timeout)
        except TimeoutError as error:
            raise InferenceFailed(f"The model gave no answer within {timeout:g} s.") from error

    def close(self) -> None:
        """Finish what waits, then stop the thread."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()

    def _serve(self) -> None:
        while batch := self._next_batch():
            self._answer(batch)

    def _next_batch(self) -> list[_Request]:
        with self._wake:
            self._wake.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return []
            shape = self._waiting[0].tensor.shape
            batch: list[_Request] = []
            others: deque[_Request] = deque()
            while self._waiting and len(batch) < self._maximum:
                request = self._waiting.popleft()
                (batch if request.tensor.shape == shape else others).append(request)
            others.extend(self._waiting)
            self._waiting = others
            return batch

    def _answer(self, batch: list[_Request]) -> None:
        try:
            outputs = self._run(np.stack([request.tensor for request in batch]))
        except Exception as error:  # onnxruntime's exceptions share no base class
            for request in batch:
                request.answer.set_exception(_as_inference_failure(error))
            return
        for request, output in zip(batch, outputs, strict=True):
            request.answer.set_result(output)


def _as_inference_failure(error: Exception) -> GraticuleError:
    return error if isinstance(error, GraticuleError) else InferenceFailed(f"The model could not be run: {error}.")
