"""The index of jobs: what is late, what is trimmed, what pages hold."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from graticule.job_index import Filter, JobIndex, Summary

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def summary(number, status="succeeded", *, submitted=0, ended=None, stream="", model="m", **values):
    """The line of job `number`; times in seconds after noon."""
    completed = None if status == "waiting" else NOON + timedelta(seconds=submitted + 1 if ended is None else ended)
    return Summary(
        job_id=f"{number:032x}",
        status=status,
        model=model,
        stream=stream,
        filename=f"{number}.png",
        submitted_at=NOON + timedelta(seconds=submitted),
        completed_at=completed,
        **values,
    )


@pytest.fixture
def index(settings):
    return JobIndex(settings)


def listed(index, **wanted):
    return [int(job.job_id, 16) for job in index.page(Filter(**wanted))[0]]


def test_a_job_that_waits_ends(index):
    index.add([summary(1, "waiting")])
    assert listed(index, status="waiting") == [1]
    index.add([summary(1, count=3)])
    assert (listed(index, status="waiting"), listed(index, status="succeeded"), listed(index)) == ([], [1], [1])
    known = index.get(f"{1:032x}")
    assert known
    assert known.count == 3


def test_late_news_changes_nothing(index):
    index.add([summary(1), summary(1, "waiting"), summary(1, "failed"), summary(1, "waiting", submitted=9)])
    assert listed(index, status="succeeded") == [1], "a result is final"
    index.add([summary(2, "failed"), summary(2, "waiting")])
    assert listed(index, status="failed") == [2], "the end came before the submission was entered"
    index.add([summary(2, "waiting", submitted=5), summary(2, "failed")])
    assert listed(index, status="waiting") == [2], "submitted again after the failure"


def test_the_newest_change_comes_first_and_pages_follow_each_other(index):
    index.add(summary(number, submitted=number) for number in (3, 1, 4, 2, 5))
    first, cursor = index.page(Filter(), limit=2)
    second, cursor = index.page(Filter(), limit=2, cursor=cursor)
    third, end = index.page(Filter(), limit=2, cursor=cursor)
    assert [int(job.job_id, 16) for job in first + second + third] == [5, 4, 3, 2, 1]
    assert end == ""


def test_only_so_many_are_kept(settings):
    index = JobIndex(settings, most=3)
    index.add(summary(number, submitted=number, stream=f"s{number}", model="m@1.0.0") for number in range(5))
    assert listed(index) == listed(index, model_name="m") == [4, 3, 2]
    assert listed(index, stream="s0") == []
    assert [stream.name for stream in index.streams()] == ["s4", "s3", "s2"]
    assert index.get(f"{0:032x}") is None


def test_a_series_is_in_the_order_in_which_the_pictures_were_taken(index):
    early, late = NOON - timedelta(hours=2), NOON - timedelta(hours=1)
    index.add([summary(1, stream="s", submitted=1, captured_at=late), summary(2, stream="s", captured_at=early)])
    index.add([summary(3, "waiting", stream="s")])
    assert [job.filename for job in index.series("s")] == ["2.png", "1.png"]
    assert [(stream.name, stream.jobs, stream.newest.filename) for stream in index.streams()] == [("s", 3, "1.png")]
