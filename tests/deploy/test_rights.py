"""Each role can do its work with its own keys, and nothing else: real processes, real servers, the files of deploy/."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import redis

from graticule import rights_command
from graticule.broker import connect_redis
from graticule.client import Client
from graticule.errors import StoreUnavailable
from graticule.registry import Registry
from graticule.results import Result
from graticule.rights import RIGHTS, BucketRights, Role, redis_acl, redis_roles, rights_table, s3_policy, s3_roles
from graticule.settings import Settings, load_settings
from graticule.store import PURPOSES, Store
from graticule.submit import Submitter
from tests.contract.test_formats import png
from tests.deploy.conftest import DEPLOY, Lab, wait_for
from tests.worker.conftest import WorkerProcess

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def picture(seed: int = 0) -> bytes:
    pixels = np.zeros((64, 64), np.uint8)
    pixels[4 : 20 + seed % 30, 4:20] = 255
    return png(pixels)


def refusals(lab: Lab) -> list[str]:
    """What Redis refused since it was asked last: who, what. That a client may not say who it is does no harm."""
    with connect_redis(lab.settings(Role.ADMIN)) as admin:
        entries = admin.acl_log()
        admin.acl_log_reset()
    told = [f"{entry['username']}: {entry['reason']} {entry['object']} ({entry['context']})" for entry in entries]
    return [line for line in told if " command client" not in line]


@pytest.fixture
def worker(lab: Lab, tmp_path: Path) -> Iterator[WorkerProcess]:
    made = WorkerProcess(lab.settings(Role.WORKER, metrics_port=0), tmp_path / "worker.log")
    made.start()
    yield made
    made.kill()


# -- what each role needs, it can do --------------------------------------------------------------------------


def test_a_client_submits_and_reads_what_a_worker_made(lab, worker):
    refusals(lab)
    client = Client(lab.settings(Role.CLIENT))
    handles = [client.submit(picture(index), "brightness", filename=f"{index}.png") for index in range(12)]
    results = [handle.result(60) for handle in handles]
    assert all(result.measurements.count == 1 for result in results)
    assert client.mask(results[0]).shape == (64, 64)
    assert client.picture(results[0]).shape[:2] == (64, 64)
    admin = Store(lab.settings(Role.ADMIN))
    wait_for(lambda: not admin.keys("jobs", "pending/"), 30, "no pending record is left")
    assert worker.stop() == 0
    assert "AccessDenied" not in worker.output
    assert refusals(lab) == []


def test_a_watcher_sends_with_the_keys_of_an_agent(lab, worker, tmp_path):
    refusals(lab)
    camera = tmp_path / "camera"
    camera.mkdir()
    for index in range(5):
        (camera / f"{index}.png").write_bytes(picture(20 + index))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "graticule", "watch", str(camera), "-m", "brightness", "--once", "--existing"),
            *("--journal", str(tmp_path / "journal.db"), "--stream", "camera"),
        ],
        env={**os.environ, **lab.settings(Role.AGENT).to_env()},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    admin = Client(lab.settings(Role.ADMIN))
    wait_for(lambda: len(_succeeded(admin, "camera")) == 5, 60, "every picture of the camera has a result")
    assert refusals(lab) == []


def _succeeded(client: Client, stream: str) -> list[Result]:
    outcomes = (client.outcome(folder.rstrip("/")) for folder in client.store.keys("results"))
    return [outcome for outcome in outcomes if isinstance(outcome, Result) and outcome.job.stream == stream]


def test_a_large_picture_goes_up_in_parts_with_the_keys_of_an_agent(lab, tmp_path):
    large = tmp_path / "large.bin"
    large.write_bytes(os.urandom(34 * 1024**2))
    ref = Store(lab.settings(Role.AGENT)).put_image_file(large)
    assert Store(lab.settings(Role.CLIENT)).get_image(ref) == large.read_bytes()


def test_a_job_whose_worker_was_killed_is_done_by_the_next_one(lab, worker, tmp_path):
    """The rights for redelivery and the reconciler: nothing but an outage shows that they are there."""
    refusals(lab)
    settings = lab.settings(Role.CLIENT)
    client = Client(settings)
    worker.kill()
    handles = [client.submit(picture(index), "brightness", filename=f"k{index}.png", stream="k") for index in range(8)]
    # Messages that are lost, and messages that nobody acknowledged.
    with connect_redis(lab.settings(Role.ADMIN)) as admin:
        assert admin.llen("brightness.interactive") == 8
        admin.lpop("brightness.interactive")
    quick = lab.settings(Role.WORKER, visibility_timeout=6, task_deadline=5)
    second, third = (WorkerProcess(quick, tmp_path / f"{name}.log") for name in ("second", "third"))
    try:
        second.start()
        wait_for(lambda: any(client.outcome(handle.job_id) for handle in handles), 60, "work has begun")
        second.kill()
        third.start()
        assert all(handle.result(60).measurements.count == 1 for handle in handles)
        assert third.stop() == 0
    finally:
        second.kill()
        third.kill()
    assert refusals(lab) == []


def test_a_publisher_publishes_and_removes_models(lab, tmp_path):
    from tests.models import write_brightness_model

    registry = Registry(Store(lab.settings(Role.PUBLISHER)))
    write_brightness_model(tmp_path / "m", name="passing", version="1.0.0")
    registry.publish(tmp_path / "m")
    assert registry.production("passing") == "1.0.0"
    registry.remove_model("passing")
    assert "passing" not in registry.names()


# -- what a role does not need, it cannot do --------------------------------------------------------------------

SECRET_KEY = "pending/secret.json"


@pytest.mark.parametrize("role", s3_roles())
def test_the_store_refuses_everything_that_is_not_a_right(lab, role):
    """Read, write, remove and list in every bucket: exactly the rights, tried one by one."""
    admin, store = Store(lab.settings(Role.ADMIN)), Store(lab.settings(role), retries=0)
    of = {bucket.purpose: bucket for bucket in RIGHTS[role].buckets}
    for purpose in PURPOSES:
        admin.put(purpose, SECRET_KEY, b"kept", "text/plain")
        rights = of.get(purpose, BucketRights(purpose))
        tried = {
            "read": (partial(store.get, purpose, SECRET_KEY), rights.read),
            "list": (partial(store.keys, purpose), rights.read),
            "write": (partial(store.put, purpose, SECRET_KEY, b"forged", "text/plain"), _covers(rights.write)),
            "remove": (partial(store.remove, purpose, SECRET_KEY), _covers(rights.remove)),
        }
        for action, (attempt, allowed) in tried.items():
            assert _is_allowed(attempt) is allowed, f"{role} may {action} {purpose}: expected {allowed}"
        admin.remove(purpose, SECRET_KEY)


def _covers(keys: tuple[str, ...]) -> bool:
    """Whether patterns take `SECRET_KEY`."""
    return any(fnmatchcase(SECRET_KEY, pattern) for pattern in keys)


def _is_allowed(attempt) -> bool:
    try:
        attempt()
    except StoreUnavailable as error:
        assert "AccessDenied" in str(error)
        return False
    return True


def test_a_producer_can_neither_take_back_nor_look_at_what_was_sent(lab):
    settings = lab.settings(Role.AGENT)
    job = Submitter(settings, producer="test").submit_bytes(picture(1), "agent.png", "brightness", stream="refused")
    with connect_redis(settings) as agent:
        for command in (
            ("LRANGE", job.queue, 0, -1),
            ("RPOP", job.queue),
            ("BRPOP", job.queue, 1),
            ("DEL", job.queue),
            ("LREM", job.queue, 0, "x"),
            ("RENAME", job.queue, "elsewhere.bulk"),
            ("KEYS", "*"),
            ("SCAN", 0),
            ("FLUSHDB",),
            ("FLUSHALL",),
            ("CONFIG", "GET", "*"),
            ("ACL", "LIST"),
            ("MONITOR",),
            ("SHUTDOWN", "NOSAVE"),
            ("EVAL", "return redis.call('FLUSHALL')", 0),
            ("XREAD", "STREAMS", "graticule:events", "0"),
            ("HGETALL", "unacked"),
            ("LPUSH", "graticule:workers", "x"),
            ("PUBLISH", "/0.celery.pidbox", "shutdown"),
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                agent.execute_command(*command)
    with connect_redis(lab.settings(Role.ADMIN)) as admin:
        assert admin.llen(job.queue) >= 1
        admin.delete(job.queue)
    for key in Store(lab.settings(Role.ADMIN)).keys("jobs", "pending/"):
        Store(lab.settings(Role.ADMIN)).remove("jobs", key)
    refusals(lab)


@pytest.mark.parametrize("role", [role for role in redis_roles() if role is not Role.ADMIN])
@pytest.mark.parametrize(
    "command", [("FLUSHALL",), ("CONFIG", "GET", "*"), ("ACL", "LIST"), ("KEYS", "*"), ("SHUTDOWN",)]
)
def test_nobody_but_the_administrator_rules_redis(lab, role, command):
    with connect_redis(lab.settings(role)) as client, pytest.raises(redis.exceptions.NoPermissionError):
        client.execute_command(*command)
    refusals(lab)


def test_flower_and_the_gateway_cannot_take_jobs(lab):
    for role in (Role.FLOWER, Role.GATEWAY, Role.MONITOR):
        with connect_redis(lab.settings(role)) as client:
            for command in (("BRPOP", "brightness.bulk", 1), ("RPOP", "brightness.bulk")):
                with pytest.raises(redis.exceptions.NoPermissionError):
                    client.execute_command(*command)
    refusals(lab)


def test_without_a_password_there_is_nothing(lab):
    with redis.Redis(port=lab.ports["redis"]) as nobody, pytest.raises(redis.exceptions.AuthenticationError):
        nobody.ping()
    guess = redis.Redis(port=lab.ports["redis"], username="worker", password="wrong")
    with guess, pytest.raises(redis.exceptions.AuthenticationError):
        guess.ping()


# -- one source -----------------------------------------------------------------------------------------------------


def printed(capsys, form: str, role: str = "") -> str:
    assert rights_command.show(load_settings(), form, role) == 0
    return capsys.readouterr().out


def test_the_files_of_deploy_are_those_of_the_rights(capsys):
    hint = "run: graticule rights redis > deploy/redis/users.acl; graticule rights seaweedfs > deploy/seaweedfs/s3.json"
    assert (DEPLOY / "redis" / "users.acl").read_text() == printed(capsys, "redis"), hint
    assert (DEPLOY / "seaweedfs" / "s3.json").read_text() == printed(capsys, "seaweedfs"), hint


def test_the_documentation_shows_the_rights():
    assert rights_table() in (DEPLOY.parent / "docs" / "deploy.md").read_text(), "run: graticule rights"


def test_a_namespace_narrows_every_right():
    settings = Settings(namespace="lab-two", data_dir=Path("/nonexistent"))
    agent = next(line for line in redis_acl(settings, dict.fromkeys(Role, "nopass")).splitlines() if " agent " in line)
    assert all(word[1:].startswith("lab-two:") for word in agent.split() if word[0] == "~")
    policy = json.dumps(s3_policy(Role.AGENT, settings))
    assert "arn:aws:s3:::lab-two-images/*" in policy and "arn:aws:s3:::images" not in policy
