"""Leases, heartbeats, health checks and metrics of real workers."""

from __future__ import annotations

import os
import re
import signal
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from graticule.broker import connect_redis
from graticule.cli import app
from graticule.client import Client
from graticule.events import Events
from graticule.jobs import Lane
from graticule.local.ports import choose_ports
from graticule.registry import Registry
from graticule.store import Store
from graticule.submit import Submitter
from graticule_workers import health
from graticule_workers.health import Pulse
from graticule_workers.leases import Leases
from tests.models import write_brightness_model
from tests.worker.conftest import WorkerProcess, wait_until
from tests.worker.forwarder import Forwarder
from tests.worker.test_poison import poison
from tests.worker.test_worker import picture

# -- the pulse ----------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(health.time, "monotonic", lambda: now[0])
    return now


def test_a_consumer_that_does_not_turn_is_ill_but_only_while_redis_answers(clock):
    pulse = Pulse()
    pulse.looked(reachable=True)
    clock[0] += 15
    assert pulse.complaint() == ""
    clock[0] += 10
    assert "has not turned for 25 s" in pulse.complaint()
    pulse.looked(reachable=False)
    assert pulse.complaint() == "", "no restart would heal that"
    clock[0] += 100
    pulse.looked(reachable=True)
    assert pulse.complaint() == "", "the consumer has some time to find its way back"
    pulse.loop_turned()
    clock[0] += 15
    assert pulse.complaint() == ""


def test_jobs_that_wait_while_threads_are_free_are_a_complaint(clock):
    pulse = Pulse()
    for _ in range(20):
        clock[0] += 2
        pulse.loop_turned()
        pulse.looked(reachable=True, waiting=5, free_threads=3)
    assert "none was taken for" in pulse.complaint()
    pulse.took_job()
    assert pulse.complaint() == ""
    for _ in range(20):
        clock[0] += 2
        pulse.loop_turned()
        pulse.looked(reachable=True, waiting=5, free_threads=0)
    assert pulse.complaint() == "", "a busy worker is a healthy one"


# -- leases -------------------------------------------------------------------------------------------------------


def test_only_messages_that_are_still_held_are_renewed(settings):
    client = connect_redis(settings)
    key = f"{settings.key_prefix}unacked_index"
    client.zadd(key, {"mine": 1.0, "another's": 1.0})
    leases = Leases(settings, client)
    with leases.held("mine", "job"), leases.held("taken away", "other job"):
        leases.renew()
    assert client.zscore(key, "mine") == pytest.approx(time.time(), abs=5)
    assert client.zscore(key, "another's") == 1.0
    assert client.zscore(key, "taken away") is None
    assert leases.jobs() == []


@pytest.mark.slow
def test_a_job_that_takes_longer_than_the_visibility_timeout_runs_once(settings, tmp_path):
    settings = settings.model_copy(update={"visibility_timeout": 6.0, "step_deadline": 60.0})
    write_brightness_model(tmp_path / "slow", name="slow", trap="wait")
    Registry(Store(settings)).publish(tmp_path / "slow")
    workers = [WorkerProcess(settings, tmp_path / f"{name}.log") for name in "ab"]
    try:
        for worker in workers:
            worker.start()
        result = Client(settings).submit(poison(), "slow").result(100)
        assert result.timings.infer > 7, "the model was meant to take longer than the visibility timeout"
        broker = connect_redis(settings)
        wait_until(lambda: not broker.exists(f"{settings.key_prefix}unacked"), 60, "nobody is at it any more")
        lines = [line for worker in workers for line in worker.output.splitlines() if result.job.job_id in line]
        assert len(lines) == 1, lines
    finally:
        for worker in workers:
            worker.kill()


# -- health -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_check_tells_a_worker_that_consumes_from_one_that_does_not(idle_worker, monkeypatch):
    for name, value in idle_worker.settings.to_env().items():
        monkeypatch.setenv(name, value)

    def check():
        return CliRunner().invoke(app, ["worker", "--check"])

    assert check().exit_code == 1
    assert "No worker on" in check().output
    idle_worker.start()
    assert check().exit_code == 0, check().output
    os.kill(idle_worker.process.pid, signal.SIGSTOP)
    try:
        wait_until(lambda: check().exit_code == 1, 30, "a worker that gives no sign of life is not healthy")
    finally:
        os.kill(idle_worker.process.pid, signal.SIGCONT)
    wait_until(lambda: check().exit_code == 0, 30, "it is healthy again")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_worker_that_lost_redis_for_a_while_consumes_again_without_help(client, settings, brightness, tmp_path):
    url = urlsplit(settings.redis_url.get_secret_value())
    with Forwarder(f"http://{url.hostname}:{url.port}") as forwarder:
        target = urlsplit(forwarder.url)
        netloc = f"{url.netloc.rpartition('@')[0]}@{target.hostname}:{target.port}"
        behind = settings.model_copy(update={"redis_url": SecretStr(urlunsplit(url._replace(netloc=netloc)))})
        worker = WorkerProcess(behind, tmp_path / "behind.log")
        worker.start()
        try:
            assert client.submit(picture(), "brightness").result(30)
            forwarder.cut()
            submitter = Submitter(settings, producer="test")
            for index in range(20):
                submitter.submit_bytes(picture((10, 10, 20 + index, 20)), f"{index}.png", "brightness")
            time.sleep(45)  # longer than a keep-alive, a health check and the patience of the heart
            assert Events(settings).counts()["succeeded"] == 1
            forwarder.mend()
            wait_until(lambda: Events(settings).counts()["succeeded"] == 21, 90, "the jobs are done")
            assert worker.alive
        finally:
            worker.kill()


# -- metrics ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_prometheus_reads_what_the_worker_did(brightness, client, tmp_path: Path, processes):
    port = choose_ports(["metrics"], {})["metrics"]
    options = ("--processes", str(processes), "--metrics-port", str(port))
    worker = WorkerProcess(brightness, tmp_path / "worker.log", *options)
    worker.start()
    try:
        jobs = [client.submit(picture((10, 10, 20 + index, 20)), "brightness", lane=Lane.BULK) for index in range(5)]
        for job in jobs:
            job.result(30)
        line = 'graticule_jobs_total{lane="bulk",model="brightness",outcome="succeeded"} 5.0'
        wait_until(lambda: line in _scrape(port), 20, line)
        text = _scrape(port)
        for name in ("graticule_stage_seconds_bucket", "graticule_batch_size_bucket", "graticule_queue_depth"):
            assert name in text
        assert 'model="brightness@1.0.0"' in text
        assert not re.search(r"[0-9a-f]{32}", text), "no label holds a job"
    finally:
        worker.stop()


def _scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return answer.read().decode()
