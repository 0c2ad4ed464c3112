"""graticule beside what a user would pick instead: pictures a second, latency and CPU at several numbers of clients.

Every service does the same work on the same pictures, one service runs at a time, and in each round the order moves
on by one. Services start fresh in every round and are warmed up before each measurement.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bare import BarePipeline
from benchmarks.cpu import CpuMeter
from benchmarks.figures import Figure, figure, percentile, ratio
from benchmarks.machine import ROOT
from benchmarks.models import TILE, prepare_models
from benchmarks.peers.services import FASTAPI, GRATICULE, SERVICES, Service
from benchmarks.pictures import tiles
from graticule.errors import ClusterError, MissingPart

log = logging.getLogger(__name__)

CLIENTS = (1, 8, 32)
_DISTINCT = 50
"""Pictures that differ; they repeat."""
_COMPARED = 3
"""Pictures for which all services must find the same number of objects."""
_WARM_UP_SHARE = 0.25
"""Length of the warm-up as a share of the measurement."""
_GOALS = {FASTAPI: ">= 0.9"}
_GOAL, _GOAL_FROM = "> 1", 8
"""For every other service, from so many clients on."""


def measure(
    place: Path,
    *,
    rounds: int = 5,
    seconds: float = 6.0,
    clients: Sequence[int] = CLIENTS,
    model: str = TILE,
    services: Sequence[str] = tuple(SERVICES),
) -> list[Figure]:
    """Each service at each number of concurrent clients, and graticule's ratio to the others. Raises MissingPart."""
    _check_installed()
    chosen = prepare_models(place / "models")[model]
    pictures = tiles(_DISTINCT, side=chosen.side)
    folder = _write(pictures, place / "pictures")
    counts = BarePipeline.one_wide(chosen).counts(pictures[:_COMPARED])
    seen: dict[tuple[str, int], list[Level]] = defaultdict(list)
    for number in range(rounds):
        first = number % len(services)
        for name in [*services[first:], *services[:first]]:
            log.info("round %d of %d: %s", number + 1, rounds, name)
            with SERVICES[name](place / f"{number}-{name}", chosen) as service:
                _check(name, service, pictures[:_COMPARED], counts)
                for level in clients:
                    seen[name, level].append(_measure_level(service, folder, level, seconds))
    return [one for level in clients for one in _figures(level, {name: seen[name, level] for name in services})]


@dataclass(frozen=True)
class Level:
    """One service at one number of clients in one round."""

    speed: float
    """Pictures a second."""
    p50: float
    """Milliseconds."""
    p99: float
    """Milliseconds."""
    server: dict[str, float]
    """CPU milliseconds a picture of each of its processes."""
    client: float
    """CPU milliseconds a picture of the load client."""


def _check_installed() -> None:
    for package in ("aiohttp", "fastapi", "litserve", "python_multipart", "uvicorn"):
        if importlib.util.find_spec(package) is None:
            raise MissingPart("The comparison with other servers", "bench", package)


def _measure_level(service: Service, pictures: Path, clients: int, seconds: float) -> Level:
    _load(service, pictures, clients, seconds * _WARM_UP_SHARE)
    meter = CpuMeter(service.pids)
    load = _load(service, pictures, clients, seconds)
    used = meter.seconds()
    milliseconds = [1000 * latency for latency in load["latencies"]]
    return Level(
        speed=len(milliseconds) / load["seconds"],
        p50=percentile(milliseconds, 50),
        p99=percentile(milliseconds, 99),
        server={name: 1000 * seconds / load["answered"] for name, seconds in used.items()},
        client=1000 * load["cpu"] / load["answered"],
    )


def _load(service: Service, pictures: Path, clients: int, seconds: float) -> dict:
    command = [sys.executable, "-m", "benchmarks.peers.load", "--pictures", str(pictures)]
    command += ["--clients", str(clients), "--seconds", str(seconds), *service.target]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **service.environment}, stdout=subprocess.PIPE, check=True
    )
    return json.loads(done.stdout)


def _check(name: str, service: Service, pictures: Sequence[bytes], counts: Sequence[int]) -> None:
    """Raise ClusterError unless the service does the same work as the others."""
    found = [service.count(picture) for picture in pictures]
    if found != list(counts):
        raise ClusterError(f"{name} finds {found} objects where the bare pipeline finds {list(counts)}.")


def _write(pictures: Sequence[bytes], folder: Path) -> Path:
    folder.mkdir()
    for index, data in enumerate(pictures):
        (folder / f"{index:03}.png").write_bytes(data)
    return folder


def _figures(clients: int, seen: dict[str, list[Level]]) -> list[Figure]:
    group = f"{clients} client{'s' if clients > 1 else ''}"
    figures = []
    for name, levels in seen.items():
        figures += [
            figure(group, f"{name}: speed", "images/s", [level.speed for level in levels]),
            figure(group, f"{name}: p50", "ms", [level.p50 for level in levels]),
            figure(group, f"{name}: p99", "ms", [level.p99 for level in levels]),
            figure(group, f"{name}: CPU of the server side", "ms/image", [sum(one.server.values()) for one in levels]),
            *_cpu_by_process(group, name, levels),
            figure(group, f"{name}: CPU of the clients", "ms/image", [level.client for level in levels]),
        ]
    ours = [level.speed for level in seen.get(GRATICULE, [])]
    others = {name: [level.speed for level in levels] for name, levels in seen.items() if name != GRATICULE}
    goals = {name: _GOALS.get(name, _GOAL) if clients >= _GOAL_FROM else "" for name in others}
    return figures + [
        ratio(group, f"graticule / {name}", ours, speeds, goals[name]) for name, speeds in others.items() if ours
    ]


def _cpu_by_process(group: str, service: str, levels: list[Level]) -> list[Figure]:
    """Where the service's CPU time goes, for those of several processes."""
    processes = list(levels[0].server)
    if len(processes) == 1:
        return []
    return [
        figure(group, f"{service}: CPU of {process}", "ms/image", [one.server[process] for one in levels])
        for process in processes
    ]
