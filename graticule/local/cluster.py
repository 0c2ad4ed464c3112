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
from graticule.local.leftovers import CHILDREN_FILE, end_leftovers, note
from graticule.local.parts import Place
from graticule.local.ports import choose_ports, is_free
from graticule.local.private import make_private_folder, read_json, write_private
from graticule.registry import publish_shipped_models
from graticule.settings import CLUSTER_FILE, Settings

LOCK_FILE = "up.lock"
START_TIMEOUT = 60.0
"""Seconds within which each group of parts must answer."""

_CHECK_INTERVAL = 0.2
_TRIM_INTERVAL = 60.0
_LOCK_PATIENCE = 1.0
"""Seconds: others hold the lock for a moment when they look whether a cluster is running."""
_PORT_TRIES = 3


@dataclass(frozen=True)
class ClusterInfo:
    """A running embedded cluster, as it describes itself in `cluster.json`."""

    folder: Path
    pid: int
    started_at: str
    flower_url: str
    gateway_url: str
    parts: dict[str, dict[str, Any]]


def running_cluster(settings: Settings) -> ClusterInfo | None:
    """The embedded cluster that runs in the data folder; None when there is none."""
    folder = settings.data_dir
    if not (folder / LOCK_FILE).exists() or _lock_is_free(folder):
        return None
    raw = read_json(folder / CLUSTER_FILE)
    if not raw:
        return None
    urls = raw.get("flower_url", ""), raw.get("gateway_url", "")
    return ClusterInfo(folder, raw["pid"], raw["started_at"], *urls, raw["parts"])


