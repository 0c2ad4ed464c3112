"""Versions change while jobs run: none fails, none is carried out by half of one and half of the other."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from graticule.client import Client
from graticule.jobs import Lane
from graticule.registry import Registry
from graticule.results import Result
from tests.contract.test_formats import png
from tests.models import write_brightness_model
from tests.worker.conftest import WorkerProcess

DIM_COUNTS_TOO = 30.0
"""Extra logit of version 2.0.0: it finds the dim rectangle as well as the bright one."""


def picture(index: int) -> bytes:
    pixels = np.zeros((128, 128), np.uint8)
    pixels[10:20, 10 : 20 + index % 100] = 255
    pixels[100:108, 10 : 18 + index // 100] = 100
    return png(pixels)


@pytest.mark.parametrize("options", [(), pytest.param(("--processes", "2"), marks=pytest.mark.slow)])
def test_promoting_under_load(brightness, tmp_path, options):
    client, registry = Client(brightness), Registry(Client(brightness).store)
    write_brightness_model(tmp_path / "v2", version="2.0.0", extra_logit=DIM_COUNTS_TOO)
    registry.publish(tmp_path / "v2", promote=False)
    worker = WorkerProcess(brightness, tmp_path / "worker.log", *options)
    worker.start()
    enough = threading.Event()
    handles = []

    def send() -> None:
        while not enough.is_set() and len(handles) < 2000:
            handles.append(client.submit(picture(len(handles)), "brightness", lane=Lane.BULK))
            time.sleep(0.01)

    try:
        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(send)
            for version in ("2.0.0", "1.0.0", "2.0.0"):
                registry.promote("brightness", version)
                _wait_for_version(client, version)
            enough.set()
            sending.result()
        outcomes = {handle.job_id: outcome for handle, outcome in client.as_completed(handles, timeout=60)}
    finally:
        worker.kill()
    versions = set()
    for index, handle in enumerate(handles):
        result = outcomes[handle.job_id]
        assert isinstance(result, Result), result
        versions.add(result.model.version)
        areas = [found.area for found in result.measurements.objects]
        bright, dim = 10 * (10 + index % 100), 8 * (8 + index // 100)
        assert areas == ([bright] if result.model.version == "1.0.0" else [bright, dim])
    assert versions == {"1.0.0", "2.0.0"}


def _wait_for_version(client: Client, version: str, timeout: float = 30) -> None:
    """Until a fresh job gets the version: within seconds of its promotion."""
    deadline = time.monotonic() + timeout
    probe = 0
    while True:
        probe += 1
        pixels = np.random.default_rng([int(version[0]), probe, time.monotonic_ns()]).integers(
            0, 50, (32, 32), np.uint8
        )
        if client.submit(png(pixels), "brightness").result(30).model.version == version:
            return
        assert time.monotonic() < deadline, f"version {version} did not take over"
