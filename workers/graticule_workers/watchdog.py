"""The watchdog: threads cannot be killed, so a process that is stuck in native code is replaced as a whole."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from graticule.settings import Settings
from graticule_workers.engine.pool import ModelPool

log = logging.getLogger(__name__)

_LOOK_EVERY = 1.0


@dataclass(frozen=True)
class Step:
    """Something that native code is doing."""

    what: str
    jobs: tuple[str, ...]
    since: float
    """By `time.monotonic`."""


class Watchdog:
    """Looks every second whether a step has been under way for longer than `GRATICULE_STEP_DEADLINE`."""

    def __init__(
        self,
        settings: Settings,
        steps: Callable[[], Iterable[Step]],
        replace: Callable[[Step, str], None],
    ) -> None:
        """`replace` is called with the step and a sentence; it does not return."""
        self._limit = settings.step_deadline
        self._steps = steps
        self._replace = replace
        self._stopping = threading.Event()

    def start(self) -> None:
        """Begin to look."""
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """Look no longer."""
        self._stopping.set()

    def _watch(self) -> None:
        while not self._stopping.wait(_LOOK_EVERY):
            now = time.monotonic()
            for step in self._steps():
                if now - step.since > self._limit:
                    self._replace(step, f"{step.what} has not returned for {now - step.since:.0f} s.")


def engine_steps(pool: ModelPool) -> list[Step]:
    """The runs of models that are under way."""
    return [Step(f"a run of {run.model} on {run.shape}", run.jobs, run.since) for run in pool.running()]
