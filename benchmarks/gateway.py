"""`python -m benchmarks.gateway`: what the gateway costs beyond the cluster, and what it withstands."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.pictures import tiles
from graticule.client import Client
from graticule.local.cluster import EmbeddedCluster
from graticule.local.ports import choose_ports
from graticule.settings import Settings, load_settings

MODEL = "tile-defects"
PICTURES = 100
CROWD = 32
CROWD_SECONDS = 60
LISTENERS = 1000
TWO_GIB = 2 * 1024**3


def main() -> None:
    """Start a cluster and a gateway of its own, measure, tell."""
    with tempfile.TemporaryDirectory() as folder:
        embedded = EmbeddedCluster(load_settings(data_dir=Path(folder)), flower=False)
        with embedded as settings, running_gateway(settings) as gateway:
            figures = {**overhead(settings, gateway), **refusal(gateway), **listeners(gateway), **crowd(gateway)}
    table = Table("Figure", "Value", title=f"Gateway, {len(os.sched_getaffinity(0))} cores")
    for name, value in figures.items():
        table.add_row(name, f"{value:.4g}")
    Console().print(table)


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


def overhead(settings: Settings, gateway: Gateway) -> dict[str, float]:
    """One client: pictures in turn through the gateway and straight into the cluster, less the model's time, ms."""
    client, connection = Client(settings), gateway.connect()
    pictures = iter(tiles(2 * PICTURES, first=50_000))
    through, straight = [], []
    for _ in range(PICTURES):
        began = time.perf_counter()
        (job,) = json.loads(_measure(connection, next(pictures)))["jobs"]
        through.append(time.perf_counter() - began - job["result"]["timings"]["infer"])
        began = time.perf_counter()
        result = client.submit(next(pictures), MODEL).result()
        straight.append(time.perf_counter() - began - result.timings.infer)
    middle = statistics.median(through), statistics.median(straight)
    return {
        "through the gateway, less inference, p50 (ms)": 1000 * middle[0],
        "straight into the cluster, less inference, p50 (ms)": 1000 * middle[1],
        "overhead, p50 (ms)": 1000 * (middle[0] - middle[1]),
    }


def crowd(gateway: Gateway) -> dict[str, float]:
    """Many clients at once for a while: answers, errors, latency, memory."""
    until, times, errors = time.monotonic() + CROWD_SECONDS, list[float](), list[str]()
    drawn, numbers = tiles(200, first=100_000), itertools.count()

    def client() -> None:
        connection = gateway.connect()
        while time.monotonic() < until:
            number = next(numbers)
            # What follows the end of a PNG is not looked at: another file, the same work.
            picture = drawn[number % len(drawn)] + str(number).encode()
            try:
                times.append(_timed(lambda: _measure(connection, picture)))  # noqa: B023 (called at once)
            except (AssertionError, OSError, http.client.HTTPException) as error:
                errors.append(repr(error))
                connection = gateway.connect()

    threads = [threading.Thread(target=client) for _ in range(CROWD)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in errors[:3]:
        Console(stderr=True).print(error, style="red", markup=False)
    return {
        f"{CROWD} clients: errors": float(len(errors)),
        f"{CROWD} clients: images/s": len(times) / CROWD_SECONDS,
        f"{CROWD} clients: p50 (ms)": 1000 * statistics.median(times),
        f"{CROWD} clients: p99 (ms)": 1000 * statistics.quantiles(times, n=100)[98],
        f"{CROWD} clients: gateway memory (MB)": gateway.megabytes,
    }


def refusal(gateway: Gateway) -> dict[str, float]:
    """A body over the limit: told so by its length, and without a length; seconds, and memory grown."""
    before = gateway.megabytes
    told = _timed(lambda: _refused(gateway, f"Content-Length: {TWO_GIB}", b""))
    chunk = b"100000\r\n" + bytes(1024**2) + b"\r\n"
    untold = _timed(lambda: _refused(gateway, "Transfer-Encoding: chunked", chunk))
    return {
        "2 GiB refused by its length (s)": told,
        "endless body refused at the limit (s)": untold,
        "memory grown by it (MB)": gateway.megabytes - before,
    }


def listeners(gateway: Gateway) -> dict[str, float]:
    """Idle clients that listen to events: memory of each, and seconds until all of them are told of a job."""
    before, idle = gateway.megabytes, [_listener(gateway) for _ in range(LISTENERS)]
    grown = gateway.megabytes - before
    connection = gateway.connect()
    _measure(connection, tiles(1, first=90_000)[0])
    waited = _timed(lambda: [_until(listener, b"event: job") for listener in idle])
    for listener in idle:
        listener.close()
    return {
        f"{LISTENERS} listeners: memory of each (kB)": 1000 * grown / LISTENERS,
        f"{LISTENERS} listeners: all told after the answer (s)": waited,
    }


def _listener(gateway: Gateway) -> socket.socket:
    listener = socket.create_connection(("127.0.0.1", gateway.port), timeout=30)
    listener.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    _until(listener, b"retry: 2000")
    return listener


def _until(listener: socket.socket, wanted: bytes) -> None:
    received = b""
    while wanted not in received:
        part = listener.recv(65536)
        assert part, "the connection was closed"
        received += part


def _refused(gateway: Gateway, length: str, chunk: bytes) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=60) as client:
        path = f"/api/v1/jobs?model={MODEL}&filename=large.tif"
        client.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n\r\n".encode())
        try:
            while chunk:
                client.sendall(chunk)
        except OSError:  # the gateway has answered and closed
            return
        assert client.recv(100).startswith(b"HTTP/1.1 413")


def _measure(connection: http.client.HTTPConnection, picture: bytes) -> bytes:
    path = f"/api/v1/jobs?model={MODEL}&filename=tile.png&wait=60"
    connection.request("POST", path, picture, {"Content-Type": "image/png"})
    answer = connection.getresponse()
    body = answer.read()
    assert answer.status == 200, body
    assert b'"status":"succeeded"' in body
    return body


def _timed(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def _wait_until_ready(gateway: Gateway) -> None:
    while True:
        try:
            connection = gateway.connect()
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.1)


if __name__ == "__main__":
    main()
