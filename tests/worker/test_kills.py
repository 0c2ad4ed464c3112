"""Kill it and see: whatever dies, every job ends in exactly one result."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from graticule.broker import connect_redis
from graticule.client import Client, JobHandle
from graticule.events import Events
from graticule.results import Result
from graticule.settings import Settings
from graticule.submit import Submitter
from tests.contract.test_formats import png
from tests.worker.conftest import WorkerProcess, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

JOBS = 300
VISIBILITY = 6.0


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A worker's jobs return after 6 s, so that the tests need not wait for a minute."""
    return settings.model_copy(
        update={"task_deadline": VISIBILITY - 1, "visibility_timeout": VISIBILITY, "reconcile_interval": 1.0}
    )


def send(client: Client, count: int = JOBS) -> list[JobHandle]:
    submitter = Submitter(client.settings, producer="test", store=client.store)

    def one(index: int) -> JobHandle:
        return JobHandle(client, submitter.submit_bytes(numbered(index), f"{index}.png", "brightness"))

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(one, range(count)))


def numbered(index: int) -> bytes:
    """A picture with one bright rectangle of an area of its own."""
    pixels = np.zeros((256, 256), np.uint8)
    pixels[20 : 30 + index % 200, 40 : 50 + index // 200] = 255
    return png(pixels)


def area(index: int) -> int:
    return (10 + index % 200) * (10 + index // 200)


def assert_all_done(client: Client, handles: list[JobHandle], timeout: float) -> None:
    outcomes = {handle.job_id: outcome for handle, outcome in client.as_completed(handles, timeout=timeout)}
    for index, handle in enumerate(handles):
        outcome = outcomes[handle.job_id]
        assert isinstance(outcome, Result), outcome
        assert outcome.measurements.objects[0].area == area(index)
    wait_until(lambda: not client.store.keys("jobs", "pending/"), 30, "no pending record is left")


def done(client: Client) -> int:
    return Events(client.settings).counts()["succeeded"]


def test_a_killed_worker_loses_nothing(client, idle_worker):
    handles = send(client)
    idle_worker.start()
    wait_until(lambda: done(client) >= JOBS // 3, 60, "a third is done")
    idle_worker.kill()
    assert done(client) < JOBS
    idle_worker.start()
    assert_all_done(client, handles, 120)
    assert done(client) == JOBS


def test_a_worker_killed_again_and_again_loses_nothing(client, idle_worker):
    handles = send(client)
    for part in range(1, 6):
        idle_worker.start()
        wait_until(lambda part=part: done(client) >= part * JOBS // 8, 60, "some more are done")
        idle_worker.kill()
    assert done(client) < JOBS
    idle_worker.start()
    assert_all_done(client, handles, 120)


def test_an_emptied_redis_loses_nothing(client, idle_worker):
    handles = send(client)
    idle_worker.start()
    wait_until(lambda: done(client) >= JOBS // 3, 60, "a third is done")
    broker = connect_redis(client.settings)
    for key in broker.scan_iter(f"{client.settings.key_prefix}*"):  # FLUSHALL, but only of what is ours
        broker.delete(key)
    assert_all_done(client, handles, 120)


def test_a_killed_producer_leaves_no_half_job(client, worker, settings):
    context = multiprocessing.get_context("spawn")
    producer = context.Process(target=_submit_for_ever, args=(settings.to_env(),))
    producer.start()
    wait_until(lambda: len(client.store.keys("images")) > 20 and done(client) > 20, 60, "it is at work")
    os.kill(producer.pid or 0, signal.SIGKILL)
    producer.join()
    wait_until(lambda: not client.store.keys("jobs", "pending/"), 60, "every recorded job ends")
    assert Events(settings).counts()["failed"] == 0


def _submit_for_ever(environment: dict[str, str]) -> None:
    os.environ.update(environment)
    submitter = Submitter(Settings(), producer="test")
    for index in range(10_000):
        submitter.submit_bytes(numbered(index), f"{index}.png", "brightness")


def test_a_store_that_is_away_makes_jobs_wait_not_fail(client, worker, settings, tmp_path: Path):
    from tests.worker.forwarder import Forwarder

    with Forwarder(settings.s3_url) as forwarder:
        behind = settings.model_copy(update={"s3_url": forwarder.url})
        worker.stop()
        process = WorkerProcess(behind, tmp_path / "behind.log")
        try:
            process.start()
            handles = send(client, 60)
            wait_until(lambda: done(client) >= 10, 60, "some are done")
            forwarder.cut()
            time.sleep(VISIBILITY * 1.5)  # longer than a job may take: the messages must go back to their queue
            assert process.alive
            forwarder.mend()
            assert_all_done(client, handles, 120)
        finally:
            process.kill()
    assert Events(settings).counts()["failed"] == 0
