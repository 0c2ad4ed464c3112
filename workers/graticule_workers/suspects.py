"""Suspects: jobs whose worker died while it held them.

Usually a job was only near when something else went wrong. So it gets another try, alone in its process, where nothing
else can be to blame (while it waits for that it is not blamed either); when it has seen three deaths it goes to the
dead letters. A job that never saw one costs nothing here: only messages that were delivered before are looked up.
"""

from __future__ import annotations

import os
import socket
from typing import cast

import redis

from graticule.broker import translated_redis_errors
from graticule.dead_letters import Death
from graticule.jobs import utc_now
from graticule.settings import Settings

MAX_DEATHS = 3
_REMEMBERED = 7 * 24 * 3600
"""Seconds for which deaths are remembered when their job is never seen again."""

INNOCENT, ACCOUNTED = "innocent", "accounted"


class Suspects:
    """Counts deaths by job, in Redis. Every call raises BrokerUnavailable when it does not answer."""

    def __init__(self, settings: Settings, client: redis.Redis) -> None:
        self._settings = settings
        self._redis = client
        self._deaths = f"{settings.key_prefix}graticule:deaths:"
        self._verdicts = f"{settings.key_prefix}graticule:verdict:"

    def taken_up_again(self, job_id: str) -> list[Death]:
        """A message came a second time: note a death, unless it is known why; all deaths that the job has seen."""
        with translated_redis_errors(self._settings):
            verdict = cast("str | None", self._redis.getdel(self._verdicts + job_id))
        if verdict is None:
            return self.note(job_id, "the worker that held the job died or was cut off")
        return self.deaths(job_id)

    def note(self, job_id: str, what: str) -> list[Death]:
        """Note that a process died of a job, as far as one can tell; all deaths that the job has seen."""
        death = Death(at=utc_now(), what=what, noted_by=f"{socket.gethostname()}-{os.getpid()}")
        key = self._deaths + job_id
        with translated_redis_errors(self._settings):
            self._redis.rpush(key, death.model_dump_json())
            self._redis.expire(key, _REMEMBERED)
        return self.deaths(job_id)

    def deaths(self, job_id: str) -> list[Death]:
        """The deaths that a job has seen, oldest first."""
        with translated_redis_errors(self._settings):
            raw = cast("list[str]", self._redis.lrange(self._deaths + job_id, 0, -1))
        return [Death.model_validate_json(line) for line in raw]

    def judge(self, job_id: str, verdict: str) -> None:
        """Say beforehand why a message will come again: it is INNOCENT, or its death is ACCOUNTED for."""
        with translated_redis_errors(self._settings):
            self._redis.set(self._verdicts + job_id, verdict, ex=_REMEMBERED)

    def waits(self, job_id: str) -> None:
        """A suspect waits to be alone: if its process dies meanwhile, it was not the cause."""
        self.judge(job_id, INNOCENT)

    def runs(self, job_id: str) -> None:
        """A suspect is alone now: if its process dies, it is to blame."""
        with translated_redis_errors(self._settings):
            self._redis.delete(self._verdicts + job_id)

    def clear(self, job_id: str) -> None:
        """The job has come to its end."""
        with translated_redis_errors(self._settings):
            self._redis.delete(self._deaths + job_id, self._verdicts + job_id)
