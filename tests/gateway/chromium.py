"""A tab of a real Chromium."""

from __future__ import annotations

import importlib.util
import shutil

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NEEDS_CHROMIUM = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="playwright is not installed"),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine"),
]


class Visit:
    """One tab; remembers what the browser complained about and whom it asked."""

    def __init__(self, browser, url, **options):
        self.url = url
        self.context = browser.new_context(base_url=url, **options)
        self.page = self.context.new_page()
        self.messages, self.requests = [], []
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def assert_clean(self):
        assert self.messages == []
        assert all(address.startswith((self.url, "blob:", "data:")) for address in self.requests), self.requests


def upload(page, name, data):
    page.set_input_files("#files", {"name": name, "mimeType": "image/png", "buffer": data})
    page.wait_for_selector(f"#viewer:not([hidden]) #title:text-is('{name}')")
