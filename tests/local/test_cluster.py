"""The embedded cluster with real servers: start, death, restart, and what others can see of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import redis
from pydantic import SecretStr

from graticule.broker import connect_redis
from graticule.errors import ClusterError, StoreUnavailable
from graticule.local.cluster import EmbeddedCluster, running_cluster
from graticule.local.doctor import _version_finding, examine
from graticule.local.private import read_json
from graticule.local.status import collect_status
from graticule.settings import CLUSTER_FILE, Settings, load_settings
from graticule.store import Store


def until(condition: Callable[[], object], timeout: float = 30) -> object:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError("not in time")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[tuple[EmbeddedCluster, Settings, list[str]]]:
    folder = tmp_path_factory.mktemp("mit Umläuten und space")
    said: list[str] = []
    made = EmbeddedCluster(load_settings(data_dir=folder), worker=False, flower=False, on_message=said.append)
    with made as settings:
        yield made, settings, said


def child(cluster: EmbeddedCluster, name: str):
    return next(c for c in cluster.children if c.part.name == name)


def test_both_servers_answer_and_know_their_credentials(cluster):
    _, settings, _ = cluster
    Store(settings).put("images", "k", b"v", "x/y")
    assert Store(settings).get("images", "k") == b"v"
    with connect_redis(settings) as client:
        assert client.ping()


def test_strangers_are_refused(cluster):
    _, settings, _ = cluster
    port = settings.redis_url.get_secret_value().rpartition(":")[2]
    for url in (f"redis://127.0.0.1:{port}", f"redis://:wrong@127.0.0.1:{port}"):
        with redis.Redis.from_url(url) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
    for keys in ({"s3_access_key": "", "s3_secret_key": SecretStr("")}, {"s3_secret_key": SecretStr("wrong")}):
        with pytest.raises(StoreUnavailable):
            Store(settings.model_copy(update=keys), retries=0).put("images", "x", b"", "x/y")


def test_credentials_are_for_their_owner_only(cluster):
    made, _settings, _ = cluster
    assert made.folder.stat().st_mode & 0o777 == 0o700
    secret_files = [made.folder / name for name in ("credentials.json", CLUSTER_FILE, "redis/redis.conf", "s3/s3.json")]
    for path in secret_files:
        assert path.stat().st_mode & 0o777 == 0o600, path
    secrets = json.loads((made.folder / "credentials.json").read_text())
    assert len({*secrets.values()}) == len(secrets)
    command_lines = " ".join(" ".join(psutil.Process(c.pid).cmdline()) for c in made.children)
    assert not any(secret in command_lines for secret in secrets.values())


def test_nothing_listens_beyond_the_loopback_interface(cluster):
    made, _, _ = cluster
    for part in made.children:
        for connection in psutil.Process(part.pid).net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN:
                assert connection.laddr.ip in ("127.0.0.1", "::1"), connection


def test_other_processes_find_the_cluster_by_its_folder(cluster, monkeypatch):
    made, settings, _ = cluster
    found = load_settings(data_dir=made.folder)
    assert found.s3_url == settings.s3_url
    assert found.redis_url == settings.redis_url
    info = running_cluster(found)
    assert info is not None
    assert info.pid == os.getpid()


def test_a_second_cluster_in_the_same_folder_is_refused_with_the_first_ones_process(cluster):
    made, _settings, _ = cluster
    answer = subprocess.run(
        [sys.executable, "-m", "graticule", "up", "--data-dir", str(made.folder)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert answer.returncode == 1
    assert "running in" in answer.stderr
    assert str(os.getpid()) in answer.stderr
    assert "graticule down" in answer.stderr


@pytest.mark.parametrize("name", ["redis", "s3"])
def test_a_part_that_dies_comes_back_with_its_data(cluster, name):
    made, settings, said = cluster
    store = Store(settings)
    store.put("images", "survivor", b"here", "x/y")
    with connect_redis(settings) as client:
        client.set("survivor", "here")
        until(lambda: int(client.info("persistence")["aof_pending_bio_fsync"]) == 0)
    time.sleep(1.1)  # Redis writes its file once a second
    before = child(made, name).pid
    os.kill(before, signal.SIGKILL)
    until(lambda: child(made, name).pid not in (None, before))
    child(made, name).wait_until_ready(30)
    assert Store(settings, retries=8).get("images", "survivor") == b"here"
    with connect_redis(settings) as client:
        assert client.get("survivor") == "here"
    assert child(made, name).restarts == 1
    assert any(f"{name} died (SIGKILL)" in line for line in said)
    described = json.loads((made.folder / CLUSTER_FILE).read_text())
    assert described["parts"][name]["pid"] == child(made, name).pid


def test_the_status_tells_what_is_there_and_what_is_missing(cluster):
    _, settings, _ = cluster
    status = collect_status(settings)
    states = {part.name: part for part in status.parts}
    assert states["redis"].state == states["s3"].state == "ready"
    assert states["redis"].version.startswith(("6.", "7.", "8."))
    assert states["s3"].memory_mb and states["s3"].memory_mb > 10
    assert any("No worker" in problem for problem in status.problems)
    gone = collect_status(settings.model_copy(update={"s3_url": "http://127.0.0.1:1"}))
    assert any("http://127.0.0.1:1" in problem for problem in gone.problems)


def test_the_doctor_finds_a_healthy_machine_and_all_faults_of_a_sick_one(cluster, monkeypatch, tmp_path):
    _, settings, _ = cluster
    assert not [f for f in examine(settings) if f.verdict == "problem"]
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("graticule.local.binaries.importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("graticule.local.binaries.sys.executable", str(tmp_path / "python"))
    monkeypatch.setattr("graticule.local.binaries.sysconfig.get_path", lambda name: str(tmp_path))
    blocked = tmp_path / "file"
    blocked.write_text("x")
    sick = load_settings(data_dir=blocked / "data")
    problems = {f.subject: f for f in examine(sick) if f.verdict == "problem"}
    assert {"Redis server", "S3 server", "data folder", "package onnxruntime"} <= set(problems)
    assert all(problem.advice for problem in problems.values())


def test_an_old_redis_is_a_problem():
    found = _version_finding("Redis server", "Redis server v=5.0.14 sha=0")
    assert (found.verdict, found.advice) == ("problem", "Install Redis 6.2 or newer.")
    assert _version_finding("Redis server", "Redis server v=10.0.1 sha=0").verdict == "ok"


def test_a_folder_that_cannot_be_used_is_one_sentence(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("x")
    with pytest.raises(ClusterError, match="cannot be used"):
        EmbeddedCluster(load_settings(data_dir=blocked / "data"), worker=False, flower=False).start()


class Up:
    """`graticule up` as a child process."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "graticule", "up", "--data-dir", str(folder), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        until(lambda: self.process.poll() is not None or self.described().get("pid") == self.process.pid, 60)
        assert self.process.poll() is None, self.process.stdout and self.process.stdout.read()
        self.settings = load_settings(data_dir=folder)

    def __enter__(self) -> Up:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.communicate()

    def described(self) -> dict:
        return read_json(self.folder / CLUSTER_FILE)

    def pids(self) -> list[int]:
        return [part["pid"] for part in self.described()["parts"].values()]


