"""The services that are compared: each starts its processes, is asked, and ends them."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import redis

from benchmarks.machine import ROOT
from benchmarks.models import BenchModel
from benchmarks.peers.load import FORM_HEADERS, form
from benchmarks.peers.plain import MODEL_FOLDER, REDIS_URL
from benchmarks.processes import WORKER, running, server_pids, servers, worker
from graticule.client import Client
from graticule.local import binaries
from graticule.local.child import Part
from graticule.local.ports import choose_ports
from graticule.registry import Registry
from graticule.settings import Settings
from graticule_workers.engine.session import usable_cores

GRATICULE, FASTAPI, QUEUE = "graticule", "FastAPI", "FastAPI + Celery"
LITSERVE, LITSERVE_WORKERS = "LitServe", "LitServe, a worker a core"


@dataclass(frozen=True)
class Service:
    """A service that answers."""

    target: tuple[str, ...]
    """Arguments of the load client."""
    count: Callable[[bytes], int]
    """Number of objects that it finds in a picture."""
    pids: Mapping[str, int]
    """All of its processes."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What the load client needs to know beside."""


Start = Callable[[Path, BenchModel], AbstractContextManager[Service]]
"""Start a service whose files lie in a folder that does not exist yet, for a model."""


@contextlib.contextmanager
def _graticule(place: Path, model: BenchModel) -> Iterator[Service]:
    with servers(place) as settings:
        Registry(Client(settings).store).publish(model.folder)
        with worker(settings, model.name) as pid:
            yield Service(
                target=("--model", model.name),
                count=lambda picture: _count_by_cluster(settings, model.name, picture),
                pids={WORKER: pid, **server_pids(settings)},
                environment=settings.to_env(),
            )


@contextlib.contextmanager
def _fastapi(place: Path, model: BenchModel) -> Iterator[Service]:
    port = _port()
    part = _uvicorn("benchmarks.peers.fastapi_endpoint:app", port, {MODEL_FOLDER: str(model.folder)})
    with running([part], place) as pids:
        yield _http_service(port, pids)


@contextlib.contextmanager
def _litserve(place: Path, model: BenchModel, *, workers: int = 1) -> Iterator[Service]:
    port = _port()
    part = Part(
        name="litserve",
        command=[sys.executable, "-m", "benchmarks.peers.litserve_batches", str(port), str(workers)],
        environment={MODEL_FOLDER: str(model.folder)},
        is_ready=lambda _: _answers(port),
        folder=ROOT,
    )
    with running([part], place) as pids:
        yield _http_service(port, pids)


@contextlib.contextmanager
def _queue(place: Path, model: BenchModel) -> Iterator[Service]:
    """With a Redis of its own, as fast as Redis is: without a file."""
    port, redis_port = _port(), _port()
    url = f"redis://127.0.0.1:{redis_port}/0"
    environment = {MODEL_FOLDER: str(model.folder), REDIS_URL: url}
    broker = Part(
        name="redis",
        command=[
            str(binaries.redis_server()),
            *("--bind", "127.0.0.1", "--port", str(redis_port), "--save", "", "--appendonly", "no"),
        ],
        is_ready=lambda _: _redis_answers(url),
    )
    tasks = Part(
        name="celery",
        command=[
            *(sys.executable, "-m", "celery", "-A", "benchmarks.peers.celery_queue:tasks", "worker"),
            *("--concurrency", str(usable_cores()), "--loglevel", "warning"),
        ],
        environment={**environment, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        folder=ROOT,
    )
    api = _uvicorn("benchmarks.peers.celery_queue:app", port, environment)
    with running([broker, tasks, api], place) as pids:
        yield _http_service(port, pids)


SERVICES: dict[str, Start] = {
    GRATICULE: _graticule,
    FASTAPI: _fastapi,
    LITSERVE: _litserve,
    LITSERVE_WORKERS: partial(_litserve, workers=usable_cores()),
    QUEUE: _queue,
}


def _uvicorn(app: str, port: int, environment: Mapping[str, str]) -> Part:
    return Part(
        name="uvicorn",
        command=[
            *(sys.executable, "-m", "uvicorn", app, "--host", "127.0.0.1", "--port", str(port)),
            *("--log-level", "warning", "--no-access-log"),
        ],
        environment=environment,
        is_ready=lambda _: _answers(port),
        folder=ROOT,
    )


def _http_service(port: int, pids: Mapping[str, int]) -> Service:
    url = f"http://127.0.0.1:{port}/predict"
    return Service(target=("--url", url), count=lambda picture: _count_by_http(url, picture), pids=pids)


def _count_by_http(url: str, picture: bytes) -> int:
    request = urllib.request.Request(url, form(picture), FORM_HEADERS)
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)["count"]


def _count_by_cluster(settings: Settings, model: str, picture: bytes) -> int:
    return Client(settings).submit(picture, model, filename="picture.png").result().segmentation.count


def _port() -> int:
    return choose_ports(["any"], {})["any"]


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            return answer.status == 200
    except (OSError, urllib.error.URLError):
        return False


def _redis_answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False
