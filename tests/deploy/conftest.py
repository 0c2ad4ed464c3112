"""A lab server without containers: real servers with the files that `deploy/setup` makes, and a key for each role."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from graticule.broker import connect_redis
from graticule.errors import GraticuleError
from graticule.local import binaries
from graticule.local.ports import choose_ports
from graticule.registry import Registry
from graticule.rights import Role
from graticule.settings import Settings
from graticule.store import PURPOSES, Store
from tests.deploy.compose import DEPLOY, MAIN, Place, command, services
from tests.models import write_brightness_model

_PORTS = ("redis", "s3", "s3-master", "s3-filer", "s3-volume")


@dataclass(frozen=True)
class Lab:
    """The two servers of a lab, and its secrets."""

    folder: Path
    secrets: Path
    ports: dict[str, int]

    def secret(self, name: str) -> str:
        return (self.secrets / name).read_text()

    def settings(self, role: Role, **others: object) -> Settings:
        """What a process of that role is told."""
        name = role.value
        has_redis, has_s3 = (
            (self.secrets / f"{name}_redis_url").exists(),
            (self.secrets / f"{name}_s3_secret_key").exists(),
        )
        values = {
            "data_dir": "/nonexistent",
            "redis_url": self.here(self.secret(f"{name}_redis_url")) if has_redis else "redis://127.0.0.1:1/0",
            "s3_url": f"http://127.0.0.1:{self.ports['s3']}",
            "s3_access_key": name if has_s3 else "nobody",
            "s3_secret_key": self.secret(f"{name}_s3_secret_key") if has_s3 else "nothing-at-all",
            "reconcile_interval": 1.0,
        }
        return Settings(**{**values, **others})

    def here(self, url: str) -> str:
        """The URL of a compose file's service, where it is in the tests."""
        return url.replace("redis:6379", f"127.0.0.1:{self.ports['redis']}")

    def place(self, name: str, replace: dict[str, str] | None = None) -> Place:
        """Where a service of the compose file runs."""
        folder = self.folder / name
        (folder / "data").mkdir(parents=True, exist_ok=True)
        addresses = {
            "redis:6379": f"127.0.0.1:{self.ports['redis']}",
            "http://s3:9000": f"http://127.0.0.1:{self.ports['s3']}",
        }
        return Place(
            folder,
            self.secrets,
            {"=/data": f"={folder / 'data'}", "=/store": f"={folder / 'data'}", **addresses, **(replace or {})},
        )


def run_setup(secrets: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(DEPLOY / "setup"), *options],
        env={**os.environ, "GRATICULE_SECRETS": str(secrets)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def redis_binary() -> str:
    """GRATICULE_TEST_REDIS names another server than the embedded cluster's, for example a newer one."""
    return os.environ.get("GRATICULE_TEST_REDIS") or str(binaries.redis_server())


def started(
    command: list[str], folder: Path, name: str, environment: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen(command, cwd=folder, env={**os.environ, **(environment or {})}, stdout=log, stderr=log)


def stopped(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_for(condition: Callable[[], object], timeout: float = 30, what: str = "") -> object:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            if value := condition():
                return value
        except (redis.RedisError, GraticuleError, OSError):
            pass
        time.sleep(0.05)
    raise AssertionError(f"not within {timeout} s: {what or condition}")


def redis_command(service: dict[str, Any], place: Place, port: int) -> list[str]:
    """The server as the compose file starts it; only the places differ."""
    server, *rest = command(service, place)
    assert server == "redis-server"
    return [redis_binary(), *rest, "--bind", "127.0.0.1", "--port", str(port)]


def weed_command(service: dict[str, Any], place: Place, ports: dict[str, int]) -> list[str]:
    server, *rest = command(service, place)
    assert server == "weed"
    own = [f"-{part}.port={ports[f's3-{part}']}" for part in ("master", "filer", "volume")]
    return [str(binaries.weed()), *rest, *own]


def start_redis(lab: Lab) -> subprocess.Popen[bytes]:
    service = services(MAIN)["redis"]
    place = lab.place("redis", {"/etc/graticule/redis.conf": str(DEPLOY / "redis" / "redis.conf")})
    place.mount(service)
    return started(redis_command(service, place, lab.ports["redis"]), place.folder, "redis")


def start_s3(lab: Lab) -> subprocess.Popen[bytes]:
    """SeaweedFS as its override file starts it."""
    service = services(MAIN, DEPLOY / "compose.seaweedfs.yml")["s3"]
    place = lab.place("s3", {"0.0.0.0": "127.0.0.1", "=9000": f"={lab.ports['s3']}"})
    place.mount(service)
    environment = {**service["environment"], "HOME": str(place.folder)}
    return started(weed_command(service, place, lab.ports), place.folder, "s3", environment)


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Redis and an S3 server, with the users and rights that `deploy/setup` gives them, and a published model."""
    folder = tmp_path_factory.mktemp("lab")
    made = Lab(folder, folder / "secrets", choose_ports(_PORTS, {}))
    done = run_setup(made.secrets, "--host", "localhost")
    assert done.returncode == 0, done.stderr
    servers = [start_redis(made), start_s3(made)]
    try:
        admin = made.settings(Role.ADMIN)
        wait_for(lambda: connect_redis(admin).ping(), what="Redis answers")
        store = Store(admin, retries=0)
        wait_for(lambda: _stores(store), 60, "the S3 server stores")
        Registry(Store(made.settings(Role.PUBLISHER))).publish(
            write_brightness_model(folder / "model") and folder / "model"
        )
        yield made
    finally:
        servers[1].kill()  # it takes half a minute to stop
        for server in servers:
            stopped(server)


def _stores(store: Store) -> bool:
    store.create_buckets()
    for purpose in PURPOSES:
        store.put(purpose, "probe", b"probe", "text/plain")
        store.remove(purpose, "probe")
    return True
