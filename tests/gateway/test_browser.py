"""The page in a real Chromium: what a person does and sees. No console message, no request to elsewhere."""

from __future__ import annotations

import io
from datetime import timedelta

import numpy as np
import pytest
from PIL import Image

from graticule.dead_letters import DeadLetter, DeadLetters
from graticule.jobs import utc_now
from graticule.records import Records
from graticule.store import Store
from graticule.tokens import Scope, TokenStore
from tests.contract.test_formats import png
from tests.gateway.chromium import NEEDS_CHROMIUM, Visit, upload
from tests.worker.conftest import wait_until
from tests.worker.test_worker import picture

pytestmark = NEEDS_CHROMIUM


def test_an_upload_shows_mask_and_numbers_of_its_result(visit, gateway, worker):
    page = visit.page
    page.goto("/")
    upload(page, "seen.png", picture())
    result = page.evaluate("async () => (await fetch(document.querySelector('#links a:nth-child(2)').href)).json()")
    (found,) = result["measurements"]["objects"]
    cells = page.locator("#objects tbody tr td").all_text_contents()
    centre = ", ".join(f"{value:.1f}" for value in found["centroid"])
    radius, confidence = f"{found['equivalent_radius']:.1f}", f"{found['confidence']:.2f}"
    assert cells == ["1", "bright", str(found["area"]), radius, centre, "no", confidence]
    assert page.locator("#facts dd").first.text_content() == "1"
    page.wait_for_function("document.getElementById('layer').naturalWidth === 120")
    shown = np.asarray(Image.open(io.BytesIO(page.locator("#stage").screenshot())).convert("RGB")).astype(int)
    reddish = shown[:, :, 0] - shown[:, :, 1] > 60
    assert reddish.mean() == pytest.approx(800 / 10800, rel=0.1)
    visit.assert_clean()


def test_the_opacity_and_the_object_under_the_pointer(visit, gateway, worker):
    page = visit.page
    page.goto("/")
    upload(page, "pointed.png", picture())
    page.focus("#opacity")
    page.keyboard.press("Home")
    assert page.evaluate("document.getElementById('layer').style.opacity") == "0"
    box = page.locator("#stage").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 40 / 120, box["y"] + box["height"] * 20 / 90)
    assert page.locator("#hovered").text_content().startswith("No. 1, bright: 800 px")
    page.mouse.move(box["x"] + box["width"] * 100 / 120, box["y"] + box["height"] * 80 / 90)
    assert page.locator("#box").is_hidden()
    page.focus("#objects tbody tr")
    assert page.locator("#box").is_visible()
    visit.assert_clean()


def test_a_stream_grows_without_a_reload(visit, gateway, worker):
    send = lambda side: gateway.submit(  # noqa: E731
        (f"side-{side}.png", picture((0, 0, side, side))), model="brightness", stream="live", wait="30"
    )
    send(10)
    wait_until(lambda: b"live" in gateway.get("/streams").body, what="the stream is listed")
    page = visit.page
    page.goto("/streams?stream=live")
    page.wait_for_selector("#newest-text:has-text('side-10.png')")
    page.wait_for_selector("#state:has-text('Live')")
    page.evaluate("window.stayed = true")
    send(20)
    page.wait_for_selector("#newest-text:has-text('side-20.png: 1 objects, 3.70 %')")
    assert page.locator("#strip li").count() == 2
    assert page.evaluate("window.stayed")
    assert page.locator("#plot-fraction canvas").count() == 1
    visit.assert_clean()


def test_a_job_that_failed_is_tried_again(visit, gateway, worker):
    gateway.submit(("again.png", picture((3, 3, 9, 9))), model="brightness", parameters='{"x": 2}', wait="30")
    wait_until(lambda: b"again.png" in gateway.get("/jobs?status=failed").body, what="the failure is listed")
    page = visit.page
    page.goto("/jobs?text=again.png")
    before = page.locator("tbody time").get_attribute("datetime")
    page.click("button[data-action=retry]")
    page.wait_for_function(
        "before => document.querySelector('tbody time')?.getAttribute('datetime') !== before", arg=before
    )
    visit.assert_clean()


def test_a_dead_letter_is_tried_again(visit, gateway, worker, shared):
    job = gateway.submit(("dead.png", picture((4, 4, 30, 9))), model="brightness", wait="30").json["jobs"][0]
    records = Records(Store(shared))
    found = records.outcome(job["job_id"])
    assert found
    letters = DeadLetters(shared, records)
    letters.keep(DeadLetter(job=found.job, error="Poison", message="It died.", stage="infer", given_up_at=utc_now()))
    page = visit.page
    page.goto("/dead-letters")
    assert "It died." in page.locator("tbody").text_content()
    page.click("button[data-action=retry]")
    page.wait_for_selector(".empty:has-text('There are none.')")
    assert letters.ids() == []
    visit.assert_clean()


def test_login_and_logout(browser, guarded, shared):
    scopes = frozenset({Scope.SUBMIT, Scope.READ})
    token = TokenStore(Store(shared)).create("browser", scopes, timedelta(hours=1))[1]
    visit = Visit(browser, guarded.url)
    page = visit.page
    page.goto("/models")
    assert page.url.endswith("/login?next=%2Fmodels")
    page.fill("#token", token)
    page.keyboard.press("Enter")
    page.wait_for_url("**/models")
    page.click("#log-out")
    page.wait_for_url("**/login")
    page.goto("/models")
    assert "/login" in page.url
    visit.assert_clean()
    visit.context.close()


def test_the_page_fits_a_phone(browser, gateway, worker):
    visit = Visit(browser, gateway.url, viewport={"width": 360, "height": 740}, color_scheme="dark")
    page = visit.page
    page.goto("/")
    upload(page, "phone.png", picture())
    for path in ("", "/jobs", "/models/brightness", "/cluster"):
        if path:
            page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path
    visit.assert_clean()
    visit.context.close()


def test_a_gateway_that_is_gone_is_told(browser, gateways):
    gateway = gateways.start()
    visit = Visit(browser, gateway.url)
    visit.page.goto("/cluster")
    gateway.stop()
    visit.page.wait_for_selector("#state.lost")
    assert "does not answer" in visit.page.locator("#state").text_content()
    visit.context.close()


def test_a_picture_without_objects_says_so(visit, gateway, worker):
    visit.page.goto("/")
    upload(visit.page, "empty.png", png(np.zeros((40, 60), np.uint8)))
    assert "nothing was found" in visit.page.locator("#objects").text_content()
    visit.assert_clean()
