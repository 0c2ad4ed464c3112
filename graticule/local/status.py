"""What a cluster is doing: its parts, versions, queues, and how many jobs are done."""

from __future__ import annotations

import http.client
import importlib.metadata
import json
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import psutil
import redis
from rich.console import Console, Group
from rich.table import Column, Table

from graticule import __version__
from graticule.broker import connect_redis, redacted
from graticule.errors import GraticuleError
from graticule.events import Events
from graticule.jobs import PENDING_PREFIX, Lane, model_name, queue_name
from graticule.local.cluster import ClusterInfo, running_cluster
from graticule.local.parts import GATEWAY, flower_answers
from graticule.registry import Registry
from graticule.settings import Settings
from graticule.store import Store
from graticule.workers_index import WorkersIndex, WorkerStatus

MOST_PENDING = 1000

_SILENT = "does not answer"
_MOST_HEALTH = 65_536


@dataclass(frozen=True)
class PartStatus:
    """One part of the cluster."""

    name: str
    state: str
    address: str = ""
    version: str = ""
    pid: int | None = None
    memory_mb: float | None = None
    """Resident memory, 10^6 bytes; known only for processes of this machine."""
    uptime_s: float | None = None
    restarts: int | None = None


@dataclass
class ClusterStatus:
    """A cluster at a glance. `problems` says what could not be found out."""

    graticule: str = __version__
    folder: str = ""
    parts: list[PartStatus] = field(default_factory=list)
    models: dict[str, str] = field(default_factory=dict)
    """Name -> version in production."""
    queues: dict[str, int] = field(default_factory=dict)
    """Queue -> messages that wait."""
    in_workers: int = 0
    """Messages that workers took and have not finished."""
    pending: int = 0
    """Jobs without a result, counted up to 1000."""
    succeeded: int = 0
    failed: int = 0
    problems: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def collect_status(settings: Settings) -> ClusterStatus:
    """Ask every part; what does not answer becomes a problem, not an error."""
    found = ClusterStatus()
    info = running_cluster(settings)
    if info:
        found.folder = str(info.folder)
    workers = _ask(found, lambda: WorkersIndex(settings).alive()) or []
    found.parts = [
        _redis_part(settings, info),
        _store_part(settings, info),
        *(_worker_part(worker, info) for worker in workers),
        *_flower_parts(info),
        *_gateway_parts(settings, info),
    ]
    if any(part.name == GATEWAY and part.state == _SILENT for part in found.parts):
        found.problems.append("The gateway does not answer: there is no web page and no HTTP interface.")
    if not workers:
        found.problems.append("No worker is at work: jobs wait.")
    _ask(found, lambda: _fill_models(found, settings))
    _ask(found, lambda: _fill_queues(found, settings))
    _ask(found, lambda: _fill_counts(found, settings))
    return found


def render_status(status: ClusterStatus, console: Console) -> None:
    """Show the status to a person."""
    address = Column("Address", overflow="fold")
    parts = Table("Part", "State", "Version", address, "Process", "Memory", "Up", "Restarts", title="Parts")
    for part in status.parts:
        parts.add_row(
            part.name,
            part.state,
            part.version,
            part.address,
            str(part.pid or ""),
            f"{part.memory_mb:.0f} MB" if part.memory_mb is not None else "",
            _duration(part.uptime_s),
            "" if part.restarts is None else str(part.restarts),
        )
    queues = Table("Model", "Version", *(f"{lane.value} waiting" for lane in Lane), title="Queues")
    for name, version in status.models.items():
        queues.add_row(name, version, *(str(status.queues.get(queue_name(name, lane), 0)) for lane in Lane))
    pending = f"{status.pending}{'+' if status.pending >= MOST_PENDING else ''}"
    line = (
        f"Jobs: {status.succeeded} succeeded, {status.failed} failed, {status.in_workers} at work,"
        f" {pending} without a result."
    )
    console.print(Group(parts, queues))
    console.print(line, highlight=False)
    for problem in dict.fromkeys(status.problems):
        console.print(problem, style="red", markup=False)


def _ask(status: ClusterStatus, question: Any) -> Any:  # noqa: ANN401 (any question, any answer)
    try:
        return question()
    except (GraticuleError, redis.RedisError) as error:
        status.problems.append(str(error))
        return None


def _redis_part(settings: Settings, info: ClusterInfo | None) -> PartStatus:
    address = redacted(settings.redis_url.get_secret_value())
    try:
        with connect_redis(settings) as client:
            server = cast("dict[str, Any]", client.info("server"))
    except redis.RedisError:
        return PartStatus("redis", _SILENT, address)
    return _local_part("redis", "ready", address, server["redis_version"], info)


