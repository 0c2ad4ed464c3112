"""Sending pictures: one, several, as a body, waiting or not, twice with one key, and what is refused."""

from __future__ import annotations

import socket
import time

import numpy as np
import pytest

from graticule.store import Store
from tests.contract.test_formats import huge_png, tiff
from tests.gateway.conftest import form
from tests.worker.test_worker import picture


def test_a_form_with_one_picture_gives_its_measurements(gateway, worker):
    answer = gateway.submit(("plate 1.png", picture()), model="brightness", stream="s", wait="30")
    assert answer.status == 200
    (job,) = answer.json["jobs"]
    assert (job["status"], job["filename"], job["stream"], job["lane"]) == (
        "succeeded",
        "plate 1.png",
        "s",
        "interactive",
    )
    measured = job["result"]["measurements"]
    assert (measured["count"], measured["area_fraction"]) == (1, pytest.approx(800 / 10800))
    assert gateway.get(job["links"]["self"]).json == job


def test_a_picture_can_be_the_whole_body(gateway, worker):
    path = "/api/v1/jobs?model=brightness&filename=a.png&wait=30&parameters=%7B%22threshold%22%3A0.4%7D"
    answer = gateway.post(path, picture(), Content_Type="image/png")
    assert answer.status == 200
    (job,) = answer.json["jobs"]
    assert (job["filename"], job["parameters"]) == ("a.png", {"threshold": 0.4})
    assert job["result"]["parameters"]["threshold"] == 0.4


def test_several_pictures_in_one_form_keep_their_order(gateway, worker):
    pictures = [(f"{n}.png", picture((n, 0, n + 10, 10))) for n in (5, 3, 4)]
    answer = gateway.submit(*pictures, model="brightness", wait="30", field="files")
    assert [job["filename"] for job in answer.json["jobs"]] == ["5.png", "3.png", "4.png"]
    boxes = [job["result"]["measurements"]["objects"][0]["bounding_box"][0] for job in answer.json["jobs"]]
    assert boxes == [5, 3, 4]


def test_one_bad_picture_among_several_sends_none(gateway):
    before = Store(gateway.settings).keys("images")
    answer = gateway.submit(("new.png", picture((1, 1, 3, 3))), ("b.png", b"\x89PNG\r\n\x1a\n"), model="brightness")
    assert (answer.status, answer.json["error"]) == (422, "UnreadableImage")
    assert "b.png" in answer.json["detail"]
    assert Store(gateway.settings).keys("images") == before


def test_a_large_picture_goes_through_the_disk_unchanged(gateway, worker):
    pixels = np.random.default_rng(1).integers(0, 255, (4200, 4200), np.uint8)
    data = tiff(pixels)
    assert len(data) > 16 * 1024**2
    (job,) = gateway.submit(("large.tif", data), model="brightness").json["jobs"]
    assert Store(gateway.settings).get("images", f"{job['image_sha256'][:2]}/{job['image_sha256']}") == data


def test_a_key_of_a_request_that_failed_can_be_used_again(gateway):
    wrong, kind = form(("file", "a.png", picture()), model="nonsense")
    assert gateway.post("/api/v1/jobs", wrong, Content_Type=kind, Idempotency_Key="k2").status == 422
    right, kind = form(("file", "a.png", picture()), model="brightness")
    assert gateway.post("/api/v1/jobs", right, Content_Type=kind, Idempotency_Key="k2").status == 202


def test_a_job_that_cannot_be_done_ends_with_its_reason(gateway, worker):
    answer = gateway.submit(("a.png", picture()), model="brightness", parameters='{"nonsense": 1}', wait="30")
    assert answer.status == 200
    (job,) = answer.json["jobs"]
    assert (job["status"], job["failure"]["error"]) == ("failed", "InvalidParameters")
    assert gateway.get(f"/api/v1/jobs/{job['job_id']}/mask.png").status == 409


