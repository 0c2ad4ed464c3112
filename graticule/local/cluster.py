"""The embedded cluster: starts the parts, keeps them alive, stops them, and tells others where they are."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import psutil
from filelock import FileLock, Timeout

from graticule.errors import ClusterError
from graticule.jobs import utc_now
from graticule.local import parts
from graticule.local.child import Child, Part, Reaper
from graticule.local.parts import Place
from graticule.local.ports import choose_ports
from graticule.local.private import make_private_folder, read_json, write_private
from graticule.registry import publish_shipped_models
from graticule.settings import CLUSTER_FILE, Settings

LOCK_FILE = "up.lock"
CHILDREN_FILE = "children.json"
START_TIMEOUT = 60.0
_CHECK_INTERVAL = 0.2


@dataclass(frozen=True)
class ClusterInfo:
    """A running embedded cluster, as it describes itself in `cluster.json`."""

    folder: Path
    pid: int
    started_at: str
    flower_url: str
    parts: dict[str, dict[str, Any]]


def running_cluster(settings: Settings) -> ClusterInfo | None:
    """The embedded cluster that runs in the data folder; None when there is none."""
    folder = settings.data_dir
    if not (folder / LOCK_FILE).exists() or _lock_is_free(folder):
        return None
    raw = read_json(folder / CLUSTER_FILE)
    if not raw:
        return None
    return ClusterInfo(folder, raw["pid"], raw["started_at"], raw.get("flower_url", ""), raw["parts"])


class EmbeddedCluster:
    """Real Redis, S3 server, worker and Flower as children of this process, on the loopback interface only.

    Use it as a context manager (the children are watched by a thread), or call `start` and `run_forever`.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        worker: bool = True,
        flower: bool = True,
        on_message: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`on_message` is told what happens to the parts, one line at a time."""
        self.folder = settings.data_dir.absolute()
        self._given = settings
        self._with = {parts.WORKER: worker, parts.FLOWER: flower}
        self._say = on_message
        self._lock = FileLock(self.folder / LOCK_FILE)
        self._children: list[Child] = []
        self._reaper: Reaper | None = None
        self._stopping = threading.Event()
        self._watcher: threading.Thread | None = None
        self._place: Place | None = None
        self._started_at = ""

    def __enter__(self) -> Settings:
        settings = self.start()
        self._watcher = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._watcher.start()
        return settings

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> Settings:
        """Start every part and wait until all answer; the settings that lead to them.

        Raises ClusterError: another cluster runs in this folder, a server is missing, a part does not start.
        """
        self._take_folder()
        try:
            return self._start_parts()
        except BaseException:
            self.stop()
            raise

    def run_forever(self) -> None:
        """Keep the parts alive until SIGINT or SIGTERM, then stop them. A second signal kills them."""
        with _signals(self._on_signal):
            self._watch()
        self.stop()

    def stop(self) -> None:
        """Stop the parts, the last started first, and free the folder."""
        self._stopping.set()
        if self._watcher is not None:
            self._watcher.join()
        (self.folder / CLUSTER_FILE).unlink(missing_ok=True)
        while self._children:
            self._children.pop().stop()
        if self._reaper is not None:
            self._reaper.close()
            self._reaper = None
        (self.folder / CHILDREN_FILE).unlink(missing_ok=True)
        self._lock.release()

    @property
    def children(self) -> Sequence[Child]:
        """The parts' processes."""
        return tuple(self._children)

    # -- starting ----------------------------------------------------------------------------------------

    def _take_folder(self) -> None:
        try:
            make_private_folder(self.folder)
            self._lock.acquire(timeout=0)
        except Timeout:
            info = running_cluster(self._given)
            where = f" (process {info.pid}, since {info.started_at})" if info else ""
            raise ClusterError(
                f"A cluster is running in {self.folder} already{where}.",
                advice="Use it, stop it with `graticule down`, or choose another folder with --data-dir.",
            ) from None
        except OSError as error:
            raise ClusterError(
                f"The data folder {self.folder} cannot be used: {error.strerror or error}.",
                advice="Choose another one with --data-dir or GRATICULE_DATA_DIR.",
            ) from error

    def _start_parts(self) -> Settings:
        (self.folder / CLUSTER_FILE).unlink(missing_ok=True)  # a killed supervisor leaves it behind
        _end_leftovers(self.folder)
        make_private_folder(self.folder / "logs")
        kept = {name: int(port) for name, port in read_json(self.folder / parts.PORTS_FILE).items()}
        ports = choose_ports(parts.PORT_NAMES, kept)
        write_private(self.folder / parts.PORTS_FILE, json.dumps(ports))
        place = self._place = Place(self.folder, ports, parts.load_credentials(self.folder))
        settings = _with_addresses(self._given, place)
        self._reaper = Reaper()
        self._started_at = utc_now().isoformat(timespec="seconds")
        self._start_together([parts.redis_part(place, settings), parts.s3_part(place, settings)])
        for manifest in publish_shipped_models(settings):
            self._say(f"model {manifest.reference} is published")
        optional = {parts.WORKER: parts.worker_part(settings), parts.FLOWER: parts.flower_part(place, settings)}
        self._start_together([part for name, part in optional.items() if self._with[name]])
        self._describe(settings)
        return settings

    def _start_together(self, group: list[Part]) -> None:
        assert self._reaper is not None
        fresh = [Child(part, self.folder / "logs" / f"{part.name}.log", self._reaper) for part in group]
        for child in fresh:
            child.start()
            self._children.append(child)
        self._note_children()
        with ThreadPoolExecutor(max(1, len(fresh))) as pool:
            list(pool.map(lambda child: child.wait_until_ready(START_TIMEOUT), fresh))
        for child in fresh:
            self._say(f"{child.part.name} answers {child.part.address}".rstrip())

    # -- watching ----------------------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._stopping.wait(_CHECK_INTERVAL):
            for child in self._children:
                try:
                    said = child.keep_alive()
                except OSError as error:
                    said = f"{child.part.name} cannot be started: {error}"
                if said:
                    self._say(said)
                    self._note_children()
                    self._describe()

    def _on_signal(self) -> None:
        if self._stopping.is_set():
            for child in self._children:
                child.stop(at_once=True)
        self._stopping.set()

    # -- telling others ----------------------------------------------------------------------------------

    def _describe(self, settings: Settings | None = None) -> None:
        """Write `cluster.json`, by which every other process of this user finds the cluster."""
        assert self._place is not None
        described = {
            "settings": self._place.addresses(),
            "pid": os.getpid(),
            "started_at": self._started_at,
            "flower_url": self._place.flower_url if self._with[parts.FLOWER] else "",
            "parts": {
                child.part.name: {"pid": child.pid, "address": child.part.address, "restarts": child.restarts}
                for child in self._children
            },
        }
        write_private(self.folder / CLUSTER_FILE, json.dumps(described, indent=1))

    def _note_children(self) -> None:
        """Remember the processes, so that the next start can end what a crash of the whole machine's user left."""
        noted = [
            {"pid": pid, "created": psutil.Process(pid).create_time()}
            for child in self._children
            if (pid := child.pid) and psutil.pid_exists(pid)
        ]
        write_private(self.folder / CHILDREN_FILE, json.dumps({"children": noted}))


