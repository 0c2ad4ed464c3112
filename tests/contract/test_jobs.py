"""The job: its identity, its queue, and the key of its pending record."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from graticule.jobs import ImageRef, Job, Lane, PendingKey, Source, new_job

IMAGE = ImageRef(bucket="images", key="ab/ab", sha256="ab" * 32, size=3, filename="x.png")
SOURCE = Source(producer="test", path="/data/x.png")
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def make(**changes: object) -> Job:
    arguments: dict = {"image": IMAGE, "model": "tiles", "source": SOURCE, "captured_at": NOON, **changes}
    image = arguments.pop("image")
    model = arguments.pop("model")
    return new_job(image, model, **arguments)


def test_sending_the_same_work_twice_is_the_same_job():
    first, second = make(), make()
    assert first.job_id == second.job_id
    assert first.submitted_at != second.submitted_at


@pytest.mark.parametrize(
    "change",
    [
        {"image": IMAGE.model_copy(update={"sha256": "cd" * 32})},
        {"image": IMAGE.model_copy(update={"frame": 1})},
        {"model": "tiles@2.0"},
        {"parameters": {"threshold": 0.4}},
        {"stream": "other"},
        {"source": Source(producer="test", path="/data/y.png")},
        {"captured_at": NOON + timedelta(seconds=1)},
    ],
)
def test_whatever_makes_other_work_makes_another_job(change):
    assert make(**change).job_id != make().job_id


def test_lane_host_and_file_name_do_not_change_the_identity():
    other = make(
        lane=Lane.INTERACTIVE,
        image=IMAGE.model_copy(update={"filename": "renamed.png"}),
        source=Source(producer="other", host="elsewhere", path=SOURCE.path),
    )
    assert other.job_id == make().job_id


def test_the_same_instant_in_another_zone_is_the_same_job():
    elsewhere = NOON.astimezone(timezone(timedelta(hours=5)))
    assert make(captured_at=elsewhere).job_id == make().job_id


def test_a_version_shares_the_queue_of_its_model():
    assert make(model="tiles@2.0", lane=Lane.INTERACTIVE).queue == "tiles.interactive"


@pytest.mark.parametrize("model", ["", "../etc", "Tiles", "a b", "tiles@", "tiles@1/2", "x" * 64])
def test_impossible_model_names_are_refused(model):
    with pytest.raises(ValidationError):
        make(model=model)


@given(st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)), st.sampled_from(list(Lane)))
def test_a_pending_key_tells_what_the_record_holds(when, lane):
    job = make(lane=lane).model_copy(update={"submitted_at": when.replace(tzinfo=UTC)})
    parsed = PendingKey.parse(job.pending_key)
    assert parsed is not None
    assert (parsed.submitted_at, parsed.queue, parsed.job_id) == (job.submitted_at, job.queue, job.job_id)


@given(st.lists(st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)), min_size=2, max_size=5))
def test_pending_keys_sort_by_submission_time(times):
    jobs = [make().model_copy(update={"submitted_at": t.replace(tzinfo=UTC)}) for t in times]
    by_key = sorted(jobs, key=lambda job: job.pending_key)
    assert [job.submitted_at for job in by_key] == sorted(job.submitted_at for job in jobs)


@pytest.mark.parametrize(
    "key", ["pending/", "pending/x.json", "dead/1.json", "pending/20261121T120000.000000Z~a~b.json"]
)
def test_other_keys_are_not_pending_records(key):
    assert PendingKey.parse(key) is None


def test_a_job_survives_the_wire_and_unknown_fields_do_not():
    job = make(parameters={"threshold": 0.25})
    assert Job.model_validate_json(job.model_dump_json()) == job
    with pytest.raises(ValidationError, match="surprise"):
        Job.model_validate({**job.model_dump(mode="json"), "surprise": 1})
