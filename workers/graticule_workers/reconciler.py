"""The reconciler: rings again for jobs whose message is gone, and ends jobs that no worker will ever take.

Celery on Redis loses a message when a process dies between taking it and noting that it did; Redis may be wiped; a
producer may be killed before it rings. The pending record survives all three. It must not ring for a whole backlog:
queues are first-in-first-out, so only a record that is older than the head of its queue, that no worker holds and
that is older than the visibility timeout is lost.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import redis

from graticule.broker import Bell, translated_redis_errors
from graticule.errors import GraticuleError, NotFound, UnknownModel
from graticule.jobs import Job, PendingKey, model_name, utc_now
from graticule.records import Records
from graticule.settings import Settings

log = logging.getLogger(__name__)

PAGE = 1000
"""Oldest records looked at in one sweep: the others come up when these are done."""

OVERTAKING = timedelta(seconds=5)
"""Several producers write their records and ring at the same time: jobs that near in time may lie in any order."""

_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
"""Stands for a message that holds no job: nothing has overtaken it, the worker will throw it out."""

EndJob = Callable[[Job, GraticuleError, str, int], None]


class Reconciler:
    """Compares the pending records with what Redis still knows. Only one in the cluster is at work at a time."""

    def __init__(
        self,
        settings: Settings,
        records: Records,
        bell: Bell,
        client: redis.Redis,
        *,
        known_models: Callable[[], Iterable[str]],
        end_job: EndJob,
    ) -> None:
        """`end_job` ends a job that names an unknown model: (job, error, stage, tries)."""
        self.settings = settings
        self.records = records
        self._bell = bell
        self._redis = client
        self._known_models = known_models
        self._end_job = end_job
        prefix = settings.key_prefix
        self._lock_key = f"{prefix}graticule:reconciler"
        self._rung_key = f"{prefix}graticule:rung:"
        self._prefix = prefix

    def sweep(self) -> int:
        """Ring for every lost job among the oldest; how often it rang. Raises StoreUnavailable, BrokerUnavailable."""
        lock = self._redis.lock(self._lock_key, timeout=60, blocking=False)
        with translated_redis_errors(self.settings):
            if not lock.acquire():
                return 0
        try:
            return self._sweep()
        finally:
            try:
                lock.release()
            except redis.RedisError:
                log.debug("the reconciler's lock expired by itself")

    def _sweep(self) -> int:
        now = utc_now()
        waiting = self.records.oldest_pending(PAGE)
        self._end_unroutable(record for record in waiting if self._age(record, now) > self._grace())
        old = [record for record in waiting if self._age(record, now) > self._visibility()]
        if not old:
            return 0
        with translated_redis_errors(self.settings):
            lost = self._lost(old)
        return sum(self._ring(record) for record in lost)

    def _age(self, record: PendingKey, now: datetime) -> timedelta:
        return now - record.submitted_at

    def _grace(self) -> timedelta:
        return timedelta(seconds=self.settings.reconcile_interval)

    def _visibility(self) -> timedelta:
        return timedelta(seconds=self.settings.visibility_timeout)

    def _lost(self, records: list[PendingKey]) -> list[PendingKey]:
        """Those that no worker holds and that the head of their queue has overtaken."""
        held = self._held_jobs()
        heads = {queue: self._head_time(queue) for queue in {record.queue for record in records}}
        return [
            record
            for record in records
            if record.job_id not in held and _overtaken(record, heads[record.queue]) and not self._rung_lately(record)
        ]

    def _held_jobs(self) -> set[str]:
        """Jobs that workers took and have not finished."""
        raw = cast("dict[str, str]", self._redis.hgetall(f"{self._prefix}unacked"))
        messages = (json.loads(value)[0] for value in raw.values())
        return {job.job_id for message in messages if (job := _job_of(message))}

    def _head_time(self, queue: str) -> datetime | None:
        """When the job at the head of a queue was submitted; None for an empty queue."""
        raw = cast("str | None", self._redis.lindex(f"{self._prefix}{queue}", -1))
        if raw is None:
            return None
        job = _job_of(json.loads(raw))
        return job.submitted_at if job else _LONG_AGO

    def _rung_lately(self, record: PendingKey) -> bool:
        """A job that was rung for waits at the tail of its queue, older than the head: remember it for a while."""
        return bool(self._redis.exists(self._rung_key + record.job_id))

    def _ring(self, record: PendingKey) -> int:
        try:
            job = self.records.read_pending(record.key)
        except NotFound:
            return 0
        self._bell.ring(job)
        with translated_redis_errors(self.settings):
            self._redis.set(self._rung_key + job.job_id, 1, px=int(self.settings.visibility_timeout * 1000))
        log.warning("job %s (%s) had lost its message and was sent again", job.job_id, job.image.filename)
        return 1

    def _end_unroutable(self, records: Iterable[PendingKey]) -> None:
        """No worker listens to the queue of a model that does not exist: such a job would wait for ever."""
        candidates = list(records)
        if not candidates:
            return
        known = set(self._known_models())
        for record in candidates:
            name = model_name(record.queue.rpartition(".")[0])
            if name in known:
                continue
            try:
                job = self.records.read_pending(record.key)
            except NotFound:
                continue
            listing = f"known models: {', '.join(sorted(known))}" if known else "no model is published yet"
            error = UnknownModel(
                f"There is no model {job.model!r}; {listing}.",
                data="The image is in the store.",
                advice="Publish the model and submit the picture again.",
            )
            self._end_job(job, error, "route", 0)


def _overtaken(record: PendingKey, head: datetime | None) -> bool:
    return head is None or record.submitted_at < head - OVERTAKING


def _job_of(message: dict[str, Any]) -> Job | None:
    """The job in a Celery message as it lies in Redis (protocol 2: [args, kwargs, embed], base64)."""
    try:
        body = base64.b64decode(message["body"])
        return Job.model_validate(json.loads(body)[0][0])
    except (KeyError, ValueError, IndexError, TypeError):
        return None
