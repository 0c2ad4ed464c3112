"""Every page, checked by axe-core in a real Chromium: light and dark, on a screen and on a phone."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta

import numpy as np
import pytest

from graticule.dead_letters import DeadLetter, DeadLetters
from graticule.jobs import utc_now
from graticule.records import Records
from graticule.store import Store
from graticule.tokens import Scope, TokenStore
from tests.gateway.chromium import NEEDS_CHROMIUM, Visit, upload
from tests.worker.conftest import wait_until
from tests.worker.test_worker import picture

axe_playwright = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")

pytestmark = NEEDS_CHROMIUM

SCREEN, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
LOOKS = [
    pytest.param({"color_scheme": scheme, "viewport": size}, id=f"{scheme}-{size['width']}")
    for scheme in ("light", "dark")
    for size in (SCREEN, PHONE)
]


def findings(page) -> list[str]:
    """What axe-core calls serious or critical."""
    found = axe_playwright.Axe().run(page).response["violations"]
    return [
        f"{page.url}: {rule['impact']}: {rule['help']}: {node['html'][:160]} {node['failureSummary']}"
        for rule in found
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]


@pytest.fixture(scope="module")
def busy(gateway, worker, shared) -> dict[str, str]:
    """A cluster that has something to show on each page; name -> job."""
    jobs = {}
    for name, sent, fields in (
        ("good", ("good.png", picture()), {"stream": "tem"}),
        ("empty", ("empty.png", picture((0, 0, 0, 0))), {"stream": "tem"}),
        ("failed", ("failed.png", picture((3, 3, 9, 9))), {"parameters": '{"x": 2}'}),
    ):
        jobs[name] = gateway.submit(sent, model="brightness", wait="30", **fields).json["jobs"][0]["job_id"]
    tensor = {"name": "image", "datatype": "FP32", "shape": [1, 1, 16, 16], "data": np.zeros(256).tolist()}
    assert gateway.post("/oip/v2/models/brightness/infer", bytes_of({"inputs": [tensor]})).status == 200
    is_tensors = lambda job: job["filename"].endswith(".safetensors")  # noqa: E731
    listed = wait_until(lambda: [*filter(is_tensors, gateway.get("/api/v1/jobs").json["jobs"])], what="it is listed")
    jobs["tensors"] = listed[0]["job_id"]
    records = Records(Store(shared))
    outcome = records.outcome(jobs["good"])
    assert outcome
    letter = DeadLetter(job=outcome.job, error="Poison", message="It died.", stage="infer", given_up_at=utc_now())
    DeadLetters(shared, records).keep(letter)
    return jobs


def bytes_of(question: object) -> bytes:
    return json.dumps(question).encode()


def measured(page) -> None:
    upload(page, "shown.png", picture())
    page.focus("#objects tbody tr")


def live(page) -> None:
    page.wait_for_selector("#state:has-text('Live')")
    page.wait_for_selector("#plot-fraction canvas")


def viewed(page) -> None:
    page.wait_for_selector("#viewer:not([hidden]) #title")


PAGES: list[tuple[str, Callable[[object], None] | None]] = [
    ("/", None),
    ("/", measured),
    ("/streams?stream=tem", live),
    ("/streams?stream=nobody", None),
    ("/jobs", None),
    ("/jobs?text=nothing-like-it", None),
    ("/jobs/{good}", viewed),
    ("/jobs/{empty}", viewed),
    ("/jobs/{failed}", None),
    ("/jobs/{tensors}", None),
    ("/dead-letters", None),
    ("/models", None),
    ("/models/brightness", None),
    ("/cluster", None),
    ("/models/nonsense", None),
]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("look", LOOKS)
def test_no_page_has_a_serious_finding(browser, gateway, busy, look):
    visit = Visit(browser, gateway.url, **look)
    found = []
    for path, prepare in PAGES:
        visit.page.goto(path.format(**busy))
        if prepare:
            prepare(visit.page)
        found += findings(visit.page)
    visit.context.close()
    assert found == []


@pytest.mark.parametrize("look", LOOKS)
def test_the_pages_around_a_login_have_no_serious_finding(browser, guarded, shared, look):
    token = TokenStore(Store(shared)).create("axe", frozenset({Scope.READ}), timedelta(hours=1))[1]
    visit = Visit(browser, guarded.url, **look)
    page = visit.page
    page.goto("/login")
    found = findings(page)
    page.fill("#token", "wrong")
    page.keyboard.press("Enter")
    page.wait_for_selector("[role=alert], .problem")
    found += findings(page)
    page.fill("#token", token)
    page.keyboard.press("Enter")
    page.wait_for_selector("#log-out")
    found += findings(page)
    visit.context.close()
    assert found == []
