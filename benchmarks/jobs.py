"""Many jobs: sent by a few threads, and counted as they end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from graticule.errors import ClusterError
from graticule.events import Events
from graticule.jobs import Job, Lane
from graticule.records import Records
from graticule.results import Failure, Result
from graticule.settings import Settings
from graticule.store import Store
from graticule.submit import Submitter

SENDERS = 4
"""Threads that send."""

_LOOK_EVERY = 0.01
_STALLED_AFTER = 120.0
"""Seconds without any ending after which something is wrong."""

Progress = Callable[[int], object]
"""Told how many are done."""


class Sender:
    """Sends pictures as jobs, as every producer does. Its connections are kept from one call to the next."""

    def __init__(self, settings: Settings) -> None:
        self._submitter = Submitter(settings, producer="benchmark")

    def send(
        self,
        pictures: Sequence[bytes],
        model: str,
        stream: str,
        *,
        count: int = 0,
        lane: Lane = Lane.BULK,
        progress: Progress = lambda done: None,
    ) -> list[Job]:
        """Send `count` jobs (default: one a picture). Pictures repeat; by its stream each job is one of its own."""

        def send_one(index: int) -> Job:
            data = pictures[index % len(pictures)]
            return self._submitter.submit_bytes(data, f"{index}.png", model, stream=f"{stream}/{index}", lane=lane)

        jobs = []
        with ThreadPoolExecutor(SENDERS) as pool:
            for job in pool.map(send_one, range(count or len(pictures))):
                jobs.append(job)
                progress(len(jobs))
        return jobs


class Endings:
    """Counts the jobs that end, from now on, by asking Redis one small question now and then."""

    def __init__(self, settings: Settings) -> None:
        self._events = Events(settings)
        self._before = self._events.counts()

    @property
    def number(self) -> int:
        """Jobs that succeeded. Raises ClusterError as soon as one failed."""
        counts = self._events.counts()
        if failed := counts["failed"] - self._before["failed"]:
            raise ClusterError(f"{failed} job(s) of the benchmark failed.", advice="The worker's log says why.")
        return counts["succeeded"] - self._before["succeeded"]

    def wait_for(self, number: int, progress: Progress = lambda done: None) -> None:
        """Return when `number` jobs have succeeded. Raises ClusterError when none ends any more, or one failed."""
        last, moved = -1, time.monotonic()
        while (done := self.number) < number:
            if done > last:
                last, moved = done, time.monotonic()
                progress(done)
            elif time.monotonic() - moved > _STALLED_AFTER:
                raise ClusterError(f"{done} of {number} jobs ended, and none for {_STALLED_AFTER:g} s.")
            time.sleep(_LOOK_EVERY)
        progress(number)


def results_of(settings: Settings, jobs: Sequence[Job]) -> list[Result]:
    """The results of jobs that ended. Raises ClusterError when one is missing: then nothing was measured."""
    records = Records(Store(settings))
    with ThreadPoolExecutor(SENDERS) as pool:
        outcomes = list(pool.map(records.outcome_of, jobs))
    results = [outcome for outcome in outcomes if isinstance(outcome, Result)]
    if len(results) < len(jobs):
        failures = [outcome.message for outcome in outcomes if isinstance(outcome, Failure)]
        raise ClusterError(f"{len(jobs) - len(results)} of {len(jobs)} jobs have no result. {' '.join(failures[:1])}")
    return results
