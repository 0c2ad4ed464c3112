"""Makes the README's screenshots of the page: `python docs/images/page.py` where Chromium and playwright are."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from benchmarks.gateway import running_gateway
from graticule.local.cluster import EmbeddedCluster
from graticule.settings import Settings, load_settings

HERE = Path(__file__).parent
WIDE, PHONE = {"width": 1200, "height": 860}, {"width": 390, "height": 844}
PICTURES = 40
SECONDS_BETWEEN = 2


def main() -> None:
    """Simulate tiles, send them as a stream, and photograph the pages."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        embedded = EmbeddedCluster(load_settings(data_dir=place / "cluster"), flower=False)
        with embedded as settings, running_gateway(settings) as gateway, sync_playwright() as playwright:
            pictures = _pictures(settings, place / "line 1")
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium") or shutil.which("google-chrome"), args=["--no-sandbox"]
            )
            url = f"http://127.0.0.1:{gateway.port}"
            _measure(browser, url, pictures[:5])
            _stream(browser, url)
            browser.close()


def _pictures(settings: Settings, folder: Path) -> list[Path]:
    """Tiles that were drawn, sent and analysed."""
    run = [sys.executable, "-m", "graticule"]
    draw = ["simulate", "tiles", "--out", str(folder), "--count", str(PICTURES), "--rate", "0", "--seed", "3"]
    subprocess.run([*run, *draw], check=True)
    pictures = sorted(folder.glob("*.jpg"))
    for number, picture in enumerate(pictures):
        taken = time.time() - SECONDS_BETWEEN * (len(pictures) - number)
        os.utime(picture, (taken, taken))
    send = ["submit", *map(str, pictures), "--model", "tile-defects", "--stream", "line 1", "--wait"]
    subprocess.run([*run, *send], env=settings.to_env(), stdout=subprocess.DEVNULL, check=True)
    return pictures


def _measure(browser: Browser, url: str, pictures: list[Path]) -> None:
    for name, scheme, size in (("page-measure", "light", WIDE), ("page-phone", "dark", PHONE)):
        page = browser.new_page(viewport=size, color_scheme=scheme)
        page.goto(url)
        page.set_input_files("#files", pictures)
        page.locator("#strip img").nth(len(pictures) - 1).wait_for()
        page.locator("#strip button", has_text="tile-000001").click()
        page.wait_for_load_state("networkidle")
        page.screenshot(path=HERE / f"{name}.png")
        page.close()


def _stream(browser: Browser, url: str) -> None:
    page = browser.new_page(viewport=WIDE, color_scheme="light")
    page.goto(f"{url}/streams?stream=line+1")
    page.wait_for_selector("#newest-text:not(:empty)")
    page.wait_for_timeout(1000)
    page.screenshot(path=HERE / "page-stream.png")
    page.close()


if __name__ == "__main__":
    main()