def gone(pids: list[int]) -> bool:
    return not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids)


@pytest.mark.slow
def test_a_killed_supervisor_leaves_no_orphan_and_the_next_start_has_the_data(tmp_path):
    with Up(tmp_path, "--no-worker", "--no-flower", "--no-gateway") as up:
        Store(up.settings).put("images", "k", b"kept", "x/y")
        pids = up.pids()
    until(lambda: gone(pids), 20)
    assert running_cluster(up.settings) is None
    with Up(tmp_path, "--no-worker", "--no-flower", "--no-gateway") as again:
        assert again.settings.s3_url == up.settings.s3_url
        assert Store(again.settings).get("images", "k") == b"kept"
        pids = again.pids()
        again.process.send_signal(signal.SIGINT)
        output, _ = again.process.communicate(timeout=60)
        assert again.process.returncode == 0
    assert "the data stay" in output
    assert gone(pids)


@pytest.mark.slow
def test_everything_killed_at_once_starts_again_with_its_data(tmp_path):
    with Up(tmp_path, "--no-worker", "--no-flower", "--no-gateway") as up:
        Store(up.settings).put("images", "k", b"kept", "x/y")
        victims = [up.process.pid, *(c.pid for c in psutil.Process(up.process.pid).children(recursive=True))]
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
    until(lambda: gone(victims), 20)
    with EmbeddedCluster(load_settings(data_dir=tmp_path), worker=False, flower=False) as settings:
        assert Store(settings).get("images", "k") == b"kept"


@pytest.mark.slow
def test_the_whole_cluster_with_worker_flower_and_gateway(tmp_path):
    with Up(tmp_path) as up:
        described = up.described()
        assert set(described["parts"]) == {"redis", "s3", "worker", "flower", "gateway"}
        with pytest.raises(urllib.error.HTTPError, match="401") as refused:
            urllib.request.urlopen(described["flower_url"], timeout=10)
        refused.value.close()
        with urllib.request.urlopen(described["gateway_url"], timeout=10) as page:
            assert b"Measure a picture" in page.read()
        status = collect_status(up.settings)
        assert status.problems == []
        assert status.models
        (gateway,) = (part for part in status.parts if part.name == "gateway")
        assert (gateway.state, gateway.address) == ("ready", described["gateway_url"])
        assert gateway.version == status.graticule
        os.kill(described["parts"]["gateway"]["pid"], signal.SIGSTOP)
        assert any("The gateway does not answer" in problem for problem in collect_status(up.settings).problems)
        os.kill(described["parts"]["gateway"]["pid"], signal.SIGCONT)
        worker = described["parts"]["worker"]["pid"]
        os.kill(worker, signal.SIGKILL)
        until(lambda: up.described()["parts"]["worker"]["pid"] not in (None, worker))
        pids = up.pids()
        answer = subprocess.run(
            [sys.executable, "-m", "graticule", "down", "--data-dir", str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=90,
        )
        assert "Stopped" in answer.stdout
        up.process.communicate(timeout=60)
        assert up.process.returncode == 0
    until(lambda: gone(pids), 20)
    assert not (tmp_path / CLUSTER_FILE).exists()
