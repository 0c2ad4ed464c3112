"""Everything is killed while jobs run; in the end there is one result for each, and it is right.

Workers are killed at random, Redis is killed and comes back from its append-only file, the S3 server stands still for
a while, and other versions of the model are promoted. The short form runs in CI, `make chaos` runs the long one.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from graticule.client import Client
from graticule.dead_letters import DeadLetters
from graticule.errors import BrokerUnavailable, StoreUnavailable
from graticule.events import Events
from graticule.jobs import Job
from graticule.local.cluster import EmbeddedCluster
from graticule.registry import Registry
from graticule.results import Failure, Result
from graticule.settings import load_settings
from graticule.submit import Submitter
from tests.contract.test_formats import png
from tests.models import write_brightness_model

MODEL = "brightness"
DIM_COUNTS_TOO = 30.0
"""Extra logit of version 2.0.0: it finds the dim rectangle as well as the bright one."""
SHAPES = [(10 + index % 100, 10 + index // 100) for index in range(20_000)]


def picture(index: int) -> bytes:
    """A bright rectangle of a size of its own, and a dim one of 8 x 8 px."""
    pixels = np.zeros((256, 256), np.uint8)
    width, height = SHAPES[index]
    pixels[20 : 20 + height, 20 : 20 + width] = 255
    pixels[240:248, 240:248] = 100
    return png(pixels)


def expected_areas(index: int, version: str) -> list[int]:
    width, height = SHAPES[index]
    return [width * height] if version == "1.0.0" else [width * height, 64]


class Progress:
    """How many jobs have succeeded, as the events tell."""

    def __init__(self, client: Client, jobs: int) -> None:
        self._events = Events(client.settings)
        self._jobs = jobs

    def wait_for(self, share: float, patience: float = 180) -> None:
        """Wait as long as there is progress."""
        most, since = 0, time.monotonic()
        while (done := self._done()) < share * self._jobs:
            if done > most:
                most, since = done, time.monotonic()
            assert time.monotonic() < since + patience, f"stuck at {done} of {self._jobs} for {patience} s"
            time.sleep(0.5)

    def _done(self) -> int:
        try:
            return self._events.counts()["succeeded"]
        except BrokerUnavailable:
            return 0


class Killer(threading.Thread):
    """Kills a worker now and then until it is told to stop."""

    def __init__(self, chance: random.Random, worker: Callable[[], int | None]) -> None:
        super().__init__(name="killer")
        self.kills = 0
        self._chance = chance
        self._worker = worker
        self._enough = threading.Event()

    def run(self) -> None:
        while not self._enough.wait(self._chance.uniform(4, 12)):
            if pid := self._worker():
                os.kill(pid, signal.SIGKILL)
                self.kills += 1

    def stop(self) -> None:
        self._enough.set()
        self.join()


def send_all(submitter: Submitter, jobs: list[Job | None]) -> None:
    """Send every picture; while the store is away, try again."""
    for index in range(len(jobs)):
        data = picture(index)
        while jobs[index] is None:
            try:
                jobs[index] = submitter.submit_bytes(data, f"{index}.png", MODEL)
            except StoreUnavailable:
                time.sleep(0.5)


def promote(client: Client, version: str) -> None:
    Registry(client.store).promote(MODEL, version)


@pytest.mark.timeout(3600)
def test_one_right_result_for_each_job_whatever_dies(options, tmp_path, capsys):
    number, outage = options.getoption("jobs"), options.getoption("outage")
    settings = load_settings(
        data_dir=tmp_path / "cluster",
        visibility_timeout=6,
        reconcile_interval=2,
        task_deadline=20,
        store_timeout=5,
    )
    cluster = EmbeddedCluster(settings, flower=False)
    with cluster as running:
        client = Client(running)
        for version, logit in (("2.0.0", DIM_COUNTS_TOO), ("1.0.0", 0.0)):
            write_brightness_model(tmp_path / version, version=version, extra_logit=logit)
            Registry(client.store).publish(tmp_path / version)
        pid_of = lambda part: next((child.pid for child in cluster.children if child.part.name == part), None)  # noqa: E731
        began = time.monotonic()
        jobs: list[Job | None] = [None] * number
        sender = threading.Thread(target=send_all, args=(Submitter(running, producer="chaos"), jobs))
        killer = Killer(random.Random(options.getoption("seed")), lambda: pid_of("worker"))
        progress = Progress(client, number)
        sender.start()
        killer.start()
        progress.wait_for(0.15)
        promote(client, "2.0.0")
        progress.wait_for(0.3)
        os.kill(pid_of("redis"), signal.SIGKILL)
        progress.wait_for(0.5)
        storage = pid_of("s3")
        os.kill(storage, signal.SIGSTOP)
        time.sleep(outage)
        os.kill(storage, signal.SIGCONT)
        progress.wait_for(0.7)
        promote(client, "1.0.0")
        progress.wait_for(0.9)
        sender.join()
        killer.stop()
        outcomes = [outcome_of(client, job) for job in jobs if job]
        seconds = time.monotonic() - began
        versions = check_results(client, outcomes)
        wait_for_empty(client)
        assert DeadLetters(running, client.records).ids() == []
    runs = runs_of_jobs(tmp_path / "cluster" / "logs")
    with capsys.disabled():
        print(
            f"\n{number} jobs in {seconds:.0f} s: one right result each ({dict(versions)});"
            f" {killer.kills} kills of the worker, one of Redis, the S3 server stood still for {outage:g} s;"
            f" {sum(runs.values()) - len(runs)} runs and {finished_before(tmp_path / 'cluster' / 'logs')} deliveries"
            " were duplicates"
        )


def outcome_of(client: Client, job: Job, timeout: float = 300) -> Result | Failure:
    """What a job ended in. The counters may have lost a second with Redis; the store has not."""
    deadline = time.monotonic() + timeout
    while (outcome := client.outcome(job.job_id)) is None:
        assert time.monotonic() < deadline, f"{job.image.filename} has no result"
        time.sleep(0.2)
    return outcome


def check_results(client: Client, outcomes: list[Result | Failure]) -> Counter[str]:
    """Every outcome is a result that fits its model version and its mask; the versions."""
    versions: Counter[str] = Counter()
    for index, result in enumerate(outcomes):
        assert isinstance(result, Result), (index, result)
        versions[result.model.version] += 1
        areas = [found.area for found in result.measurements.objects]
        assert areas == expected_areas(index, result.model.version), (index, result.model.version)
        artifact = result.artifacts["mask"]
        data = client.store.get("results", artifact.key)
        assert hashlib.sha256(data).hexdigest() == artifact.sha256, f"{artifact.key} is another run's mask"
    assert set(versions) == {"1.0.0", "2.0.0"}
    return versions


def wait_for_empty(client: Client) -> None:
    deadline = time.monotonic() + 120
    while client.store.keys("jobs", "pending/", limit=10):
        assert time.monotonic() < deadline, "pending records are left"
        time.sleep(0.5)


def runs_of_jobs(logs: Path) -> Counter[str]:
    """How often each job was carried out, as the worker's log tells."""
    pattern = re.compile(r"job ([0-9a-f]{32}) '\d+\.png': \d+ objects")
    return Counter(match[1] for path in logs.glob("worker.log*") for match in pattern.finditer(path.read_text()))


def finished_before(logs: Path) -> int:
    return sum(path.read_text().count("was finished already") for path in logs.glob("worker.log*"))
