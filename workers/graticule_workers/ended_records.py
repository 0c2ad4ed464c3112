"""Removes the pending records of jobs that have ended, many in one request, so that no job waits for it.

A worker that is killed before it comes to it leaves records of finished jobs: the reconciler finds them.
"""

from __future__ import annotations

import logging
import threading

from graticule.errors import StoreUnavailable
from graticule.jobs import Job
from graticule.records import Records

log = logging.getLogger(__name__)

_GATHER = 0.05
"""Seconds for which records are gathered: nobody waits for them to go."""
_MOST = 500
"""Records in one request."""
_PAUSE = 2.0
"""Seconds before the next try when the store is away."""


class EndedRecords:
    """A thread that removes what it is given. Thread-safe."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._jobs: list[Job] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="ended-records", daemon=True)
        self._thread.start()

    def add(self, job: Job) -> None:
        """Have the record of a submission removed soon."""
        with self._changed:
            self._jobs.append(job)
            self._changed.notify()

    def close(self) -> None:
        """Remove what is left; without a store, leave it to the reconciler."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while jobs := self._next():
            try:
                self._records.remove_all_pending(jobs)
            except StoreUnavailable as error:
                log.warning("%d records of finished jobs wait to be removed: %s", len(jobs), error)
                self._put_back(jobs)

    def _next(self) -> list[Job]:
        """Some records, gathered for a moment; none when all is done."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed)
            if not self._closed:
                self._changed.wait_for(lambda: self._closed, _GATHER)
            jobs, self._jobs = self._jobs[:_MOST], self._jobs[_MOST:]
            return jobs

    def _put_back(self, jobs: list[Job]) -> None:
        with self._changed:
            if self._closed:
                self._jobs.clear()
                return
            self._jobs = jobs + self._jobs
            self._changed.wait_for(lambda: self._closed, _PAUSE)
