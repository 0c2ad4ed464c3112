"""Processes for the time of a measurement: started, waited for, held still, ended."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from benchmarks.cpu import tree
from benchmarks.machine import ROOT
from graticule.local.child import Child, Part, Reaper
from graticule.local.cluster import EmbeddedCluster, running_cluster
from graticule.settings import Settings, load_settings
from graticule.workers_index import WorkersIndex

WORKER = "worker"
_READY_WITHIN = 120.0
"""Seconds that a process may take to answer."""


@contextlib.contextmanager
def running(parts: Sequence[Part], logs: Path) -> Iterator[dict[str, int]]:
    """Start each part when the one before it answers; their process ids by name. They end in the opposite order.

    Raises ClusterError with the end of its log when a part does not answer.
    """
    logs.mkdir(parents=True, exist_ok=True)
    reaper = Reaper()
    started: list[Child] = []
    try:
        for part in parts:
            child = Child(part, logs / f"{part.name}.log", reaper)
            started.append(child)
            child.start()
            child.wait_until_ready(_READY_WITHIN)
        yield {child.part.name: child.pid or 0 for child in started}
    finally:
        for child in reversed(started):
            child.stop()
        reaper.close()


@contextlib.contextmanager
def servers(folder: Path) -> Iterator[Settings]:
    """Redis and the S3 server of an embedded cluster, without a worker."""
    with EmbeddedCluster(load_settings(data_dir=folder), worker=False, flower=False) as settings:
        yield settings


def server_pids(settings: Settings) -> dict[str, int]:
    """Process ids of Redis and of the S3 server by name."""
    info = running_cluster(settings)
    assert info is not None
    return {name: part["pid"] for name, part in info.parts.items()}


@contextlib.contextmanager
def worker(settings: Settings, model: str, *, processes: int = 1) -> Iterator[int]:
    """A worker for one model that is ready; its process id."""
    with running([worker_part(settings, model, processes=processes)], settings.data_dir / "logs") as pids:
        yield pids[WORKER]


def worker_part(settings: Settings, model: str, *, processes: int = 1) -> Part:
    """`graticule worker` for one model."""
    return Part(
        name=WORKER,
        command=[*graticule("worker"), "--model", model, *(["--processes", str(processes)] if processes > 1 else [])],
        environment=settings.to_env(),
        is_ready=lambda pid: _serves(pid, settings),
        grace=20.0,
        folder=ROOT,
    )


def graticule(*arguments: str) -> list[str]:
    """The command line of a `graticule` command."""
    return [sys.executable, "-m", "graticule", *arguments]


@contextlib.contextmanager
def held(pid: int) -> Iterator[None]:
    """Stop a process and everything below it for a while, so that nothing of it disturbs or begins early."""
    stopped: list[psutil.Process] = []
    try:
        # From the top: who watches over others must not see them stand still.
        for process in tree(pid):
            process.suspend()
            stopped.append(process)
        while any(process.status() != psutil.STATUS_STOPPED for process in stopped):
            time.sleep(0.001)
        yield
    finally:
        for process in reversed(stopped):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


def _serves(pid: int, settings: Settings) -> bool:
    pids = {process.pid for process in tree(pid)}
    return any(status.process in pids for status in WorkersIndex(settings).alive())