def _with_addresses(settings: Settings, place: Place) -> Settings:
    return Settings(**{**_explicit(settings), **place.addresses(), "data_dir": place.folder})


def _explicit(settings: Settings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in type(settings).model_fields}


def _lock_is_free(folder: Path) -> bool:
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    except OSError:
        return True
    lock.release()
    return True


def _end_leftovers(folder: Path) -> None:
    """End processes of an earlier start that nobody ended, and only those: process ids are used again by others."""
    for noted in read_json(folder / CHILDREN_FILE).get("children", []):
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(noted["pid"])
            if abs(process.create_time() - noted["created"]) < 1:
                process.terminate()
                try:
                    process.wait(10)
                except psutil.TimeoutExpired:
                    process.kill()
                    process.wait(5)


@contextlib.contextmanager
def _signals(handler: Callable[[], None]) -> Iterator[None]:
    """Call `handler` for SIGINT and SIGTERM."""

    def receive(_number: int, _frame: FrameType | None) -> None:
        handler()

    previous = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)


def ask_to_stop(info: ClusterInfo, timeout: float = 60.0) -> bool:
    """Tell the supervisor of a running cluster to stop; whether it did within `timeout` seconds."""
    try:
        process = psutil.Process(info.pid)
        process.terminate()
    except psutil.Error:
        return True
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if _lock_is_free(info.folder):
            return True
        time.sleep(0.1)
    return False
