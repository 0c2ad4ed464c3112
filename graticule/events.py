"""Events and counters in Redis: what happened lately, for progress bars, pages and `graticule status`.

An index only: it may be lost, and nothing but speed depends on it. The truth is in the object store.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import redis
from pydantic import AwareDatetime

from graticule.broker import connect_redis, translated_redis_errors
from graticule.jobs import Message
from graticule.settings import Settings

MAX_EVENTS = 10_000
"""Events kept; a reader that falls further behind has to read the store."""

Outcome = Literal["succeeded", "failed"]


class Event(Message):
    """A job reached its end."""

    job_id: str
    status: Outcome
    model: str
    stream: str
    filename: str
    count: int | None = None
    area_fraction: float | None = None
    message: str = ""
    completed_at: AwareDatetime


class Events:
    """Publishes and reads the events of one cluster."""

    def __init__(self, settings: Settings, client: redis.Redis | None = None) -> None:
        self.settings = settings
        self._redis = client or connect_redis(settings)
        self._stream = f"{settings.key_prefix}graticule:events"
        self._counters = f"{settings.key_prefix}graticule:counters"

    def publish(self, event: Event) -> None:
        """Tell the event to everyone who listens, and count it. Raises BrokerUnavailable."""
        with translated_redis_errors(self.settings), self._redis.pipeline(transaction=False) as pipe:
            pipe.xadd(self._stream, {"event": event.model_dump_json()}, maxlen=MAX_EVENTS, approximate=True)
            pipe.hincrby(self._counters, event.status, 1)
            pipe.execute()

    def last_id(self) -> str:
        """The position behind the newest event: reading from here gives only what comes later."""
        with translated_redis_errors(self.settings):
            newest = cast("list[tuple[str, Any]]", self._redis.xrevrange(self._stream, count=1))
        return newest[0][0] if newest else "0-0"

    def read(self, after: str, *, wait: float = 0, limit: int = 1000) -> tuple[list[Event], str]:
        """Events after position `after` and the new position; waits up to `wait` seconds for the first one."""
        block = max(1, int(wait * 1000)) if wait > 0 else None
        with translated_redis_errors(self.settings):
            answer = self._redis.xread({self._stream: after}, count=limit, block=block)
        entries = _entries(answer)
        events = [Event.model_validate_json(fields["event"]) for _, fields in entries]
        return events, entries[-1][0] if entries else after

    def counts(self) -> dict[str, int]:
        """Jobs that succeeded and failed since Redis was last empty."""
        with translated_redis_errors(self.settings):
            raw = cast("dict[str, str]", self._redis.hgetall(self._counters))
        return {"succeeded": int(raw.get("succeeded", 0)), "failed": int(raw.get("failed", 0))}


def _entries(answer: object) -> list[tuple[str, dict[str, str]]]:
    """The entries of the one stream in an XREAD answer (a list in RESP2, a dict in RESP3)."""
    if not answer:
        return []
    streams = list(answer.values()) if isinstance(answer, dict) else [pair[1] for pair in cast("list[Any]", answer)]
    entries = streams[0]
    if entries and isinstance(entries[0], list) and entries[0] and isinstance(entries[0][0], (list, tuple)):
        entries = entries[0]
    return cast("list[tuple[str, dict[str, str]]]", entries)
