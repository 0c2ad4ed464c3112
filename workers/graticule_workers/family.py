"""A worker of several processes: one engine, some task processes, and the parent that looks after them."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from graticule.errors import SettingsError
from graticule.jobs import Lane
from graticule.settings import Settings

log = logging.getLogger(__name__)

_LOOK_EVERY = 0.1
_FIRST_PAUSE, _LONGEST_PAUSE, _STEADY_AFTER = 0.2, 10.0, 30.0
_STDIN = 0


def follow_parent() -> None:
    """End this process in order when its parent is gone: the parent holds the other end of the standard input."""

    def wait() -> None:
        while os.read(_STDIN, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="parent", daemon=True).start()


class Family:
    """Starts the processes, starts again what dies, stops them in order."""

    def __init__(
        self, settings: Settings, processes: int, *, models: Sequence[str] = (), lanes: Sequence[Lane] = tuple(Lane)
    ) -> None:
        """Raises SettingsError where the system has no Unix sockets."""
        if sys.platform == "win32":
            raise SettingsError(
                "Several task processes share one engine through a Unix socket, which Windows does not have.",
                advice="Start graticule worker without --processes, once for each process.",
            )
        self._settings = settings
        self._folder = Path(tempfile.mkdtemp(prefix="graticule-worker-"))
        socket = str(self._folder / "engine.sock")
        chosen = [f"--model={model}" for model in models] + [f"--lane={lane.value}" for lane in lanes]
        task = [sys.executable, "-m", "graticule_workers.task_process", socket, *chosen]
        engine = [sys.executable, "-m", "graticule_workers.engine_process", socket]
        environment = {**os.environ, **settings.to_env(), **self._metrics_environment()}
        self._engine = _Member("engine", engine, environment)
        self._tasks = [_Member(f"task process {index + 1}", task, environment) for index in range(processes)]
        self._asked = 0

    def run(self) -> int:
        """Keep the processes alive until SIGTERM or SIGINT; the exit code. A second signal ends them at once."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask_to_stop)
        self._serve_metrics()
        try:
            while not self._asked:
                for member in (self._engine, *self._tasks):
                    member.keep_alive(self._forget_metrics)
                time.sleep(_LOOK_EVERY)
            self._stop(self._tasks)
            self._stop([self._engine])
        finally:
            for member in (*self._tasks, self._engine):
                member.kill()
            shutil.rmtree(self._folder, ignore_errors=True)
        return 0

    def _ask_to_stop(self, *_: object) -> None:
        self._asked += 1

    def _stop(self, members: Sequence[_Member]) -> None:
        for member in members:
            member.terminate()
        while self._asked < 2 and any(member.alive for member in members):
            time.sleep(_LOOK_EVERY)

    def _metrics_environment(self) -> dict[str, str]:
        """The processes write their figures into files; this one adds them up for Prometheus."""
        folder = self._folder / "metrics"
        folder.mkdir()
        return {"PROMETHEUS_MULTIPROC_DIR": str(folder), "GRATICULE_METRICS_PORT": "0"}

    def _forget_metrics(self, pid: int) -> None:
        """What a process that died held is held no more; what it counted stays."""
        if self._settings.metrics_port:
            from prometheus_client.multiprocess import mark_process_dead

            mark_process_dead(pid, str(self._folder / "metrics"))

    def _serve_metrics(self) -> None:
        if not self._settings.metrics_port:
            return
        from prometheus_client import CollectorRegistry, start_http_server
        from prometheus_client.multiprocess import MultiProcessCollector

        registry = CollectorRegistry()
        MultiProcessCollector(registry, str(self._folder / "metrics"))
        start_http_server(self._settings.metrics_port, self._settings.metrics_host, registry)


class _Member:
    """One process of the family."""

    def __init__(self, name: str, command: Sequence[str], environment: dict[str, str]) -> None:
        self._name = name
        self._command = command
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._pause = _FIRST_PAUSE
        self._next_start: float | None = 0.0

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def keep_alive(self, died: Callable[[int], None]) -> None:
        """Start the process, or start it again a while after it died, which is told with its process id."""
        if self.alive:
            return
        now = time.monotonic()
        if self._next_start is None:
            if now - self._started > _STEADY_AFTER:
                self._pause = _FIRST_PAUSE
            self._next_start = now + self._pause
            self._pause = min(_LONGEST_PAUSE, 2 * self._pause)
            assert self._process is not None, "it was started once"
            log.error(
                "%s died (exit code %s); starting it again in %.1f s",
                self._name,
                self._process.returncode,
                self._next_start - now,
            )
            died(self._process.pid)
        if now >= self._next_start:
            self._start()

    def terminate(self) -> None:
        """Ask the process to end in order."""
        if self._process is not None and self.alive:
            self._process.terminate()

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _start(self) -> None:
        self._process = subprocess.Popen(self._command, env=self._environment, stdin=subprocess.PIPE)
        self._started, self._next_start = time.monotonic(), None
