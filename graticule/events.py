"""Events and counters in Redis: what happened lately, for progress bars, pages and `graticule status`.

An index only: it may be lost, and nothing but speed depends on it. The truth is in the object store.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, cast

import redis
from pydantic import AwareDatetime

from graticule.broker import connect_redis, translated_redis_errors
from graticule.jobs import Job, Message
from graticule.results import Failure, Measurements, Result
from graticule.settings import Settings

MAX_EVENTS = 10_000
"""Events kept; a reader that falls further behind has to read the store."""
REMEMBERED = 100_000
"""Endings remembered, so that the same one is not told twice, and no job is carried out that is known to have ended."""

# A worker killed between writing a result and telling of it makes its job run again, which tells of it then. One
# script, so that an ending is told and counted exactly once whoever is killed when.
_PUBLISH = """
if redis.call('ZADD', KEYS[1], 'NX', ARGV[1], ARGV[2]) == 0 then return 0 end
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - tonumber(ARGV[5]))
redis.call('HINCRBY', KEYS[2], ARGV[3], 1)
redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[6], '*', 'event', ARGV[4])
return 1
"""

Outcome = Literal["succeeded", "failed"]


class Event(Message):
    """A job reached its end."""

    job_id: str
    status: Outcome
    model: str
    stream: str
    filename: str
    sequence: int | None = None
    count: int | None = None
    area_fraction: float | None = None
    mean_radius: float | None = None
    error: str = ""
    message: str = ""
    captured_at: AwareDatetime | None = None
    submitted_at: AwareDatetime | None = None
    completed_at: AwareDatetime

    @classmethod
    def of(cls, outcome: Result | Failure) -> Event:
        """The event that tells of an outcome."""
        found = outcome.measurements if isinstance(outcome, Result) else None
        measured = found if isinstance(found, Measurements) else None
        return cls(
            job_id=outcome.job.job_id,
            status=outcome.status,
            model=outcome.job.model,
            stream=outcome.job.stream,
            filename=outcome.job.image.filename,
            sequence=outcome.job.sequence,
            count=measured.count if measured else None,
            area_fraction=measured.area_fraction if measured else None,
            mean_radius=measured.mean_radius if measured else None,
            error=outcome.error if isinstance(outcome, Failure) else "",
            message=outcome.message if isinstance(outcome, Failure) else "",
            captured_at=outcome.job.captured_at,
            submitted_at=outcome.job.submitted_at,
            completed_at=outcome.completed_at,
        )

    @property
    def ending(self) -> str:
        """What is told once. A job has one result, but fails once for each submission."""
        if self.status == "succeeded" or not self.submitted_at:
            return f"{self.job_id}:{self.status}"
        return _failed(self.job_id, self.submitted_at)


class Events:
    """Publishes and reads the events of one cluster."""

    def __init__(self, settings: Settings, client: redis.Redis | None = None) -> None:
        self.settings = settings
        self._redis = client or connect_redis(settings)
        self._stream = f"{settings.key_prefix}graticule:events"
        self._counters = f"{settings.key_prefix}graticule:counters"
        self._told = f"{settings.key_prefix}graticule:told"
        self._publish = self._redis.register_script(_PUBLISH)

    def publish(self, event: Event) -> bool:
        """Tell the event to everyone who listens and count it, unless that was done before; whether it was new.

        Raises BrokerUnavailable.
        """
        keys = [self._told, self._counters, self._stream]
        arguments = [
            event.completed_at.timestamp(),
            event.ending,
            event.status,
            event.model_dump_json(),
            REMEMBERED,
            MAX_EVENTS,
        ]
        with translated_redis_errors(self.settings):
            return bool(self._publish(keys=keys, args=arguments))

    def told(self, job: Job) -> bool:
        """Whether an end of this submission is among the endings that are remembered. Raises BrokerUnavailable."""
        endings = [f"{job.job_id}:succeeded", _failed(job.job_id, job.submitted_at)]
        with translated_redis_errors(self.settings):
            scores = cast("list[float | None]", self._redis.zmscore(self._told, endings))
        return any(score is not None for score in scores)

    def last_id(self) -> str:
        """The position behind the newest event: reading from here gives only what comes later."""
        with translated_redis_errors(self.settings):
            newest = cast("list[tuple[str, Any]]", self._redis.xrevrange(self._stream, count=1))
        return newest[0][0] if newest else "0-0"

    def read(self, after: str, *, wait: float = 0, limit: int = 1000) -> tuple[list[Event], str]:
        """Events after position `after` and the new position; waits up to `wait` seconds for the first one."""
        entries = self.entries(after, wait=wait, limit=limit)
        return [event for _, event in entries], entries[-1][0] if entries else after

    def entries(self, after: str, *, wait: float = 0, limit: int = 1000) -> list[tuple[str, Event]]:
        """Events after position `after`, each with its own position; waits up to `wait` seconds for the first one."""
        block = max(1, int(wait * 1000)) if wait > 0 else None
        with translated_redis_errors(self.settings):
            answer = self._redis.xread({self._stream: after}, count=limit, block=block)
        return [(position, Event.model_validate_json(fields["event"])) for position, fields in _entries(answer)]

    def first_id(self) -> str:
        """The position of the oldest event that is kept; empty without one."""
        with translated_redis_errors(self.settings):
            oldest = cast("list[tuple[str, Any]]", self._redis.xrange(self._stream, count=1))
        return oldest[0][0] if oldest else ""

    def counts(self) -> dict[str, int]:
        """Jobs that succeeded and failed since Redis was last empty."""
        with translated_redis_errors(self.settings):
            raw = cast("dict[str, str]", self._redis.hgetall(self._counters))
        return {"succeeded": int(raw.get("succeeded", 0)), "failed": int(raw.get("failed", 0))}


def _failed(job_id: str, submitted_at: datetime) -> str:
    return f"{job_id}:failed:{submitted_at.timestamp()}"


def _entries(answer: object) -> list[tuple[str, dict[str, str]]]:
    """The entries of the one stream in an XREAD answer (a list in RESP2, a dict in RESP3)."""
    if not answer:
        return []
    streams = list(answer.values()) if isinstance(answer, dict) else [pair[1] for pair in cast("list[Any]", answer)]
    entries = streams[0]
    if entries and isinstance(entries[0], list) and entries[0] and isinstance(entries[0][0], (list, tuple)):
        entries = entries[0]
    return cast("list[tuple[str, dict[str, str]]]", entries)
