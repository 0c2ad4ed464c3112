"""Jobs as the gateway sees them: sent, waited for, looked up, cancelled, tried again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from pydantic import Field

from graticule.errors import BrokerUnavailable, GraticuleError, NotFound
from graticule.events import Event
from graticule.job_index import JobIndex, Summary
from graticule.jobs import PENDING_PREFIX, Job, Lane, Message, ModelReference, PendingKey, utc_now
from graticule.results import Failure, Result
from graticule.settings import Settings
from graticule.submit import Submitter
from graticule_producers.gateway.hub import EventHub
from graticule_producers.gateway.problems import Problem
from graticule_producers.gateway.uploads import UploadedFile

log = logging.getLogger(__name__)

Outcome = Result | Failure

_RECHECK = 2.0
"""Seconds after which the store is asked although no event came: events may be lost."""
_MOST_LOOKED_THROUGH = 20_000


class Order(Message):
    """What is to be done with the pictures of a request."""

    model: ModelReference
    parameters: dict[str, Any] = Field(default_factory=dict)
    stream: str = Field(default="", max_length=500)
    lane: Lane = Lane.INTERACTIVE


class Cancelled(GraticuleError):
    """Somebody cancelled the job."""


@dataclass(frozen=True)
class Found:
    """A job, and what it ended in if it has."""

    job: Job
    outcome: Outcome | None


class Jobs:
    """Everything that a request can do with jobs. Thread-safe."""

    def __init__(self, settings: Settings, submitter: Submitter, index: JobIndex, hub: EventHub) -> None:
        self.settings = settings
        self.submitter = submitter
        self.records = submitter.records
        self.index = index
        self.hub = hub

    def submit(self, received: UploadedFile, order: Order) -> Job:
        """Send one picture. Raises StoreUnavailable."""
        received.file.seek(0)
        job = self.submitter.submit_stream(
            received.file,
            received.filename,
            order.model,
            parameters=order.parameters,
            stream=order.stream,
            lane=order.lane,
        )
        self._enter(Summary.of_job(job))
        return job

    def submit_tensors(self, file: BinaryIO, model: str) -> Job:
        """Send a file of tensors that fit the model. `model`: name@version. Raises StoreUnavailable."""
        job = self.submitter.submit_tensors(file, model, lane=Lane.INTERACTIVE)
        self._enter(Summary.of_job(job))
        return job

    async def outcomes(self, jobs: Sequence[Job], seconds: float) -> dict[str, Outcome]:
        """What these jobs ended in, by id, after at most `seconds`. Those that have not ended are missing."""
        waiting, ended = {job.job_id: job for job in jobs}, dict[str, Outcome]()
        deadline = time.monotonic() + min(seconds, self.settings.gateway_max_wait)
        with self.hub.bell(waiting) as bell:
            candidates = set(waiting)
            while True:
                looked_at = [waiting[job_id] for job_id in candidates if job_id in waiting]
                for job_id, outcome in await asyncio.to_thread(self._look_up, looked_at):
                    ended[job_id] = outcome
                    del waiting[job_id]
                left = deadline - time.monotonic()
                if not waiting or left <= 0:
                    return ended
                candidates = await bell.heard(min(left, _RECHECK)) or set(waiting)

    def find(self, job_id: str) -> Found:
        """A job by its id. Raises Problem (404)."""
        outcome, known = self.records.outcome(job_id), self._known(job_id)
        if outcome and not _is_newer(known, outcome):
            if known and known.status == "waiting":
                self._enter(Summary.of_event(Event.of(outcome)))
            return Found(outcome.job, outcome)
        if job := self._pending(job_id, known):
            return Found(job, None)
        if outcome:
            return Found(outcome.job, outcome)
        raise Problem(404, f"There is no job {job_id}.", error="NotFound")

    def waiting(self, limit: int) -> list[Job]:
        """The jobs that wait, whoever sent them, the oldest first. Raises StoreUnavailable."""
        jobs = (self._read_pending(record.key) for record in self.records.oldest_pending(limit))
        return [job for job in jobs if job]

    def cancel(self, job_id: str) -> Found:
        """End a job that waits. One that a worker is busy with may still end in a result.

        Raises Problem (404, 409), and BrokerUnavailable: workers learn of it through Redis.
        """
        found = self.find(job_id)
        if found.outcome:
            raise Problem(409, f"The job {job_id} has ended already: {found.outcome.status}.")
        error = Cancelled("The job was cancelled through the gateway.", data="The picture is kept.")
        failure = Failure(
            job=found.job, error=error.kind, message=str(error), stage="route", tries=0, completed_at=utc_now()
        )
        # Workers pass over a job that they are told has ended: the message may stay in its queue.
        self.hub.events.last_id()
        self.records.fail(failure)
        self._tell(failure)
        self.records.remove_pending(found.job)
        return Found(found.job, failure)

    def retry(self, job_id: str) -> Found:
        """Try a job that failed again. Raises Problem (404, 409)."""
        found = self.find(job_id)
        if not isinstance(found.outcome, Failure):
            state = "has a result" if found.outcome else "waits"
            raise Problem(409, f"The job {job_id} {state}: only one that failed can be tried again.")
        job = self.submitter.submit_again(found.job)
        self._enter(Summary.of_job(job))
        return Found(job, None)

    def _look_up(self, jobs: Sequence[Job]) -> list[tuple[str, Outcome]]:
        looked = ((job.job_id, self.records.outcome_of(job)) for job in jobs)
        return [(job_id, outcome) for job_id, outcome in looked if outcome]

    def _known(self, job_id: str) -> Summary | None:
        try:
            return self.index.get(job_id)
        except BrokerUnavailable:
            return None

    def _pending(self, job_id: str, known: Summary | None) -> Job | None:
        if known and known.pending_key and (job := self._read_pending(known.pending_key)):
            return job
        keys = self.records.store.keys("jobs", PENDING_PREFIX, limit=_MOST_LOOKED_THROUGH)
        records = (PendingKey.parse(key) for key in keys if job_id in key)
        return next((self._read_pending(record.key) for record in records if record and record.job_id == job_id), None)

    def _read_pending(self, key: str) -> Job | None:
        try:
            return self.records.read_pending(key)
        except NotFound:
            return None

    def _enter(self, summary: Summary) -> None:
        """Without Redis the index lacks a line; the job is recorded all the same."""
        try:
            self.index.add([summary])
        except BrokerUnavailable as error:
            log.warning("%s", error)

    def _tell(self, failure: Failure) -> None:
        try:
            self.hub.events.publish(Event.of(failure))
        except BrokerUnavailable as error:
            log.warning("%s", error)


def _is_newer(known: Summary | None, outcome: Outcome) -> bool:
    """Whether the job was submitted again after the failure that is there."""
    return bool(
        known
        and known.status == "waiting"
        and isinstance(outcome, Failure)
        and known.submitted_at > outcome.job.submitted_at
    )
