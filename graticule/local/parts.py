"""The parts of the embedded cluster: their commands, their configuration files, and how to tell that they answer."""

from __future__ import annotations

import json
import secrets
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from graticule.broker import connect_redis
from graticule.errors import GraticuleError
from graticule.local import binaries
from graticule.local.child import Part
from graticule.local.private import make_private_folder, read_json, write_private
from graticule.settings import Settings
from graticule.store import Store
from graticule.workers_index import WorkersIndex

REDIS, S3, WORKER, FLOWER = "redis", "s3", "worker", "flower"
CREDENTIALS_FILE = "credentials.json"
PORTS_FILE = "ports.json"
FLOWER_USER = "graticule"

PORT_NAMES = ["redis", "s3", "s3-master", "s3-filer", "s3-volume", "flower"]


@dataclass(frozen=True)
class Place:
    """The data folder of one cluster, its ports and its credentials."""

    folder: Path
    ports: dict[str, int]
    credentials: dict[str, str]

    @property
    def logs(self) -> Path:
        """Folder of the logs."""
        return self.folder / "logs"

    @property
    def flower_url(self) -> str:
        """Address of Flower's page."""
        return f"http://127.0.0.1:{self.ports['flower']}"

    def addresses(self) -> dict[str, Any]:
        """What the settings of every process of this cluster must say."""
        return {
            "redis_url": f"redis://:{self.credentials['redis']}@127.0.0.1:{self.ports['redis']}/0",
            "s3_url": f"http://127.0.0.1:{self.ports['s3']}",
            "s3_access_key": self.credentials["s3_access_key"],
            "s3_secret_key": self.credentials["s3_secret_key"],
        }


def load_credentials(folder: Path) -> dict[str, str]:
    """The cluster's random credentials, made at its first start."""
    path = folder / CREDENTIALS_FILE
    kept = read_json(path)
    wanted = {
        "redis": secrets.token_urlsafe(32),
        "s3_access_key": secrets.token_hex(10),
        "s3_secret_key": secrets.token_urlsafe(32),
        "flower": secrets.token_urlsafe(16),
    }
    credentials = {name: str(kept.get(name) or fresh) for name, fresh in wanted.items()}
    if credentials != kept:
        write_private(path, json.dumps(credentials, indent=1))
    return credentials


def redis_part(place: Place, settings: Settings) -> Part:
    """Redis with an append-only file. Its password is in a file, because anyone may read a command line."""
    folder = place.folder / "redis"
    make_private_folder(folder)
    configuration = folder / "redis.conf"
    lines = {
        "bind": "127.0.0.1",
        "port": place.ports["redis"],
        "requirepass": place.credentials["redis"],
        "dir": json.dumps(str(folder), ensure_ascii=False),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": '""',
        "maxmemory-policy": "noeviction",
    }
    write_private(configuration, "".join(f"{name} {value}\n" for name, value in lines.items()))
    return Part(
        name=REDIS,
        command=[str(binaries.redis_server()), str(configuration)],
        is_ready=lambda pid: _redis_is(pid, settings),
        address=f"127.0.0.1:{place.ports['redis']}",
    )


def s3_part(place: Place, settings: Settings) -> Part:
    """SeaweedFS in one process."""
    folder = place.folder / "s3"
    make_private_folder(folder)
    make_private_folder(folder / "data")
    identity = {
        "name": "graticule",
        "credentials": [
            {"accessKey": place.credentials["s3_access_key"], "secretKey": place.credentials["s3_secret_key"]}
        ],
        "actions": ["Admin", "Read", "List", "Tagging", "Write"],
    }
    write_private(folder / "s3.json", json.dumps({"identities": [identity]}))
    ports = place.ports
    options = {
        "dir": folder / "data",
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "s3.config": folder / "s3.json",
        "s3.port": ports["s3"],
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "master.port": ports["s3-master"],
        "filer.port": ports["s3-filer"],
        "volume.port": ports["s3-volume"],
        # The automatic limit, free space / 128 MB, leaves a small disk without a single writable volume.
        "volume.max": 10_000,
        "master.telemetry": "false",
        "admin.ui": "false",
        "webdav": "false",
    }
    return Part(
        name=S3,
        command=[
            str(binaries.weed()),
            "-logtostderr=true",
            "mini",
            *(f"-{name}={value}" for name, value in options.items()),
        ],
        # Small heaps: it holds 500 MB otherwise.
        environment={"GOMEMLIMIT": "150MiB", "GOGC": "50"},
        is_ready=lambda _: _s3_answers(settings),
        address=f"127.0.0.1:{ports['s3']}",
    )


def worker_part(settings: Settings) -> Part:
    """One worker for every published model."""
    return Part(
        name=WORKER,
        command=[sys.executable, "-m", "graticule", "worker"],
        environment=settings.to_env(),
        is_ready=lambda pid: _worker_is(pid, settings),
        grace=20.0,
    )


def flower_part(place: Place, settings: Settings) -> Part:
    """Flower, which shows the queues and the tasks."""
    return Part(
        name=FLOWER,
        command=[
            *(sys.executable, "-m", "celery", "-A", "graticule.celery_app", "flower"),
            "--address=127.0.0.1",
            f"--port={place.ports['flower']}",
            "--persistent=True",
            "--save-state-interval=30000",
            f"--db={place.folder / 'flower'}",
            "--max-tasks=10000",
        ],
        environment={**settings.to_env(), "FLOWER_BASIC_AUTH": f"{FLOWER_USER}:{place.credentials['flower']}"},
        is_ready=lambda _: _flower_answers(place),
        address=place.flower_url,
    )


def _redis_is(pid: int, settings: Settings) -> bool:
    try:
        with connect_redis(settings) as client:
            info: Any = client.info("server")
            return info["process_id"] == pid
    except redis.RedisError:
        return False


def _s3_answers(settings: Settings) -> bool:
    """Whether an object can be written, read and removed: it answers requests before it can store anything."""
    store = Store(settings.model_copy(update={"store_timeout": 5.0}), retries=0)
    try:
        store.create_buckets()
        store.put("jobs", "probe", b"probe", "text/plain")
        good = store.get("jobs", "probe") == b"probe"
        store.remove("jobs", "probe")
    except GraticuleError:
        time.sleep(0.1)
        return False
    return good


def _worker_is(pid: int, settings: Settings) -> bool:
    try:
        return pid in {worker.process for worker in WorkersIndex(settings).alive()}
    except GraticuleError:
        return False


def _flower_answers(place: Place) -> bool:
    try:
        with urllib.request.urlopen(place.flower_url + "/healthcheck", timeout=2) as answer:  # noqa: S310 (loopback)
            return answer.status == 200
    except (OSError, urllib.error.URLError):
        return False
