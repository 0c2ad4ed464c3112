"""Many at once, or one alone: a job that may have killed a worker runs when nothing else does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turnstile:
    """Lets any number pass together, or a single one when all others have left. Who wants to be alone goes first."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._loners = 0
        self._closed = False

    @contextmanager
    def passing(self, *, alone: bool) -> Iterator[None]:
        """Hold a place inside; blocks until there is one."""
        enter, leave = (self._enter_alone, self._leave_alone) if alone else (self._enter, self._leave)
        enter()
        try:
            yield
        finally:
            leave()

    def _enter(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._closed and not self._loners)
            self._inside += 1

    def _leave(self) -> None:
        with self._changed:
            self._inside -= 1
            if not self._inside and self._loners:
                self._changed.notify_all()

    def _enter_alone(self) -> None:
        with self._changed:
            self._loners += 1
            self._changed.wait_for(lambda: not self._closed and not self._inside)
            self._closed = True

    def _leave_alone(self) -> None:
        with self._changed:
            self._closed = False
            self._loners -= 1
            self._changed.notify_all()
