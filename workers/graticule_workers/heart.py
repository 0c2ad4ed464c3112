"""The heart: every two seconds a worker renews its leases, tells how it is, and looks whether it really consumes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import redis

from graticule.broker import translated_redis_errors
from graticule.errors import BrokerUnavailable
from graticule.settings import Settings
from graticule.workers_index import WorkersIndex, WorkerStatus
from graticule_workers.health import Pulse
from graticule_workers.leases import Leases
from graticule_workers.metrics import Metrics

log = logging.getLogger(__name__)

HEARTBEAT = 2.0
"""Seconds between two beats; three fit into the shortest visibility timeout."""
_PATIENCE = 30.0
"""Seconds for which a worker may be ill before it is replaced."""


class Heart:
    """A thread of its own: nothing else that the worker does may delay the leases."""

    def __init__(
        self,
        settings: Settings,
        client: redis.Redis,
        *,
        leases: Leases,
        pulse: Pulse,
        metrics: Metrics,
        queues: Callable[[], list[str]],
        describe: Callable[[str], WorkerStatus],
        replace: Callable[[str], None],
    ) -> None:
        """`describe` makes the status to announce from a state; `replace` replaces the process, with a reason."""
        self._settings = settings
        self._redis = client
        self._index = WorkersIndex(settings, client)
        self._leases = leases
        self._pulse = pulse
        self._metrics = metrics
        self._queues = queues
        self._describe = describe
        self._replace = replace
        self._stopping = threading.Event()
        self._ill_since: float | None = None

    def start(self) -> None:
        """Begin to beat."""
        threading.Thread(target=self._beat_on, name="heart", daemon=True).start()

    def stop(self) -> None:
        """Beat no more."""
        self._stopping.set()

    def _beat_on(self) -> None:
        while not self._stopping.is_set():
            try:
                self._beat()
            except BrokerUnavailable as error:
                self._pulse.looked(reachable=False)
                log.warning("%s", error)
            except Exception:
                log.exception("a heartbeat failed")
            self._stopping.wait(HEARTBEAT)

    def _beat(self) -> None:
        self._leases.renew()
        depths = self._depths()
        free = self._settings.worker_threads - len(self._leases.jobs())
        self._pulse.looked(reachable=True, waiting=sum(depths.values()), free_threads=free)
        self._metrics.waiting(depths)
        complaint = self._pulse.complaint()
        self._index.announce(self._describe("stalled" if complaint else "ready"))
        self._replace_when_ill(complaint)

    def _replace_when_ill(self, complaint: str) -> None:
        now = time.monotonic()
        if not complaint:
            self._ill_since = None
            return
        if self._ill_since is None:
            self._ill_since = now
            log.error("%s", complaint)
        if now - self._ill_since > _PATIENCE:
            self._replace(complaint)

    def _depths(self) -> dict[str, int]:
        queues = self._queues()
        with translated_redis_errors(self._settings):
            pipe = self._redis.pipeline(transaction=False)
            for queue in queues:
                pipe.llen(self._settings.key_prefix + queue)
            return dict(zip(queues, pipe.execute(), strict=True))
