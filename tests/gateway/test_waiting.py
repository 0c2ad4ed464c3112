"""Jobs that wait: told where they are, sent once, cancelled, tried again, refused when the queue is full."""

from __future__ import annotations

import socket

import pytest

from graticule.broker import connect_redis
from graticule.client import Client
from graticule.store import Store
from tests.gateway.conftest import form
from tests.worker.conftest import wait_until
from tests.worker.test_worker import picture


def test_without_waiting_the_answer_is_the_address_of_the_job(start_gateway):
    gateway = start_gateway()
    answer = gateway.submit(("a.png", picture()), model="brightness")
    assert answer.status == 202
    (job,) = answer.json["jobs"]
    assert answer.headers["location"] == f"/api/v1/jobs/{job['job_id']}"
    shown = gateway.get(answer.headers["location"]).json
    assert (shown["status"], shown["result"], shown["completed_at"]) == ("waiting", None, None)


def test_the_same_request_with_the_same_key_is_done_once(start_gateway):
    gateway = start_gateway()
    body, kind = form(("file", "a.png", picture()), model="brightness")
    first = gateway.post("/api/v1/jobs", body, Content_Type=kind, Idempotency_Key="k1")
    pending = Store(gateway.settings).keys("jobs", "pending/")
    again = gateway.post("/api/v1/jobs", body, Content_Type=kind, Idempotency_Key="k1")
    assert first.status == again.status == 202
    assert again.json["jobs"][0]["submitted_at"] == first.json["jobs"][0]["submitted_at"]
    assert Store(gateway.settings).keys("jobs", "pending/") == pending
    other, kind = form(("file", "b.png", picture((0, 0, 5, 5))), model="brightness")
    refused = gateway.post("/api/v1/jobs", other, Content_Type=kind, Idempotency_Key="k1")
    assert (refused.status, "Idempotency-Key" in refused.json["detail"]) == (422, True)


def test_a_full_queue_is_told_before_the_body_is_read(start_gateway):
    gateway = start_gateway(gateway_max_queue=3)
    with connect_redis(gateway.settings) as broker:
        broker.rpush(f"{gateway.settings.key_prefix}brightness.interactive", "a", "b", "c")
    host, port = gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(
            b"POST /api/v1/jobs?model=brightness HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
        )
        head = client.recv(2000)
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after:" in head.lower()
    assert gateway.submit(("a.png", picture()), model="brightness").json["error"] == "QueueFull"
    assert gateway.submit(("a.png", picture()), model="brightness", lane="bulk").status == 202


def test_a_waiting_job_can_be_cancelled_and_tried_again(start_gateway, start_worker):
    gateway = start_gateway()
    (job,) = gateway.submit(("a.png", picture()), model="brightness").json["jobs"]
    path = f"/api/v1/jobs/{job['job_id']}"
    cancelled = gateway.post(f"{path}/cancel")
    assert (cancelled.status, cancelled.json["status"], cancelled.json["failure"]["error"]) == (
        200,
        "failed",
        "Cancelled",
    )
    assert Store(gateway.settings).keys("jobs", "pending/") == []
    assert gateway.post(f"{path}/cancel").status == 409
    start_worker()
    assert gateway.get(path).json["status"] == "failed"
    retried = gateway.post(f"{path}/retry")
    assert (retried.status, retried.json["status"]) == (202, "waiting")
    assert gateway.get(f"{path}?wait=30").json["status"] == "succeeded"
    assert gateway.post(f"{path}/retry").status == 409


@pytest.mark.slow
def test_a_job_of_another_producer_is_found_while_it_waits_and_when_it_is_done(start_gateway, brightness, start_worker):
    gateway = start_gateway()
    handle = Client(brightness).submit(picture(), "brightness", filename="theirs.png", stream="s")
    path = f"/api/v1/jobs/{handle.job_id}"
    assert gateway.get(path).json["status"] == "waiting"
    assert [job["filename"] for job in gateway.get("/api/v1/jobs?status=waiting").json["jobs"]] == ["theirs.png"]
    start_worker()
    assert gateway.get(f"{path}?wait=30").json["status"] == "succeeded"
    wait_until(lambda: gateway.get("/api/v1/jobs").json["jobs"], what="the index knows the job")
