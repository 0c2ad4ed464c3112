"""SIGTERM under load, as `docker compose down` and an upgrade send it: nothing is lost, nothing is done twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from graticule.broker import connect_redis
from graticule.client import Client, JobHandle
from graticule.events import Events
from graticule.results import Result
from graticule.rights import Role
from graticule.submit import Submitter
from tests.deploy import compose
from tests.deploy.conftest import Lab
from tests.worker.conftest import WorkerProcess, wait_until
from tests.worker.test_kills import area, numbered

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

JOBS = 400


class Load:
    """Many small jobs, and what became of them."""

    def __init__(self, lab: Lab, stream: str) -> None:
        self.admin = lab.settings(Role.ADMIN)
        self.client = Client(lab.settings(Role.CLIENT))
        self.events = Events(self.admin)
        self.before = self.events.counts()["succeeded"]
        self.stream = stream
        self.handles: list[JobHandle] = []
        self._submitter = Submitter(self.client.settings, producer="test")

    def send(self, index: int) -> JobHandle:
        job = self._submitter.submit_bytes(numbered(index), f"{index}.png", "brightness", stream=self.stream)
        return JobHandle(self.client, job)

    def send_backlog(self) -> None:
        with ThreadPoolExecutor(8) as pool:
            self.handles = list(pool.map(self.send, range(JOBS)))

    @contextmanager
    def sending(self) -> Iterator[None]:
        """A producer that sends one picture after the other all the while."""
        over = threading.Event()

        def send_on() -> None:
            while not over.is_set():
                self.handles.append(self.send(len(self.handles)))

        producer = threading.Thread(target=send_on)
        producer.start()
        try:
            yield
        finally:
            over.set()
            producer.join()

    @property
    def done(self) -> int:
        return self.events.counts()["succeeded"] - self.before

    def held(self) -> int:
        """Jobs that workers took and did not give back."""
        with connect_redis(self.admin) as broker:
            return broker.hlen("unacked")

    def assert_each_has_one_result(self) -> None:
        outcomes = {handle.job_id: outcome for handle, outcome in self.client.as_completed(self.handles, timeout=120)}
        for index, handle in enumerate(self.handles):
            outcome = outcomes[handle.job_id]
            assert isinstance(outcome, Result) and outcome.measurements.objects[0].area == area(index)
        wait_until(lambda: not Client(self.admin).store.keys("jobs", "pending/"), 60, "no record is left")
        assert self.done == len(self.handles)


@pytest.fixture
def workers(lab: Lab, tmp_path: Path) -> Iterator[list[WorkerProcess]]:
    made = [WorkerProcess(lab.settings(Role.WORKER), tmp_path / f"worker-{number}.log") for number in range(3)]
    yield made
    for worker in made:
        worker.kill()


def grace() -> float:
    """Seconds that the compose file gives a worker."""
    text = compose.services(compose.MAIN)["worker"]["stop_grace_period"]
    assert text.endswith("m")
    return 60 * float(text[:-1])


def stop(worker: WorkerProcess) -> float:
    began = time.monotonic()
    assert worker.stop(grace() / 2) == 0, worker.output
    return time.monotonic() - began


def test_a_worker_that_is_told_to_stop_gives_back_what_it_has_not_begun(lab, workers):
    worker = workers[0]
    worker.start()
    load = Load(lab, "stop")
    load.send_backlog()
    wait_until(lambda: load.done > JOBS // 8, 60, "work is under way")
    seconds = stop(worker)
    print(f"\nstopped after {seconds:.2f} s with {JOBS - load.done} jobs left")
    assert load.done < JOBS
    assert load.held() == 0, "everything is finished or back in its queue: the next worker need not wait"
    workers[1].start()
    load.assert_each_has_one_result()


def test_workers_are_upgraded_one_after_the_other_under_load(lab, workers):
    first, second, third = workers
    first.start()
    second.start()
    load = Load(lab, "upgrade")
    with load.sending():
        wait_until(lambda: load.done > 20, 60, "work is under way")
        seconds, done = [stop(first)], [load.done]
        third.start()
        seconds, done = [*seconds, stop(second)], [*done, load.done]
        first.start()
        wait_until(lambda: load.done > done[-1] + 20, 60, "the new ones work")
    print(f"\nstopped after {seconds[0]:.2f} and {seconds[1]:.2f} s, {done} of {len(load.handles)} jobs being done")
    assert load.held() <= 16
    load.assert_each_has_one_result()
