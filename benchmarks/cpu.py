"""CPU time of processes and of all that they started."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

ENGINE_THREADS = ("engine",)
"""How the names of the threads begin that run models."""


def tree(pid: int) -> list[psutil.Process]:
    """A process and everything below it; empty when it is gone."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and of everything below it, children that ended included."""
    return sum(_seconds(process) for process in tree(pid))


def engine_seconds(pid: int) -> float:
    """The part of `cpu_seconds` that threads used which run models. Linux only."""
    return sum(
        seconds for process in tree(pid) for name, seconds in _threads(process) if name.startswith(ENGINE_THREADS)
    )


class CpuMeter:
    """CPU time of named processes since the meter was made."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        """`pids`: name -> process; everything below a process belongs to it."""
        self._pids = dict(pids)
        self._before = self._read()

    def seconds(self) -> dict[str, float]:
        """Seconds of each process."""
        now = self._read()
        return {name: now[name] - before for name, before in self._before.items()}

    def _read(self) -> dict[str, float]:
        return {name: cpu_seconds(pid) for name, pid in self._pids.items()}


def _seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return times.user + times.system + times.children_user + times.children_system


def _threads(process: psutil.Process) -> Iterator[tuple[str, float]]:
    """(name, CPU seconds) of each thread."""
    try:
        threads = process.threads()
    except psutil.NoSuchProcess:
        return
    for thread in threads:
        try:
            name = Path(f"/proc/{process.pid}/task/{thread.id}/comm").read_text().strip()
        except OSError:
            continue
        yield name, thread.user_time + thread.system_time
