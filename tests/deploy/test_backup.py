"""Backup, wipe, restore: every result can be read as before, and what waited is done."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from graticule import backup
from graticule.broker import connect_redis
from graticule.client import Client
from graticule.errors import BadInput
from graticule.job_index import Filter, JobIndex
from graticule.registry import Registry
from graticule.rights import Role
from graticule.store import PURPOSES, Store
from graticule.submit import Submitter
from graticule.tokens import Scope, TokenStore
from tests.conftest import _remove_bucket
from tests.deploy.conftest import Lab
from tests.deploy.test_rights import picture
from tests.worker.conftest import WorkerProcess, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def graticule(lab: Lab, *arguments: str, role: Role = Role.ADMIN) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "graticule", *arguments],
        env={**os.environ, **lab.settings(role).to_env()},
        capture_output=True,
        text=True,
        timeout=120,
    )


def wipe(lab: Lab) -> None:
    admin = lab.settings(Role.ADMIN)
    store = Store(admin)
    for purpose in PURPOSES:
        for item in list(store.walk(purpose)):
            store.remove(purpose, item.key)
    with connect_redis(admin) as broker:
        broker.flushdb()


def test_after_a_restore_everything_is_as_before(lab, tmp_path):
    admin = lab.settings(Role.ADMIN)
    client = Client(lab.settings(Role.CLIENT))
    worker = WorkerProcess(lab.settings(Role.WORKER), tmp_path / "worker.log")
    worker.start()
    try:
        handles = [client.submit(picture(i), "brightness", filename=f"b {i}ü.png", stream="backup") for i in range(10)]
        results = {handle.job_id: handle.result(60) for handle in handles}
    finally:
        worker.stop()
    masks = {job: client.mask(result).tobytes() for job, result in results.items()}
    _, token = TokenStore(Store(admin)).create("laptop", frozenset({Scope.READ}), None)
    waiting = Submitter(client.settings, producer="test").submit_bytes(picture(19), "waits.png", "brightness")

    folder = tmp_path / "backup"
    first = graticule(lab, "backup", str(folder))
    assert first.returncode == 0, first.stderr
    again = graticule(lab, "backup", str(folder))
    assert "0 were copied" in again.stdout

    wipe(lab)
    assert client.outcome(handles[0].job_id) is None
    # A backup of the empty store does not spoil the one before.
    assert "0 objects are in the backup" in graticule(lab, "backup", str(folder)).stdout
    names = backup.listings(folder)
    done = graticule(lab, "restore", str(folder), "--backup", names[-2])
    assert done.returncode == 0, done.stderr
    assert graticule(lab, "reindex").returncode == 0

    for job, result in results.items():
        assert client.outcome(job) == result
        assert client.mask(result).tobytes() == masks[job]
        assert client.picture(result).shape[:2] == (64, 64)
    assert Registry(client.store).production("brightness") == "1.0.0"
    assert TokenStore(Store(admin)).verify(token)
    page, _ = JobIndex(admin).page(Filter(stream="backup"))
    assert {summary.job_id for summary in page} == set(results)
    image = results[handles[3].job_id].job.image
    assert Store(admin).image_metadata(image) == {"filename": "b 3ü.png"}

    worker.start()
    try:
        wait_until(lambda: client.outcome(waiting.job_id), 60, "the job that waited when the backup was made is done")
    finally:
        worker.stop()


def test_a_restore_leaves_what_is_there_and_can_be_repeated(settings, tmp_path):
    store = Store(settings)
    store.put("results", "job/result.json", b"old", "application/json")
    store.put("results", "job/mask.png", b"mask", "image/png")
    backup.back_up(store, tmp_path)
    store.put("results", "job/result.json", b"new", "application/json")
    store.remove("results", "job/mask.png")
    assert backup.restore(store, tmp_path).copied == 1
    assert backup.restore(store, tmp_path).copied == 0
    assert store.get("results", "job/result.json") == b"new"
    assert store.get("results", "job/mask.png") == b"mask"


def test_a_damaged_backup_restores_nothing(settings, tmp_path):
    store = Store(settings)
    for name in ("a", "b"):
        store.put("results", f"job/{name}", b"bytes", "text/plain")
    backup.back_up(store, tmp_path)
    (tmp_path / "objects" / "results" / "job" / "a").write_bytes(b"byte")
    _remove_bucket(store, settings.bucket("results"))
    with pytest.raises(BadInput, match="1 of 2 files of the backup are missing or damaged"):
        backup.restore(store, tmp_path)
    with pytest.raises(BadInput, match="no backup"):
        backup.restore(store, tmp_path / "elsewhere")
    store.create_buckets()


@pytest.mark.parametrize("key", ["pending/../../../escape", "pending/./x", "pending//x"])
def test_no_key_leads_out_of_the_backup(tmp_path, key):
    assert backup._path(tmp_path, "jobs", key) is None


def test_names_that_no_file_system_takes_are_kept(settings, tmp_path):
    store = Store(settings)
    store.put("jobs", "pending/a:b*c?.json", b"{}", "application/json")
    backup.back_up(store, tmp_path)
    store.remove("jobs", "pending/a:b*c?.json")
    backup.restore(store, tmp_path)
    assert store.get("jobs", "pending/a:b*c?.json") == b"{}"
    assert json.loads((tmp_path / "listings" / f"{backup.listings(tmp_path)[0]}.jsonl").read_text())["size"] == 2