class EmbeddedCluster:
    """Real Redis, S3 server, worker, Flower and gateway as children of this process, on the loopback interface only.

    Use it as a context manager (the children are watched by a thread), or call `start` and `run_forever`.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        worker: bool = True,
        flower: bool = True,
        gateway: bool = False,
        on_message: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`on_message` is told what happens to the parts, one line at a time."""
        self.folder = settings.data_dir.absolute()
        self._given = settings
        self._with = {parts.WORKER: worker, parts.FLOWER: flower, parts.GATEWAY: gateway}
        self._say = on_message
        self._lock = FileLock(self.folder / LOCK_FILE)
        self._children: list[Child] = []
        self._reaper: Reaper | None = None
        self._watcher: threading.Thread | None = None
        self._place: Place | None = None
        self._started_at = ""
        # Plain values: a signal handler that takes a lock may wait for the very code that it interrupted.
        self._stop_asked = 0
        self._next_trim = 0.0

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
        self._stop_asked = 0
        try:
            return self._start_parts()
        except BaseException:
            self.stop()
            raise

    def run_forever(self) -> None:
        """Keep the parts alive until SIGINT or SIGTERM, then stop them. A second signal kills them."""
        with _signals(self._ask_to_stop):
            self._watch()
            self.stop()

    def stop(self) -> None:
        """Stop the parts, the last started first, and free the folder."""
        self._ask_to_stop()
        if self._watcher is not None:
            self._watcher.join()
        if not self._lock.is_locked:
            return
        (self.folder / CLUSTER_FILE).unlink(missing_ok=True)
        self._stop_children()
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
            _prepare_folder(self.folder)
            self._lock.acquire(timeout=_LOCK_PATIENCE)
        except Timeout:
            raise self._taken() from None
        except OSError as error:
            raise ClusterError(
                f"The data folder {self.folder} cannot be used: {error.strerror or error}.",
                advice="Choose another one with --data-dir or GRATICULE_DATA_DIR.",
            ) from error

    def _taken(self) -> ClusterError:
        info = running_cluster(self._given)
        where = f" (process {info.pid}, since {info.started_at}, storage at {_address(info, parts.S3)})" if info else ""
        return ClusterError(
            f"A cluster is running in {self.folder} already{where}.",
            advice="Use it, stop it with `graticule down`, or choose another folder with --data-dir.",
        )

    def _start_parts(self) -> Settings:
        (self.folder / CLUSTER_FILE).unlink(missing_ok=True)  # of a start that was killed: its addresses are void
        if number := end_leftovers(self.folder):
            self._say(f"{number} process(es) that an earlier start had left behind were ended")
        make_private_folder(self.folder / "logs")
        self._reaper = Reaper()
        self._started_at = utc_now().isoformat(timespec="seconds")
        place, settings = self._start_servers()
        for manifest in publish_shipped_models(settings):
            self._say(f"model {manifest.reference} is published")
        optional = {
            parts.WORKER: parts.worker_part(place, settings),
            parts.FLOWER: parts.flower_part(place, settings),
            parts.GATEWAY: parts.gateway_part(place, settings),
        }
        self._start_together([part for name, part in optional.items() if self._with[name]])
        self._describe()
        return settings

    def _start_servers(self) -> tuple[Place, Settings]:
        """Redis and the S3 server, on other ports if somebody takes one between the look and the start."""
        for tries_left in reversed(range(_PORT_TRIES)):
            place = self._place = self._choose_place()
            settings = _with_addresses(self._given, place)
            try:
                self._start_together([parts.redis_part(place, settings), parts.s3_part(place, settings)])
            except ClusterError:
                self._stop_children()
                if not tries_left or all(is_free(port) for port in place.ports.values()):
                    raise
                self._say("a port was taken meanwhile; trying others")
            else:
                return place, settings
        raise AssertionError("unreachable")

    def _choose_place(self) -> Place:
        kept = {name: int(port) for name, port in read_json(self.folder / parts.PORTS_FILE).items()}
        kept.setdefault(parts.GATEWAY, self._given.gateway_port)
        ports = choose_ports(parts.PORT_NAMES, kept)
        write_private(self.folder / parts.PORTS_FILE, json.dumps(ports))
        return Place(self.folder, ports, parts.load_credentials(self.folder))

    def _start_together(self, group: Sequence[Part]) -> None:
        """Start parts that do not need each other, and wait until all of them answer."""
        assert self._reaper is not None
        waiting = [Child(part, self.folder / "logs" / f"{part.name}.log", self._reaper) for part in group]
        for child in waiting:
            self._children.append(child)
            child.start()
        self._note_children()
        deadline = time.monotonic() + START_TIMEOUT
        while waiting:
            for child in [child for child in waiting if child.answers()]:
                waiting.remove(child)
                self._say(f"{child.part.name} answers {child.part.address}".rstrip())
            if waiting and time.monotonic() > deadline:
                raise waiting[0].too_slow(START_TIMEOUT)
            time.sleep(0.05)

    # -- watching ----------------------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._stop_asked:
            self._look_after_children()
            time.sleep(_CHECK_INTERVAL)

    def _look_after_children(self) -> None:
        for child in self._children:
            try:
                said = child.keep_alive()
            except OSError as error:
                said = f"{child.part.name} cannot be started: {error}"
            if said:
                self._say(said)
                self._retell()
        if time.monotonic() >= self._next_trim:
            self._next_trim = time.monotonic() + _TRIM_INTERVAL
            for child in self._children:
                with contextlib.suppress(OSError):
                    child.trim_log()

    def _retell(self) -> None:
        """Tell others about new processes; a full disk must not end the watch."""
        try:
            self._note_children()
            self._describe()
        except OSError as error:
            self._say(f"the state in {self.folder} cannot be written: {error.strerror or error}")

    # -- stopping ----------------------------------------------------------------------------------------

    def _ask_to_stop(self) -> None:
        self._stop_asked += 1

    def _stop_children(self) -> None:
        """Stop the parts stage by stage: what uses the servers before the servers."""
        asked = self._stop_asked
        for stage in sorted({child.part.stage for child in self._children}, reverse=True):
            group = [child for child in self._children if child.part.stage == stage]
            with ThreadPoolExecutor(len(group)) as pool:
                list(pool.map(lambda child: child.stop(lambda: self._stop_asked > asked), group))
        self._children.clear()

    # -- telling others ----------------------------------------------------------------------------------

    def _describe(self) -> None:
        """Write `cluster.json`, by which every other process of this user finds the cluster."""
        assert self._place is not None
        described = {
            "settings": self._place.addresses(),
            "pid": os.getpid(),
            "started_at": self._started_at,
            "flower_url": self._place.flower_url if self._with[parts.FLOWER] else "",
            "gateway_url": self._place.gateway_url if self._with[parts.GATEWAY] else "",
            "parts": {
                child.part.name: {"pid": child.pid, "address": child.part.address, "restarts": child.restarts}
                for child in self._children
            },
        }
        write_private(self.folder / CLUSTER_FILE, json.dumps(described, indent=1))

    def _note_children(self) -> None:
        """Remember the processes, so that the next start can end those that nobody else did."""
        noted = note(pid for child in self._children if (pid := child.pid))
        write_private(self.folder / CHILDREN_FILE, json.dumps(noted))


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


def _address(info: ClusterInfo, part: str) -> str:
    return info.parts.get(part, {}).get("address", "")


def _prepare_folder(folder: Path) -> None:
    """Make the data folder and close it to others. A folder that holds other things keeps the rights that it has."""
    if not folder.exists() or not any(folder.iterdir()) or (folder / parts.CREDENTIALS_FILE).exists():
        make_private_folder(folder)


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
