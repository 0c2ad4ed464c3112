"""Something that is needed and does not answer: said once at the start and once at the end, tried in between."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

FIRST_WAIT = 1.0
LONGEST_WAIT = 30.0


class Outage:
    """Whether `what` is away, and when to try it again."""

    def __init__(
        self,
        what: str,
        log: logging.Logger,
        clock: Callable[[], float] = time.monotonic,
        *,
        promise: str = "",
    ) -> None:
        """`promise`: what becomes of the pictures meanwhile."""
        self.what = what
        self._promise = promise or f"Pictures wait here and are sent when {what} answers."
        self._log = log
        self._clock = clock
        self._began: float | None = None
        self._wait = FIRST_WAIT
        self._next_try = 0.0

    @property
    def is_on(self) -> bool:
        """Whether the last try failed."""
        return self._began is not None

    @property
    def next_try(self) -> float:
        """When to try again, in the clock's time; 0 when there is no outage."""
        return self._next_try if self.is_on else 0.0

    def failed(self, error: Exception) -> None:
        """A try failed. Several that were under way at the same time count as one."""
        now = self._clock()
        if self._began is None:
            self._began, self._wait = now, FIRST_WAIT
            self._log.error("%s %s", error, self._promise)
        elif now >= self._next_try:
            self._wait = min(self._wait * 2, LONGEST_WAIT)
        else:
            return
        self._next_try = now + self._wait

    def succeeded(self, waiting: int) -> None:
        """A try worked."""
        if self._began is not None:
            away = self._clock() - self._began
            self._log.warning("%s answers again after %.0f s; %d pictures were waiting.", self.what, away, waiting)
            self._began = None
