"""The pages as they are served: what they hold, who sees them, and that nothing comes from elsewhere."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlencode

import pytest

import graticule_producers.gateway.page as page
from graticule.store import Store
from graticule.tokens import Scope, TokenStore
from tests.worker.conftest import wait_until
from tests.worker.test_worker import picture

STATIC = Path(page.__file__).parent / "static"
PAGES = ("/", "/streams", "/jobs", "/dead-letters", "/models", "/models/brightness", "/cluster")


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_html_and_loads_nothing_from_elsewhere(gateway, path):
    answer = gateway.get(path)
    text = answer.body.decode()
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "<h1>" in text
    addresses = re.findall(r'(?:src|href)="([^"]+)"', text)
    assert all(address.startswith(("/", "#")) for address in addresses), addresses
    for address in addresses:
        if address.startswith("/static/"):
            assert gateway.get(address).status == 200, address
    assert not re.search(r"\son\w+=|\sstyle=|<style|<script>", text), "the content policy forbids what is inline"


def test_empty_pages_say_what_to_do(start_gateway):
    gateway = start_gateway()
    assert "graticule watch" in gateway.get("/streams").body.decode()
    assert "No jobs yet" in gateway.get("/jobs").body.decode()
    assert "No job fits" in gateway.get("/jobs?status=failed").body.decode()
    assert "No worker is alive" in gateway.get("/cluster").body.decode()


def test_jobs_can_be_browsed(gateway, worker):
    gateway.submit(("<b>bold</b>.png", picture()), model="brightness", stream="s & t", wait="30")
    bad = gateway.submit(("bad.png", picture()), model="brightness", parameters='{"x": 1}', wait="30")
    wait_until(lambda: "bad.png" in gateway.get("/jobs").body.decode(), what="the page lists the job")
    text = gateway.get("/jobs").body.decode()
    assert "<b>bold" not in text
    assert "&lt;b&gt;bold" in text or "b&gt;.png" in text
    assert 'data-action="retry"' in text
    (job,) = bad.json["jobs"]
    assert "InvalidParameters" in gateway.get(f"/jobs/{job['job_id']}").body.decode()
    assert "bad.png" not in gateway.get("/jobs?status=succeeded").body.decode()
    assert "s &amp; t" in gateway.get("/streams").body.decode()


def test_an_error_is_a_page_for_browsers(gateway):
    answer = gateway.get("/jobs/" + "0" * 32, Accept="text/html")
    assert (answer.status, answer.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert answer.headers["x-request-id"] in answer.body.decode()


@pytest.fixture
def token(shared):
    scopes = frozenset({Scope.SUBMIT, Scope.READ})
    return TokenStore(Store(shared)).create("browser", scopes, timedelta(hours=1))[1]


def log_in(gateway, token, following="/jobs"):
    body = urlencode({"token": token, "next": following}).encode()
    return gateway.post("/login", body, Content_Type="application/x-www-form-urlencoded", Origin=gateway.url)


def test_a_browser_is_sent_to_the_login_and_back(guarded, token):
    asked = guarded.get("/jobs?status=failed")
    assert (asked.status, asked.headers["location"]) == (303, "/login?next=%2Fjobs%3Fstatus%3Dfailed")
    assert 'value="/jobs?status=failed"' in guarded.get(asked.headers["location"]).body.decode()
    answer = log_in(guarded, token, "/jobs?status=failed")
    assert (answer.status, answer.headers["location"]) == (303, "/jobs?status=failed")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert guarded.get("/jobs", Cookie=cookie.partition(";")[0]).status == 200


@pytest.mark.parametrize("elsewhere", ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:x"])
def test_the_login_leads_nowhere_else(guarded, token, elsewhere):
    assert log_in(guarded, token, elsewhere).headers["location"] == "/"


def test_a_wrong_token_stays_outside(guarded):
    answer = log_in(guarded, "grt_000000000000_" + "x" * 43)
    assert (answer.status, "set-cookie" in answer.headers) == (401, False)
    assert "mistyped, expired or revoked" in answer.body.decode()
    assert guarded.get("/jobs", Cookie="graticule_session=invented").status == 303


def test_a_session_changes_nothing_without_the_page_s_own_token(guarded, token):
    cookie = log_in(guarded, token).headers["set-cookie"].partition(";")[0]
    path = "/api/v1/jobs?model=brightness"
    assert guarded.post(path, picture(), Cookie=cookie).status == 403
    csrf = re.search(r'name="csrf" content="([^"]+)"', guarded.get("/", Cookie=cookie).body.decode())
    assert csrf
    assert guarded.post(path, picture(), Cookie=cookie, X_CSRF_Token=csrf[1]).status == 202
    assert guarded.post("/logout", Cookie=cookie).status == 403
    assert guarded.post("/logout", Cookie=cookie, X_CSRF_Token=csrf[1]).status == 204
    assert guarded.get("/jobs", Cookie=cookie).status == 303


def test_vendored_files_carry_their_licences():
    vendored = {path.name for path in (STATIC / "vendor").iterdir()}
    assert {"uPlot.iife.min.js", "uPlot.min.css", "uPlot-LICENSE.txt"} <= vendored