def _store_part(settings: Settings, info: ClusterInfo | None) -> PartStatus:
    try:
        Store(settings.model_copy(update={"store_timeout": 5.0}), retries=0).keys("models", limit=1)
    except GraticuleError:
        return PartStatus("s3", _SILENT, settings.s3_url)
    return _local_part("s3", "ready", settings.s3_url, _server_header(settings.s3_url), info)


def _server_header(url: str) -> str:
    """What an HTTP server calls itself, also when it refuses the request."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 (a setting that is checked to be http)
            return answer.headers.get("Server", "")
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.headers.get("Server", "")
    except OSError:
        return ""


def _worker_part(worker: WorkerStatus, info: ClusterInfo | None) -> PartStatus:
    local = bool(info and info.parts.get("worker", {}).get("pid") == worker.process)
    measured = _process_numbers(worker.process) if local else {}
    return PartStatus(
        name="worker",
        state=worker.state,
        address=f"{worker.host}, {worker.threads} threads, {worker.provider}",
        version=f"{worker.versions.get('graticule', '')}, onnxruntime {worker.versions.get('onnxruntime', '')}",
        pid=worker.process,
        uptime_s=time.time() - worker.started,
        restarts=info.parts["worker"].get("restarts") if local and info else None,
        memory_mb=measured.get("memory_mb"),
    )


def _flower_parts(info: ClusterInfo | None) -> list[PartStatus]:
    if not (info and info.flower_url):
        return []
    state = "ready" if flower_answers(info.flower_url) else _SILENT
    return [_local_part("flower", state, info.flower_url, importlib.metadata.version("flower"), info)]


def _gateway_parts(settings: Settings, info: ClusterInfo | None) -> list[PartStatus]:
    """The cluster's gateway, or without a cluster the one that the settings point to, if there is one."""
    address = info.gateway_url if info else _gateway_address(settings)
    health = _gateway_health(address) if address else None
    if health is None:
        return [_local_part(GATEWAY, _SILENT, address, "", info)] if info and address else []
    state = "ready" if health.get("status") == "ok" else "; ".join(map(str, health.get("problems", [])))
    return [_local_part(GATEWAY, state, address, str(health.get("version", "")), info)]


def _gateway_address(settings: Settings) -> str:
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "::1": "[::1]"}  # noqa: S104 (asked for, not listened on)
    host = everywhere.get(settings.gateway_host, settings.gateway_host)
    return f"http://{host}:{settings.gateway_port}" if settings.gateway_port else ""


def _gateway_health(address: str) -> dict[str, Any] | None:
    """What a gateway says about itself; None when nobody answers, or somebody else."""
    try:
        try:
            with urllib.request.urlopen(address + "/readyz", timeout=5) as answer:  # noqa: S310 (http, from settings)
                found = json.loads(answer.read(_MOST_HEALTH))
        except urllib.error.HTTPError as refusal:
            with refusal:
                found = json.loads(refusal.read(_MOST_HEALTH))
    except (OSError, ValueError, http.client.HTTPException):
        return None
    return found if isinstance(found, dict) and found.get("service") == "graticule gateway" else None


def _local_part(name: str, state: str, address: str, version: str, info: ClusterInfo | None) -> PartStatus:
    known = info.parts.get(name, {}) if info else {}
    numbers = _process_numbers(known.get("pid"))
    return PartStatus(name, state, address, version, known.get("pid"), restarts=known.get("restarts"), **numbers)


def _process_numbers(pid: int | None) -> dict[str, float]:
    if pid is None:
        return {}
    try:
        process = psutil.Process(pid)
        return {
            "memory_mb": process.memory_info().rss / 1e6,
            "uptime_s": time.time() - process.create_time(),
        }
    except psutil.Error:
        return {}


def _fill_models(status: ClusterStatus, settings: Settings) -> None:
    registry = Registry(Store(settings, retries=0))
    status.models = {name: registry.resolve(name).version for name in registry.names()}


def _fill_queues(status: ClusterStatus, settings: Settings) -> None:
    with connect_redis(settings) as client:
        served = {queue for worker in WorkersIndex(settings, client).alive() for queue in worker.queues}
        names = served | {queue_name(name, lane) for name in status.models for lane in Lane}
        status.queues = {
            name: cast("int", client.llen(settings.key_prefix + name))
            for name in sorted(names, key=lambda queue: (model_name(queue), queue))
        }
        status.in_workers = cast("int", client.hlen(f"{settings.key_prefix}unacked"))


def _fill_counts(status: ClusterStatus, settings: Settings) -> None:
    status.pending = len(Store(settings, retries=0).keys("jobs", PENDING_PREFIX, limit=MOST_PENDING))
    counts = Events(settings).counts()
    status.succeeded, status.failed = counts["succeeded"], counts["failed"]


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
