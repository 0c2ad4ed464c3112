"""The doorbell: Celery on Redis. A message only says that a job waits; the record is in the object store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from celery import Celery
from kombu.exceptions import OperationalError
from kombu.utils.scheduling import priority_cycle

from graticule.errors import BrokerUnavailable
from graticule.jobs import Job, Lane
from graticule.settings import Settings

ANALYSE_TASK = "graticule.analyse"

_SEND_POLICY = {"max_retries": 3, "interval_start": 0.1, "interval_step": 0.3, "interval_max": 1.0}


class LaneCycle(priority_cycle):
    """Order in which a worker looks into its queues: every interactive lane before any bulk lane, models in turn."""

    def consume(self, n: int) -> list[str]:
        """The queues, most urgent first."""
        return sorted(self.items[:n], key=lambda queue: not queue.endswith(Lane.INTERACTIVE.value))

    def rotate(self, last_used: str) -> None:
        """Put the queue that was just served behind the others of its lane."""
        if last_used in self.items:
            self.items.remove(last_used)
            self.items.append(last_used)


def make_celery(settings: Settings) -> Celery:
    """The Celery application that producers ring through and workers run. JSON only; no result backend."""
    app = Celery("graticule")
    app.conf.update(
        broker_url=settings.redis_url.get_secret_value(),
        broker_transport_options=transport_options(settings),
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # Celery reads the visibility timeout in more than one place.
        visibility_timeout=settings.visibility_timeout,
        result_backend=None,
        task_ignore_result=True,
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        task_acks_late=True,
        task_create_missing_queues=True,
        worker_prefetch_multiplier=1,
        worker_send_task_events=True,
        worker_hijack_root_logger=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        task_default_queue="graticule.unrouted",
        enable_utc=True,
    )
    return app


def transport_options(settings: Settings) -> dict[str, Any]:
    """How kombu speaks to Redis."""
    return {
        "visibility_timeout": settings.visibility_timeout,
        # Without these two a lost worker's jobs return after 100 s, whatever the visibility timeout.
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
        # A worker killed while it holds this lock would block every return for five minutes.
        "unacked_mutex_expire": max(5, int(settings.visibility_timeout / 2)),
        "queue_order_strategy": "graticule.broker:LaneCycle",
        "global_keyprefix": settings.key_prefix,
        "socket_keepalive": True,
        "socket_connect_timeout": 5,
        "health_check_interval": 10,
    }


class Bell:
    """Rings for jobs. Thread-safe; holds one connection pool."""

    def __init__(self, settings: Settings, app: Celery | None = None) -> None:
        self.url = redacted(settings.redis_url.get_secret_value())
        self._app = app or make_celery(settings)

    def ring(self, job: Job) -> None:
        """Send the message for `job`. Raises BrokerUnavailable; the job's record stays, and a worker will find it."""
        try:
            self._app.send_task(
                ANALYSE_TASK,
                args=(job.model_dump(mode="json"),),
                task_id=job.job_id,
                queue=job.queue,
                argsrepr="",  # a second copy of the job in every message otherwise
                kwargsrepr="",
                retry=True,
                retry_policy=_SEND_POLICY,
            )
        except (OperationalError, redis.RedisError, OSError) as error:
            raise BrokerUnavailable(
                f"Redis at {self.url} does not answer ({error}).",
                data="The job is recorded in the object store and will be found.",
            ) from error


def connect_redis(settings: Settings) -> redis.Redis:
    """A client for graticule's own keys; every key must begin with `settings.key_prefix`."""
    return redis.Redis.from_url(
        settings.redis_url.get_secret_value(),
        decode_responses=True,
        socket_connect_timeout=5,
        socket_timeout=30,
        health_check_interval=10,
    )


@contextmanager
def translated_redis_errors(settings: Settings) -> Iterator[None]:
    """Turn errors of the redis client into BrokerUnavailable."""
    try:
        yield
    except (redis.RedisError, OSError) as error:
        url = redacted(settings.redis_url.get_secret_value())
        raise BrokerUnavailable(f"Redis at {url} does not answer ({error}).") from error


def redacted(url: str) -> str:
    """A Redis URL without its password."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
