"""Which jobs may have ended: told by events, and asked for now and then, because events may be lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import TypeVar

import redis

from graticule.errors import BrokerUnavailable
from graticule.events import Events
from graticule.settings import Settings

_RECHECK = 2.0
"""Seconds after which the store is worth asking again although no event came: the store is the truth."""
_RECHECKED_AT_ONCE = 64
_HEARD = 1000
_WITHOUT_REDIS = 0.2

T = TypeVar("T")


class EndedJobs:
    """Names jobs that are worth looking up. Only the store tells whether they have ended."""

    def __init__(self, settings: Settings, client: redis.Redis | None = None) -> None:
        """Begins to listen: jobs that end from now on are told. `client`: connections to Redis to use."""
        self._events = Events(settings, client)
        self._position: str | None = None
        self._ask(self._begin)
        self._rechecked = time.monotonic()
        self._cursor = 0
        self._heard: dict[str, None] = {}

    def next(self, waiting: Collection[str], wait: float = _RECHECK) -> list[str]:
        """Job ids worth looking up among `waiting`, after at most `wait` seconds."""
        self._heard |= dict.fromkeys(self._ask(lambda: self._read(wait)) or ())
        ended = [job_id for job_id in self._heard if job_id in waiting]
        for job_id in ended:
            del self._heard[job_id]
        self._forget_oldest()
        if time.monotonic() - self._rechecked >= _RECHECK:
            self._rechecked = time.monotonic()
            ended += self._some_of(list(waiting))
        return list(dict.fromkeys(ended))

    def _forget_oldest(self) -> None:
        """An event can come before its job is waited for; the others are somebody else's."""
        while len(self._heard) > _HEARD:
            del self._heard[next(iter(self._heard))]

    def _begin(self) -> None:
        self._position = self._events.last_id()

    def _read(self, wait: float) -> list[str]:
        if self._position is None:
            self._begin()
            return []
        events, self._position = self._events.read(self._position, wait=wait)
        return [event.job_id for event in events]

    def _ask(self, question: Callable[[], T]) -> T | None:
        try:
            return question()
        except BrokerUnavailable:
            self._position = None
            time.sleep(_WITHOUT_REDIS)
            return None

    def _some_of(self, waiting: list[str]) -> list[str]:
        """The next few, in turn: one that never ends must not hide the others."""
        if not waiting:
            return []
        start = self._cursor % len(waiting)
        self._cursor = start + _RECHECKED_AT_ONCE
        return waiting[start : start + _RECHECKED_AT_ONCE]
