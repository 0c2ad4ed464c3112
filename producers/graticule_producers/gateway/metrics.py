"""Figures for Prometheus."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, Counter, Gauge, Histogram, generate_latest

MEDIA_TYPE = CONTENT_TYPE_LATEST

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_requests = Counter("graticule_gateway_requests", "Requests answered.", ["route", "method", "status"])
_seconds = Histogram("graticule_gateway_request_seconds", "Seconds to answer.", ["route"], buckets=_BUCKETS)
_uploaded = Counter("graticule_gateway_uploaded_bytes", "Bytes of pictures received.")
_listeners = Gauge("graticule_gateway_listeners", "Clients that listen to events.")
_waiting = Gauge("graticule_queue_waiting", "Jobs that wait in a queue.", ["queue"])
_ended = Gauge("graticule_jobs_ended", "Jobs that ended since Redis was last empty.", ["status"])
_workers = Gauge("graticule_workers", "Workers that are alive.")


def count_request(route: str, method: str, status: int, seconds: float) -> None:
    """One request was answered."""
    _requests.labels(route, method if method in _METHODS else "other", status).inc()
    _seconds.labels(route).observe(seconds)


def count_upload(size: int) -> None:
    """A picture of `size` bytes came in."""
    _uploaded.inc(size)


def set_listeners(number: int) -> None:
    """So many clients listen to events now."""
    _listeners.set(number)


def exposition(queues: dict[str, int], ended: dict[str, int], workers: int) -> bytes:
    """All figures as text."""
    for queue, waiting in queues.items():
        _waiting.labels(queue).set(waiting)
    for status, number in ended.items():
        _ended.labels(status).set(number)
    _workers.set(workers)
    return generate_latest(REGISTRY)
