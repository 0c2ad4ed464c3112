"""What the workers of a cluster say about themselves in Redis: who is alive, what they serve."""

from __future__ import annotations

import time
from typing import cast

import redis
from pydantic import ConfigDict, Field

from graticule.broker import connect_redis, translated_redis_errors
from graticule.jobs import Message
from graticule.settings import Settings

ALIVE_FOR = 10.0
"""Seconds after its last sign of life for which a worker counts as alive."""


class WorkerStatus(Message):
    """One worker process, as it describes itself every few seconds."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str = Field(description="Host and process id; unique in the cluster.")
    host: str
    process: int = Field(description="Process id.")
    supervisor: int = Field(default=0, description="Process that was started; the same unless it has several.")
    state: str = Field(description="ready, or stalled: it is connected but does not consume.")
    seen: float = Field(description="Seconds since the epoch, by the worker's clock.")
    started: float = Field(description="Seconds since the epoch.")
    models: tuple[str, ...] = Field(description="name@version of every loaded model.")
    queues: tuple[str, ...] = Field(description="Queues that it takes jobs from.")
    provider: str = Field(description="ONNX execution provider.")
    threads: int
    versions: dict[str, str] = Field(description="graticule, python, onnxruntime, celery.")


class WorkersIndex:
    """Writes and reads the index."""

    def __init__(self, settings: Settings, client: redis.Redis | None = None) -> None:
        self.settings = settings
        self._redis = client or connect_redis(settings)
        self._key = f"{settings.key_prefix}graticule:workers"

    def announce(self, status: WorkerStatus) -> None:
        """Give a sign of life."""
        with translated_redis_errors(self.settings):
            self._redis.hset(self._key, status.name, status.model_dump_json())

    def leave(self, name: str) -> None:
        """Take a worker out."""
        with translated_redis_errors(self.settings):
            self._redis.hdel(self._key, name)

    def alive(self) -> list[WorkerStatus]:
        """Workers that gave a sign of life lately; the others are forgotten."""
        with translated_redis_errors(self.settings):
            raw = cast("dict[str, str]", self._redis.hgetall(self._key))
        everyone = [WorkerStatus.model_validate_json(value) for value in raw.values()]
        now = time.time()
        for gone in (worker.name for worker in everyone if now - worker.seen > 10 * ALIVE_FOR):
            self.leave(gone)
        return sorted((w for w in everyone if now - w.seen <= ALIVE_FOR), key=lambda w: w.name)
