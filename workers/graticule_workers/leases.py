"""Leases: a live worker says again and again that it still holds its messages, so that a dead one's return quickly.

Celery on Redis gives a message to another worker when its time in `unacked_index` lies further back than the
visibility timeout, and a worker that is still at it does not renew that time by itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import redis

from graticule.broker import translated_redis_errors
from graticule.settings import Settings


class Leases:
    """The messages that this process is working on. Thread-safe."""

    def __init__(self, settings: Settings, client: redis.Redis) -> None:
        self._settings = settings
        self._redis = client
        self._key = f"{settings.key_prefix}unacked_index"
        self._lock = threading.Lock()
        self._held: dict[str, str] = {}

    @contextmanager
    def held(self, tag: str, job: str) -> Iterator[None]:
        """Hold the message with a delivery tag while its job is carried out."""
        with self._lock:
            self._held[tag] = job
        try:
            yield
        finally:
            with self._lock:
                self._held.pop(tag, None)

    def jobs(self) -> list[str]:
        """The jobs that are being carried out."""
        with self._lock:
            return list(self._held.values())

    def renew(self) -> None:
        """Begin the visibility timeout of every held message anew. Raises BrokerUnavailable."""
        with self._lock:
            tags = list(self._held)
        if not tags:
            return
        now = time.time()
        with translated_redis_errors(self._settings):
            # Only messages that are still ours: one that another worker got meanwhile must not come back.
            self._redis.zadd(self._key, dict.fromkeys(tags, now), xx=True)
