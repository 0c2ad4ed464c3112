"""Sending and counting many jobs, with a real Redis and a real store."""

from __future__ import annotations

import pytest

from benchmarks.jobs import Endings, Sender, results_of
from graticule.errors import ClusterError
from graticule.events import Event, Events, Outcome
from graticule.jobs import utc_now
from graticule.records import Records
from graticule.settings import Settings
from graticule.store import Store


def tell(settings: Settings, job_id: str, status: Outcome) -> None:
    event = Event(job_id=job_id, status=status, model="m", stream="", filename="x.png", completed_at=utc_now())
    assert Events(settings).publish(event)


def test_repeated_pictures_are_jobs_of_their_own(settings):
    told: list[int] = []

    jobs = Sender(settings).send([b"one", b"two"], "bench-noop", "series", count=5, progress=told.append)

    assert len({job.job_id for job in jobs}) == 5
    assert len({job.image.sha256 for job in jobs}) == 2
    assert {record.job_id for record in Records(Store(settings)).oldest_pending()} == {job.job_id for job in jobs}
    assert told == [1, 2, 3, 4, 5]


def test_only_endings_from_now_on_count(settings):
    tell(settings, "0" * 32, "succeeded")
    endings = Endings(settings)
    assert endings.number == 0

    tell(settings, "1" * 32, "succeeded")
    assert endings.number == 1
    endings.wait_for(1)


def test_a_job_that_fails_ends_the_measurement(settings):
    endings = Endings(settings)
    tell(settings, "1" * 32, "failed")
    with pytest.raises(ClusterError, match="1 job.* failed"):
        endings.wait_for(1)


def test_a_measurement_without_its_results_is_none(settings):
    jobs = Sender(settings).send([b"one"], "bench-noop", "series")
    with pytest.raises(ClusterError, match="1 of 1 jobs have no result"):
        results_of(settings, jobs)
