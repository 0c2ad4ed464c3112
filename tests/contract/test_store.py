"""The object store and the records on it, against the real S3 server."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from graticule import store as store_module
from graticule.errors import Corrupted, NotFound, SourceUnreadable, StoreUnavailable
from graticule.jobs import Source, new_job, utc_now
from graticule.records import Records
from graticule.results import Failure
from graticule.settings import Settings
from graticule.store import IN_MEMORY_LIMIT, Store, image_key, printable_name


@pytest.fixture
def store(settings: Settings) -> Store:
    return Store(settings)


def job_for(store: Store, data: bytes = b"bytes"):
    return new_job(store.put_image(data, "x.png"), "tiles", source=Source(producer="test"))


def test_the_same_bytes_have_the_same_key_and_come_back_unchanged(store):
    data = os.urandom(5000)
    first, second = store.put_image(data, "a.png"), store.put_image(data, "b.png")
    sha256 = hashlib.sha256(data).hexdigest()
    assert first.key == second.key == f"{sha256[:2]}/{sha256}"
    assert store.get_image(first) == data


@pytest.mark.parametrize(
    "name", ["plain.png", "with space.png", "ümläut.png", "new\nline.png", "x" * 251 + ".png", "日本.tif"]
)
def test_any_file_name_is_kept(store, tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"data")
    ref = store.put_image_file(path, "image/png")
    assert ref.filename == name
    assert store.image_metadata(ref)["filename"] == name


def test_a_file_name_that_is_not_utf8_can_be_told(store, tmp_path):
    path = tmp_path / os.fsdecode(b"bad\xff.png")
    try:
        path.write_bytes(b"data")
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    assert store.put_image_file(path).filename == printable_name(path) == r"bad\xff.png"


def test_a_large_file_is_streamed_and_comes_back_unchanged(store, tmp_path):
    path = tmp_path / "large.tif"
    block = os.urandom(1024 * 1024)
    path.write_bytes(block * (IN_MEMORY_LIMIT // len(block) + 3))
    ref = store.put_image_file(path)
    assert ref.size == path.stat().st_size > IN_MEMORY_LIMIT
    assert store.get_image(ref) == path.read_bytes()


def test_a_file_that_cannot_be_read_is_told(store, tmp_path):
    for path in (tmp_path / "missing.png", tmp_path):
        with pytest.raises(SourceUnreadable, match="Nothing was sent"):
            store.put_image_file(path)


def test_damage_in_the_store_is_noticed(store):
    ref = store.put_image(b"good", "x.png")
    store.put("images", ref.key, b"evil", "image/png")
    with pytest.raises(Corrupted):
        store.get_image(ref)


def test_what_is_not_there_is_not_found(store):
    with pytest.raises(NotFound):
        store.get("results", "nothing")
    assert not store.exists("results", "nothing")
    store.remove("results", "nothing")


def test_of_many_writers_exactly_one_is_first(store):
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda i: store.put_if_absent("results", "k", b"%d" % i, "text/plain"), range(32)))
    assert won.count(True) == 1
    assert store.get("results", "k") == b"%d" % won.index(True)


def test_keys_are_sorted_limited_and_without_the_empty_folder(store):
    for name in ("b", "a", "c"):
        store.put("jobs", f"pending/{name}", b"", "text/plain")
    assert store.keys("jobs", "pending/") == ["pending/a", "pending/b", "pending/c"]
    assert store.keys("jobs", "pending/", limit=2) == ["pending/a", "pending/b"]
    for name in ("a", "b", "c"):
        store.remove("jobs", f"pending/{name}")
    assert store.keys("jobs", "pending/") == []


def test_a_store_that_does_not_answer_is_one_clear_error(settings):
    away = Store(settings.model_copy(update={"s3_url": "http://127.0.0.1:1"}), retries=0)
    with pytest.raises(StoreUnavailable, match=r"http://127.0.0.1:1 does not answer"):
        away.get("images", image_key("0" * 64))


def test_a_wrong_key_is_refused_and_not_told(settings):
    from pydantic import SecretStr

    stranger = Store(settings.model_copy(update={"s3_secret_key": SecretStr("wrong-secret")}), retries=0)
    with pytest.raises(StoreUnavailable, match="SignatureDoesNotMatch|AccessDenied") as caught:
        stranger.put("images", "x", b"", "text/plain")
    assert "wrong-secret" not in str(caught.value)


def test_pending_records_come_oldest_first_and_go(store):
    records = Records(store)
    jobs = [job_for(store, bytes([i])) for i in range(5)]
    for job in reversed(jobs):
        records.add_pending(job)
    found = records.oldest_pending(3)
    assert [record.job_id for record in found] == [job.job_id for job in jobs[:3]]
    assert records.read_pending(found[0].key) == jobs[0]
    for job in jobs:
        records.remove_pending(job)
        records.remove_pending(job)
    assert records.oldest_pending() == []


def test_a_failure_ends_only_the_submission_that_it_answers(store):
    records = Records(store)
    job = job_for(store)
    assert not records.is_finished(job)
    records.fail(
        Failure(job=job, error="UnreadableImage", message="m", stage="decode", tries=1, completed_at=utc_now())
    )
    assert records.is_finished(job)
    assert records.outcome(job.job_id).message == "m"
    assert not records.is_finished(job.model_copy(update={"submitted_at": utc_now()}))


def test_a_message_that_is_no_job_is_kept(store):
    key = Records(store).keep_undecodable(b"\x80nonsense")
    assert store.get("jobs", key) == b"\x80nonsense"


def test_a_large_file_that_changes_while_it_is_sent_leaves_nothing_behind(store, tmp_path, monkeypatch):
    path = tmp_path / "growing.raw"
    path.write_bytes(b"a" * (IN_MEMORY_LIMIT + 5))
    hash_stream = store_module._hash_stream

    def hash_then_overwrite(file):
        known = hash_stream(file)
        path.write_bytes(b"b" * (IN_MEMORY_LIMIT + 5))
        return known

    monkeypatch.setattr(store_module, "_hash_stream", hash_then_overwrite)
    with pytest.raises(SourceUnreadable, match="changed while it was read"):
        store.put_image_file(path)
    assert store.keys("images") == []
