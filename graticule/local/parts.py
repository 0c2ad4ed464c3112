"""The parts of the embedded cluster: their commands, their configuration files, and how to tell that they answer."""

from __future__ import annotations

import json
import os
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
from graticule.local.certificate import self_signed
from graticule.local.child import Part
from graticule.local.leftovers import MARK
from graticule.local.ports import GRPC_OFFSET
from graticule.local.private import make_private_folder, read_json, write_private
from graticule.settings import Settings
from graticule.store import Store
from graticule.workers_index import WorkersIndex

REDIS, S3, WORKER, FLOWER, GATEWAY = "redis", "s3", "worker", "flower", "gateway"
CREDENTIALS_FILE = "credentials.json"
PORTS_FILE = "ports.json"
FLOWER_USER = "graticule"

_SIGNING = ("jwt.signing", "jwt.signing.read", "jwt.filer_signing", "jwt.filer_signing.read")
_GRPC_PARTS = ("master", "volume", "filer", "s3", "admin", "worker", "mq", "msg_broker", "client")

PORT_NAMES = ("redis", "s3", "s3-master", "s3-filer", "s3-volume", "s3-admin", "flower", "gateway")

SERVERS, USERS = 0, 1
"""Stages: Redis and the S3 server, then the worker and Flower, which use them."""

VOLUME_MEGABYTES = 1024
MOST_VOLUMES = 10_000
"""SeaweedFS gives each bucket volumes of its own and would allow only as many as fit on the disk when full: few
namespaces would use them up. Volumes take only the space that they fill, so that the number need not be limited."""


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

    @property
    def gateway_url(self) -> str:
        """Address of the web page."""
        return f"http://127.0.0.1:{self.ports['gateway']}"

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
    lines = {
        "bind": "127.0.0.1",
        "port": place.ports["redis"],
        "requirepass": place.credentials["redis"],
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": '""',
        "maxmemory-policy": "noeviction",
    }
    write_private(folder / "redis.conf", "".join(f"{name} {value}\n" for name, value in lines.items()))
    return Part(
        name=REDIS,
        # It runs in its folder: its files need no path that its configuration would have to quote.
        command=[str(binaries.redis_server()), "redis.conf"],
        folder=folder,
        environment=_mark(place),
        is_ready=lambda pid: _redis_is(pid, settings),
        address=f"127.0.0.1:{place.ports['redis']}",
    )


def s3_part(place: Place, settings: Settings) -> Part:
    """SeaweedFS in one process, with everything closed that S3 does not need: see docs/embedded.md."""
    folder = place.folder / "s3"
    for path in (folder, folder / "data"):
        make_private_folder(path)
    # Written at every start of its own and read again at the next: options that were dropped would live on.
    (folder / "data" / "mini.options").unlink(missing_ok=True)
    write_private(folder / "s3.json", json.dumps({"identities": [_s3_identity(place)]}))
    write_private(folder / "filer.toml", '[leveldb2]\nenabled = true\ndir = "data/filerldb2"\n')
    _write_security(folder)
    ports = place.ports
    options = {
        "dir": "data",
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "disableHttp": "true",
        "s3.config": "s3.json",
        "s3.port": ports["s3"],
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.localSocket": "s3.sock",
        "master.port": ports["s3-master"],
        "master.telemetry": "false",
        # With its old state, one start in twelve hangs at the first write, for up to 15 s.
        "master.resumeState": "false",
        "master.volumeSizeLimitMB": VOLUME_MEGABYTES,
        "filer.port": ports["s3-filer"],
        "filer.localSocket": "filer.sock",
        "volume.port": ports["s3-volume"],
        "volume.max": MOST_VOLUMES,
        # Its page is off, but it listens all the same.
        "admin.port": ports["s3-admin"],
        "admin.port.grpc": ports["s3-admin"] + GRPC_OFFSET,
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
        folder=folder,
        environment={
            **_mark(place),
            # It holds 420 MB otherwise. A limit near what it lives on (some 120 MB) makes the collector run without
            # end: at 150 and at 250 MiB every request cost five times as much.
            "GOMEMLIMIT": "400MiB",
            "GOGC": "100",
            # Handing work from core to core costs it two fifths more; one core carries a thousand requests a second.
            "GOMAXPROCS": str(max(1, (os.cpu_count() or 1) // 4)),
            # A configuration of another SeaweedFS in ~/.seaweedfs is none of its business.
            "HOME": str(folder),
        },
        is_ready=lambda _: _s3_answers(settings),
        address=f"127.0.0.1:{ports['s3']}",
    )


def _s3_identity(place: Place) -> dict[str, Any]:
    keys = {"accessKey": place.credentials["s3_access_key"], "secretKey": place.credentials["s3_secret_key"]}
    return {
        "name": "graticule",
        "credentials": [keys],
        "actions": ["Admin", "Read", "List", "Tagging", "Write"],
    }


def _write_security(folder: Path) -> None:
    """Keys without which SeaweedFS's inner ports refuse everybody. New ones at every start: nobody else has them."""
    certificate, key = self_signed("graticule")
    write_private(folder / "grpc.crt", certificate)
    write_private(folder / "grpc.key", key)
    sections = [
        *(f'[{name}]\nkey = "{secrets.token_urlsafe(32)}"' for name in _SIGNING),
        '[grpc]\nca = "grpc.crt"',
        *(f'[grpc.{name}]\ncert = "grpc.crt"\nkey = "grpc.key"' for name in _GRPC_PARTS),
    ]
    write_private(folder / "security.toml", "\n".join(sections) + "\n")


def _mark(place: Place) -> dict[str, str]:
    return {MARK: str(place.folder)}


def worker_part(place: Place, settings: Settings) -> Part:
    """One worker for every published model."""
    return Part(
        name=WORKER,
        command=[sys.executable, "-m", "graticule", "worker"],
        folder=place.folder,
        environment={**settings.to_env(), **_mark(place)},
        stage=USERS,
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
            "--db=flower",
            "--max-tasks=10000",
        ],
        folder=place.folder,
        stage=USERS,
        environment={
            **settings.to_env(),
            **_mark(place),
            "FLOWER_BASIC_AUTH": f"{FLOWER_USER}:{place.credentials['flower']}",
        },
        is_ready=lambda _: flower_answers(place.flower_url),
        address=place.flower_url,
    )


def gateway_part(place: Place, settings: Settings) -> Part:
    """The web page and the HTTP interfaces."""
    own = settings.model_copy(update={"gateway_host": "127.0.0.1", "gateway_port": place.ports["gateway"]})
    return Part(
        name=GATEWAY,
        command=[sys.executable, "-m", "graticule", "gateway"],
        folder=place.folder,
        environment={**own.to_env(), **_mark(place)},
        stage=USERS,
        is_ready=lambda _: _answers(place.gateway_url + "/readyz"),
        address=place.gateway_url,
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
        return pid in {worker.supervisor for worker in WorkersIndex(settings).alive()}
    except GraticuleError:
        return False


def flower_answers(url: str) -> bool:
    """Whether Flower's page is there. Needs no password."""
    return _answers(url + "/healthcheck")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 (loopback)
            return answer.status == 200
    except (OSError, urllib.error.URLError):
        return False
