"""A disk that is full: nothing is lost, and everything goes on when there is space again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from graticule.client import Client
from graticule.errors import StoreUnavailable
from graticule.local.cluster import EmbeddedCluster
from graticule.registry import Registry
from graticule.settings import load_settings
from tests.contract.test_formats import png
from tests.models import write_brightness_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 120 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root can make a small file system, and only on Linux")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=120m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be made here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_refuses_with_a_sentence_and_heals(small_disk, tmp_path):
    write_brightness_model(tmp_path / "model")
    noise = np.random.default_rng(0)

    def picture() -> bytes:
        return png(noise.integers(0, 255, (1000, 1000), np.uint8))

    with EmbeddedCluster(load_settings(data_dir=small_disk / "data"), flower=False) as settings:
        client = Client(settings)
        Registry(client.store).publish(tmp_path / "model")
        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes(70_000_000))
        accepted = []
        with pytest.raises(StoreUnavailable, match="Is its disk full"):
            while len(accepted) < 200:
                accepted += [client.submit(picture(), "brightness", parameters={"minimum_area": 10**6})]
        assert accepted
        ballast.unlink()
        accepted.append(client.submit(picture(), "brightness", parameters={"minimum_area": 10**6}))
        outcomes = [outcome.status for _, outcome in client.as_completed(accepted, timeout=200)]
    assert outcomes == ["succeeded"] * len(accepted)