def test_a_job_that_nobody_knows_is_404_and_a_wrong_id_422(gateway):
    assert gateway.get("/api/v1/jobs/" + "0" * 32).status == 404
    assert gateway.get("/api/v1/jobs/nonsense").status == 422


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({}, 422, "model"),
        ({"model": "nonsense"}, 422, "brightness"),
        ({"model": "../x"}, 422, "model"),
        ({"model": "brightness", "wait": "soon"}, 422, "wait"),
        ({"model": "brightness", "wait": "nan"}, 422, "wait"),
        ({"model": "brightness", "lane": "fast"}, 422, "lane"),
        ({"model": "brightness", "parameters": "[1]"}, 422, "parameters"),
        ({"model": "brightness", "parameters": '{"a": NaN}'}, 422, "parameters"),
        ({"model": "brightness", "stream": "x" * 501}, 422, "stream"),
    ],
)
def test_wrong_fields_are_named(gateway, fields, status, words):
    answer = gateway.submit(("a.png", picture()), **fields)
    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json")
    assert words in answer.json["detail"]


@pytest.mark.parametrize(
    ("data", "status", "error"),
    [
        (b"hello", 415, ""),
        (b"", 422, "UnreadableImage"),
        (picture()[:20], 422, "UnreadableImage"),
        (huge_png(), 413, "ImageTooLarge"),
    ],
)
def test_what_is_no_picture_is_refused_before_anything_is_stored(gateway, data, status, error):
    before = Store(gateway.settings).keys("images")
    answer = gateway.submit(("x.png", data), model="brightness")
    assert (answer.status, answer.json["error"]) == (status, error)
    assert Store(gateway.settings).keys("images") == before


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--",
        b"garbage",
        b"--frontier-of-the-form\r\n",
        b'--frontier-of-the-form\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nx',
        form(("file", "a.png", picture()), model="brightness")[0][:-6],
        b"--frontier-of-the-form\r\n" + b"X" * 20_000 + b": y\r\n\r\n",
    ],
)
def test_damaged_forms_are_the_clients_mistake(gateway, body):
    answer = gateway.post("/api/v1/jobs?model=brightness", body, Content_Type=form()[1])
    assert answer.status in (400, 422)
    assert answer.json["id"] in gateway.output


def test_too_many_files_too_long_names_and_fields_are_refused(gateways):
    gateway = gateways.start(gateway_max_files=2)
    three = [(f"{n}.png", picture()) for n in range(3)]
    assert gateway.submit(*three, model="brightness").status == 413
    assert gateway.submit(("x" * 300 + ".png", picture()), model="brightness").status == 422
    assert gateway.submit(("a.png", picture()), model="brightness", stream="x" * 70_000).status == 413
    assert (
        gateway.submit(("../../etc/passwd.png", picture()), model="brightness").json["jobs"][0]["filename"]
        == "passwd.png"
    )


def test_a_body_over_the_limit_is_refused_without_reading_it(gateways):
    gateway = gateways.start(gateway_max_body=1_000_000)
    host, port = gateway.url.removeprefix("http://").split(":")
    began = time.monotonic()
    with socket.create_connection((host, int(port)), timeout=10) as client:
        head = f"POST /api/v1/jobs?model=brightness HTTP/1.1\r\nHost: {host}\r\nContent-Length: {2 * 1024**3}\r\n\r\n"
        client.sendall(head.encode())
        assert client.recv(1000).startswith(b"HTTP/1.1 413 ")
    assert time.monotonic() - began < 1


def test_a_body_that_says_no_length_is_cut_at_the_limit(gateways):
    gateway = gateways.start(gateway_max_body=100_000)
    host, port = gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(
            b"POST /api/v1/jobs?model=brightness HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        client.sendall((b"10000\r\n" + b"x" * 65536 + b"\r\n") * 3)
        assert client.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_a_client_that_stops_sending_is_given_up(gateways):
    gateway = gateways.start(gateway_body_timeout=0.5)
    host, port = gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(
            b"POST /api/v1/jobs?model=brightness HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nx"
        )
        assert client.recv(1000).startswith(b"HTTP/1.1 408 ")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: local")
        assert client.recv(1000) == b""
