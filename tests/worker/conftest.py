"""Real worker processes for tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from graticule.client import Client
from graticule.registry import Registry
from graticule.settings import Settings
from graticule.store import Store
from graticule.workers_index import WorkersIndex
from tests.models import write_brightness_model


def wait_until(condition: Callable[[], object], timeout: float = 30, what: str = "") -> object:
    """Poll until `condition` gives something true."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {timeout} s: {what or condition}")


class WorkerProcess:
    """`graticule worker` as a child process."""

    def __init__(self, settings: Settings, log: Path, *options: str) -> None:
        self.settings = settings
        self.log = log
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "graticule", "worker", *self.options],
                env={**os.environ, **self.settings.to_env()},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        index, pid = WorkersIndex(self.settings), self.process.pid
        wait_until(lambda: not self.alive or pid in {w.supervisor for w in index.alive()}, 60, "the worker is ready")
        assert self.alive, self.output

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self, timeout: float = 30) -> int:
        """SIGTERM, and wait for an orderly end."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)


@pytest.fixture
def brightness(settings: Settings, tmp_path: Path) -> Settings:
    """A cluster in which the brightness model is published."""
    Registry(Store(settings)).publish(write_brightness_model(tmp_path / "model") and tmp_path / "model")
    return settings


@pytest.fixture
def idle_worker(brightness: Settings, tmp_path: Path) -> Iterator[WorkerProcess]:
    """A worker for the brightness model that has yet to be started."""
    made = WorkerProcess(brightness, tmp_path / "worker.log")
    yield made
    made.kill()


@pytest.fixture
def worker(idle_worker: WorkerProcess) -> WorkerProcess:
    """A worker that serves the brightness model."""
    idle_worker.start()
    return idle_worker


@pytest.fixture
def client(brightness: Settings) -> Client:
    return Client(brightness)
