"""How many jobs wait, and the refusal of more than the cluster should hold."""

from __future__ import annotations

import asyncio
import time
from typing import cast

from graticule.broker import connect_redis, translated_redis_errors
from graticule.jobs import Lane, model_name, queue_name
from graticule.settings import Settings
from graticule_producers.gateway.problems import Problem

_REMEMBERED = 0.25
"""Seconds for which a length is believed."""
_RETRY_AFTER = 10


class Queues:
    """The queues of one cluster."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._redis = connect_redis(settings)
        self._lengths: dict[str, tuple[float, int]] = {}

    async def admit(self, model: str, lane: Lane) -> None:
        """Raise Problem (503) when the queue of a model is full. Asked before a body is read."""
        queue = queue_name(model_name(model), lane)
        self._refuse_if_full(queue, await self._length(queue))

    def admit_remembered(self, model: str, lane: Lane) -> None:
        """As `admit`, by what was known a moment ago: for the middle of a body, where nothing may be asked."""
        queue = queue_name(model_name(model), lane)
        asked, length = self._lengths.get(queue, (0.0, 0))
        if time.monotonic() - asked <= _RETRY_AFTER:
            self._refuse_if_full(queue, length)

    def _refuse_if_full(self, queue: str, length: int) -> None:
        if length >= self.settings.gateway_max_queue:
            raise Problem(
                503,
                f"{length:,} jobs wait in the queue {queue} already; at most {self.settings.gateway_max_queue:,} may"
                " (GRATICULE_GATEWAY_MAX_QUEUE). Nothing was sent.",
                error="QueueFull",
                retry_after=_RETRY_AFTER,
                close=True,
            )

    def lengths(self, models: list[str]) -> dict[str, int]:
        """Jobs that wait in each queue of these models. Raises BrokerUnavailable."""
        return {queue: self._ask(queue) for model in models for lane in Lane for queue in [queue_name(model, lane)]}

    def at_work(self) -> int:
        """Jobs that workers took and have not finished. Raises BrokerUnavailable."""
        with translated_redis_errors(self.settings):
            return cast("int", self._redis.hlen(f"{self.settings.key_prefix}unacked"))

    async def _length(self, queue: str) -> int:
        asked, length = self._lengths.get(queue, (0.0, 0))
        if time.monotonic() - asked > _REMEMBERED:
            length = await asyncio.to_thread(self._ask, queue)
            self._lengths[queue] = (time.monotonic(), length)
        return length

    def _ask(self, queue: str) -> int:
        with translated_redis_errors(self.settings):
            return cast("int", self._redis.llen(self.settings.key_prefix + queue))
