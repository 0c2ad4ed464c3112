"""A folder that a camera writes into, a watcher that watches it, and a wire to the store that can be cut."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graticule.jobs import Job
from graticule.records import Records
from graticule.registry import Registry
from graticule.settings import Settings
from graticule.store import Store
from graticule_producers.watcher import WatchOptions, WatchSummary, watch
from tests.models import write_brightness_model
from tests.worker.forwarder import Forwarder

MODEL = "brightness"


def wait_until(condition: Callable[[], object], timeout: float = 20, what: str = "") -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s: {what or condition}"
        time.sleep(0.01)


def picture(seed: int, kind: str = "PNG", side: int = 24) -> bytes:
    """The bytes of a small picture; another seed is another picture."""
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


class Camera:
    """Writes into the watched folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, seed: int = 0, kind: str = "PNG") -> Path:
        path = self.folder / name
        path.write_bytes(picture(seed, kind))
        return path

    def write_slowly(self, name: str, data: bytes, chunks: int = 6, pause: float = 0.06) -> Path:
        path = self.folder / name
        size = -(-len(data) // chunks)
        with path.open("wb", buffering=0) as file:
            for start in range(0, len(data), size):
                file.write(data[start : start + size])
                time.sleep(pause)  # the pause is what is tested
        return path


class Watching:
    """A watcher in a thread."""

    def __init__(self, options: WatchOptions, settings: Settings) -> None:
        self.options = options
        self.sent: list[tuple[Path, Job]] = []
        self.error: BaseException | None = None
        self.summary: WatchSummary | None = None
        self._settings = settings
        self.ready = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def start(self) -> Watching:
        self._thread.start()
        return self

    def _run(self) -> None:
        try:
            self.summary = watch(
                self.options,
                self._settings,
                stop=self._stop,
                on_submitted=lambda *sent: self.sent.append(sent),
                on_ready=self.ready.set,
            )
        except BaseException as error:
            self.error = error

    @property
    def names(self) -> Counter[str]:
        return Counter(path.name for path, _ in list(self.sent))

    def wait_for(self, *names: str, timeout: float = 20) -> None:
        wait_until(lambda: self.error or set(names) <= set(self.names), timeout, f"{names} of {self.names}")
        assert self.error is None, self.error

    def wait_for_count(self, count: int, timeout: float = 60) -> None:
        wait_until(lambda: self.error or len(self.sent) >= count, timeout, f"{count} pictures")
        assert self.error is None, self.error

    def end(self, timeout: float = 60) -> WatchSummary:
        """Wait until it ends by itself."""
        self._thread.join(timeout)
        assert not self._thread.is_alive(), "the watcher did not end"
        if self.error:
            raise self.error
        assert self.summary is not None
        return self.summary

    def stop(self) -> WatchSummary:
        self._stop.set()
        return self.end()

    def stop_quietly(self) -> None:
        self._stop.set()
        if self._thread.ident:
            self._thread.join(60)


@pytest.fixture
def cluster(settings: Settings, tmp_path: Path) -> Settings:
    """The settings of a cluster that has the brightness model."""
    store = Store(settings)
    write_brightness_model(tmp_path / "model", name=MODEL)
    Registry(store).publish(tmp_path / "model")
    return settings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "camera"
    path.mkdir()
    return path


@pytest.fixture
def camera(folder: Path) -> Camera:
    return Camera(folder)


@pytest.fixture
def start(cluster: Settings, folder: Path, tmp_path: Path) -> Iterator[Callable[..., Watching]]:
    """Start a watcher of the folder; unless it ends by itself, wait until it listens."""
    running: list[Watching] = []

    def start_one(settings: Settings = cluster, *, ready: bool = True, **options: object) -> Watching:
        given = {"folder": folder, "model": MODEL, "journal": tmp_path / "state" / "journal.sqlite", **options}
        watching = Watching(WatchOptions.model_validate(given), settings)
        running.append(watching.start())
        if ready and not given.get("once"):
            wait_until(lambda: watching.ready.is_set() or watching.error, what="the watcher is ready")
        return watching

    yield start_one
    for watching in running:
        watching.stop_quietly()


@pytest.fixture
def pending(cluster: Settings) -> Callable[[], list[Job]]:
    """The jobs that wait in the store."""

    def read() -> list[Job]:
        records = Records(Store(cluster))
        return [records.read_pending(item.key) for item in records.oldest_pending(100_000)]

    return read


@pytest.fixture
def store_wire(cluster: Settings) -> Iterator[tuple[Forwarder, Settings]]:
    """A wire to the object store that can be cut, and settings that go through it."""
    with Forwarder(cluster.s3_url) as wire:
        yield wire, cluster.model_copy(update={"s3_url": wire.url})


@pytest.fixture
def command(cluster: Settings, folder: Path, tmp_path: Path) -> Callable[..., contextmanager]:
    """`graticule watch` as a process; it is killed in the end."""

    @contextmanager
    def run(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        journal = tmp_path / "state" / "journal.sqlite"
        line = [sys.executable, "-m", "graticule", "watch", str(folder), "--model", MODEL, "--journal", str(journal)]
        with (tmp_path / "watch.log").open("ab") as log:
            process = subprocess.Popen(
                [*line, *arguments], env={**os.environ, **cluster.to_env()}, stdout=log, stderr=log
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    return run
