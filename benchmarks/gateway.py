"""What the gateway costs beyond the cluster, and what it withstands."""

from __future__ import annotations

import http.client
import itertools
import json
import logging
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from benchmarks.figures import Figure, figure, percentile
from benchmarks.models import TILE, prepare_models
from benchmarks.pictures import tiles
from benchmarks.processes import servers, worker
from graticule.client import Client
from graticule.errors import ClusterError
from graticule.local.ports import choose_ports
from graticule.registry import Registry
from graticule.settings import Settings

log = logging.getLogger("benchmarks")

CROWD = 32
TWO_GIB = 2 * 1024**3

_WARM_UP = 10
_READY_WITHIN = 60.0


def measure(place: Path, *, rounds: int, pictures: int, seconds: float, listeners: int) -> list[Figure]:
    """Overhead at one client, a refused upload, idle listeners, a crowd of clients for `seconds`."""
    model = prepare_models(place / "models")[TILE]
    with servers(place / "cluster") as settings:
        Registry(Client(settings).store).publish(model.folder)
        with worker(settings, model.name), running_gateway(settings) as gateway:
            return [
                *_overhead(settings, gateway, rounds, pictures),
                *_refusal(gateway),
                *_listeners(gateway, listeners),
                *_crowd(gateway, seconds),
            ]


