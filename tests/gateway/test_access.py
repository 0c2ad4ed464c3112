"""Who is let in: tokens, scopes, limits, hosts and origins; what every answer carries."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta

import pytest

from graticule.errors import BadInput
from graticule.store import Store
from graticule.tokens import Scope, TokenStore
from graticule.tokens_command import lifetime
from tests.worker.conftest import wait_until
from tests.worker.test_worker import picture


@pytest.fixture
def tokens(shared):
    return TokenStore(Store(shared))


def bearer(text):
    return {"Authorization": f"Bearer {text}"}


def made(tokens, *scopes, lifetime=timedelta(hours=1)):
    return tokens.create("test", frozenset(scopes), lifetime)[1]


def test_nobody_gets_in_without_a_token(guarded):
    for path in ("/api/v1/jobs", "/api/v1/models", "/api/v1/streams", "/api/v1/events", "/api/v1/cluster", "/metrics"):
        answer = guarded.get(path)
        assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer"), path
    assert guarded.submit(("a.png", picture()), model="brightness").status == 401
    assert guarded.get("/healthz").status == guarded.get("/readyz").status == 200


def test_a_token_is_good_for_its_scopes(guarded, tokens):
    texts = [made(tokens, scope) for scope in (Scope.READ, Scope.SUBMIT, Scope.ADMIN)]
    sent = [guarded.post("/api/v1/jobs?model=brightness", picture(), **bearer(text)).status for text in texts]
    read = [guarded.get("/api/v1/jobs", **bearer(text)).status for text in texts]
    assert (sent, read) == ([403, 202, 202], [200, 403, 200])


@pytest.mark.slow
def test_a_revoked_or_expired_or_invented_token_is_worthless(guarded, tokens):
    good = made(tokens, Scope.READ)
    assert guarded.get("/api/v1/jobs", **bearer(good)).status == 200
    assert guarded.get("/api/v1/jobs", **bearer(good[:-1] + ("A" if good[-1] != "A" else "B"))).status == 401
    assert guarded.get("/api/v1/jobs", **bearer("nonsense")).status == 401
    short = made(tokens, Scope.READ, lifetime=timedelta(seconds=-1))
    assert guarded.get("/api/v1/jobs", **bearer(short)).status == 401
    tokens.revoke(good.split("_")[1])
    wait_until(lambda: guarded.get("/api/v1/jobs", **bearer(good)).status == 401, 15, "the revoked token is refused")


def test_the_store_knows_no_secret(tokens, shared):
    text = made(tokens, Scope.READ)
    secret = text.split("_", 2)[2]
    store = Store(shared)
    kept = [store.get("access", key) for key in store.keys("access", "tokens/")]
    assert kept
    assert not any(secret.encode() in entry for entry in kept)


def test_guessing_is_slowed_down(gateways):
    guarded = gateways.start(gateway_auth="on")
    answers = [guarded.get("/api/v1/jobs", **bearer(f"wrong-{n}")).status for n in range(40)]
    assert answers[:30] == [401] * 30
    assert answers[-1] == 429


def test_a_token_that_asks_too_often_is_told_when_to_come_back(gateways, tokens):
    gateway = gateways.start(gateway_auth="on", gateway_requests_per_minute=5)
    one, other = made(tokens, Scope.READ), made(tokens, Scope.READ)
    answers = [gateway.get("/api/v1/jobs", **bearer(one)) for _ in range(6)]
    assert [answer.status for answer in answers] == [200] * 5 + [429]
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 12
    assert gateway.get("/api/v1/jobs", **bearer(other)).status == 200


def test_loopback_needs_no_token_but_every_other_address_does(shared, gateway):
    from graticule_producers.gateway.core import wants_tokens

    for host, wanted in (("127.0.0.1", False), ("::1", False), ("localhost", False), ("0.0.0.0", True), ("lab", True)):
        assert wants_tokens(shared.model_copy(update={"gateway_host": host})) is wanted
    assert gateway.get("/api/v1/jobs").status == 200


def test_pages_elsewhere_can_neither_read_nor_send(gateway):
    foreign = gateway.post("/api/v1/jobs?model=brightness", picture(), Origin="https://evil.example")
    assert (foreign.status, "access-control-allow-origin" in foreign.headers) == (403, False)
    assert gateway.post("/api/v1/jobs?model=brightness", picture(), Sec_Fetch_Site="cross-site").status == 403
    assert gateway.post("/api/v1/jobs?model=brightness", picture(), Origin="null").status == 403
    assert gateway.get("/api/v1/jobs", Host="evil.example").status == 421
    assert gateway.post("/api/v1/jobs?model=brightness", picture(), Origin=gateway.url).status == 202


def test_a_named_origin_may_call(gateways):
    gateway = gateways.start(gateway_origins="https://lab.example")
    asked = gateway.ask("OPTIONS", "/api/v1/jobs", Origin="https://lab.example", Access_Control_Request_Method="POST")
    assert asked.headers["access-control-allow-origin"] == "https://lab.example"
    assert gateway.post("/api/v1/jobs?model=brightness", picture(), Origin="https://lab.example").status == 202
    assert gateway.post("/api/v1/jobs?model=brightness", picture(), Origin="https://other.example").status == 403


def test_every_answer_carries_the_security_headers_and_an_id(gateway):
    for path in ("/healthz", "/nothing", "/api/v1/jobs"):
        headers = gateway.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert len(headers["x-request-id"]) == 16
        assert "server" not in headers


def test_an_error_is_a_problem_document_whose_id_is_in_the_log(gateway):
    answer = gateway.get("/nothing")
    assert (answer.status, answer.headers["content-type"]) == (404, "application/problem+json")
    assert answer.json == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "Not Found",
        "error": "",
        "id": answer.headers["x-request-id"],
    }
    assert answer.json["id"] in gateway.output


def test_the_command_makes_lists_and_revokes_tokens(guarded):
    def graticule(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "graticule", "tokens", *arguments],
            env={**os.environ, **guarded.settings.to_env(), "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=60,
        )

    text = graticule("create", "notebook of Ada", "--scope", "read", "--expires", "12h").stdout.strip()
    assert guarded.get("/api/v1/jobs", **bearer(text)).status == 200
    listing = graticule("list").stdout
    assert "notebook of Ada" in listing
    assert text.split("_", 2)[2] not in listing
    assert graticule("revoke", text.split("_")[1]).returncode == 0
    assert "notebook" not in graticule("list").stdout
    assert graticule("revoke", "000000000000").returncode == 2
    assert "submit, read, admin" in graticule("create", "x", "--scope", "all").stderr


@pytest.mark.parametrize(("text", "hours"), [("12h", 12), ("2d", 48), ("1w", 168), ("never", None)])
def test_lifetimes(text, hours):
    assert lifetime(text) == (timedelta(hours=hours) if hours else None)


@pytest.mark.parametrize("text", ["", "0d", "3", "-1h", "5y", "١h"])
def test_a_lifetime_that_is_none_is_refused(text):
    with pytest.raises(BadInput, match="90d"):
        lifetime(text)