class Gateway:
    """A gateway process and where it answers."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = psutil.Process(process.pid)
        self.port = port

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)

    @property
    def megabytes(self) -> float:
        return self.process.memory_info().rss / 1e6


@contextmanager
def running_gateway(settings: Settings) -> Iterator[Gateway]:
    """A gateway of a cluster that is ready."""
    port = choose_ports(("gateway",), {})["gateway"]
    environment = {**os.environ, **settings.to_env(), "GRATICULE_GATEWAY_PORT": str(port)}
    command = [sys.executable, "-m", "graticule", "gateway", "--log-level", "warning"]
    process = subprocess.Popen(command, env=environment)
    try:
        gateway = Gateway(process, port)
        _wait_until_ready(gateway)
        yield gateway
    finally:
        process.terminate()
        process.wait()


def _overhead(settings: Settings, gateway: Gateway, rounds: int, pictures: int) -> list[Figure]:
    """One client sends each picture both ways, in turn, and waits for the result, which both hear of by an event.

    The ways change places from picture to picture. Overhead: the median of the differences of each picture's two times,
    the model's own time taken off both.
    """
    client, connection = Client(settings), gateway.connect()
    numbers = itertools.count(1)
    drawn = tiles(pictures, first=50_000)

    def both(picture: bytes, *, gateway_first: bool) -> tuple[float, float]:
        ways = [
            lambda: _through(connection, _unseen(picture, next(numbers))),
            lambda: _straight(client, _unseen(picture, next(numbers))),
        ]
        if gateway_first:
            return ways[0](), ways[1]()
        straight = ways[1]()
        return ways[0](), straight

    for picture in drawn[:_WARM_UP]:
        both(picture, gateway_first=True)
    through, straight, beyond = [], [], []
    for _ in range(rounds):
        times = [both(picture, gateway_first=bool(index % 2)) for index, picture in enumerate(drawn)]
        through.append(1000 * statistics.median(one for one, _ in times))
        straight.append(1000 * statistics.median(other for _, other in times))
        beyond.append(1000 * statistics.median(one - other for one, other in times))
    group = "gateway, one client, inference taken off"
    return [
        figure(group, "through the gateway, p50", "ms", through),
        figure(group, "Python client, p50", "ms", straight),
        figure(group, "overhead, p50", "ms", beyond, "<= 15"),
    ]


def _unseen(picture: bytes, number: int) -> bytes:
    """The same pixels in another file, which is another job: what follows the end of a PNG is not looked at."""
    return picture + number.to_bytes(8, "big")


def _through(connection: http.client.HTTPConnection, picture: bytes) -> float:
    began = time.perf_counter()
    (job,) = json.loads(_measure(connection, picture))["jobs"]
    return time.perf_counter() - began - job["result"]["timings"]["infer"]


def _straight(client: Client, picture: bytes) -> float:
    began = time.perf_counter()
    result = client.submit(picture, TILE, filename="tile.png").result()
    return time.perf_counter() - began - result.timings.infer


def _crowd(gateway: Gateway, seconds: float) -> list[Figure]:
    """Many clients at once for a while: answers, errors, latency, memory."""
    drawn, numbers = tiles(64, first=100_000), itertools.count(1)
    times, errors = list[float](), list[str]()
    until = time.monotonic() + seconds

    def client() -> None:
        connection = gateway.connect()
        while time.monotonic() < until:
            number = next(numbers)
            picture = _unseen(drawn[number % len(drawn)], number)
            try:
                times.append(_timed(lambda: _measure(connection, picture)))  # noqa: B023 (called at once)
            except (ClusterError, OSError, http.client.HTTPException) as error:
                errors.append(repr(error))
                connection = gateway.connect()

    threads = [threading.Thread(target=client) for _ in range(CROWD)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in errors[:3]:
        log.warning("%s", error)
    if not times:
        raise ClusterError(f"Not one of {CROWD} clients got an answer: {errors[:1]}")
    group = f"gateway, {CROWD} clients for {seconds:g} s"
    milliseconds = [1000 * one for one in times]
    return [
        figure(group, "errors", "", [len(errors)], "0"),
        figure(group, "speed", "images/s", [len(times) / seconds]),
        figure(group, "p50", "ms", [percentile(milliseconds, 50)]),
        figure(group, "p99", "ms", [percentile(milliseconds, 99)]),
        figure(group, "memory of the gateway", "MB", [gateway.megabytes]),
    ]


def _refusal(gateway: Gateway) -> list[Figure]:
    """An upload of 2 GiB: refused by the length that it tells, and at the limit when it tells none."""
    before = gateway.megabytes
    told = _timed(lambda: _refused(gateway, f"Content-Length: {TWO_GIB}", b""))
    chunk = b"100000\r\n" + bytes(1024**2) + b"\r\n"
    untold = _timed(lambda: _refused(gateway, "Transfer-Encoding: chunked", chunk))
    group = "gateway, upload of 2 GiB"
    return [
        figure(group, "refused by its length", "s", [told], "<= 1"),
        figure(group, "without a length, refused at the limit", "s", [untold]),
        figure(group, "memory grown by it", "MB", [gateway.megabytes - before], "flat"),
    ]


def _listeners(gateway: Gateway, count: int) -> list[Figure]:
    """Idle clients that listen to events: memory of each, and seconds until all of them are told of a job."""
    before, idle = gateway.megabytes, [_listener(gateway) for _ in range(count)]
    grown = gateway.megabytes - before
    _measure(gateway.connect(), _unseen(tiles(1, first=90_000)[0], 0))
    waited = _timed(lambda: [_until(listener, b"event: job") for listener in idle])
    for listener in idle:
        listener.close()
    group = f"gateway, {count:,} idle listeners"
    return [
        figure(group, "memory of each", "kB", [1000 * grown / count]),
        figure(group, "all told after the answer", "s", [waited]),
    ]


def _listener(gateway: Gateway) -> socket.socket:
    listener = socket.create_connection(("127.0.0.1", gateway.port), timeout=30)
    listener.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    _until(listener, b"retry: 2000")
    return listener


def _until(listener: socket.socket, wanted: bytes) -> None:
    received = b""
    while wanted not in received:
        part = listener.recv(65536)
        if not part:
            raise ClusterError("The gateway closed a connection.")
        received += part


def _refused(gateway: Gateway, length: str, chunk: bytes) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=60) as client:
        path = f"/api/v1/jobs?model={TILE}&filename=large.tif"
        client.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n\r\n".encode())
        try:
            while chunk:
                client.sendall(chunk)
        except OSError:  # the gateway has answered and closed
            return
        if not client.recv(100).startswith(b"HTTP/1.1 413"):
            raise ClusterError("The gateway did not refuse an upload of 2 GiB.")


def _measure(connection: http.client.HTTPConnection, picture: bytes) -> bytes:
    path = f"/api/v1/jobs?model={TILE}&filename=tile.png&wait=60"
    connection.request("POST", path, picture, {"Content-Type": "image/png"})
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != 200 or b'"status":"succeeded"' not in body:
        raise ClusterError(f"The gateway answered {answer.status}: {body[:500]!r}")
    return body


def _timed(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def _wait_until_ready(gateway: Gateway) -> None:
    deadline = time.monotonic() + _READY_WITHIN
    while time.monotonic() < deadline:
        try:
            connection = gateway.connect()
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.1)
    raise ClusterError(f"The gateway did not answer within {_READY_WITHIN:g} s.")
