"""Runs the command line as a user does, and lets a real worker answer with what it wrote."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from graticule.client import Client
from graticule.manifest import Manifest, read_model_folder
from graticule.settings import Settings
from graticule_exporters.pictures import draw
from tests.contract.test_formats import png
from tests.worker.conftest import WorkerProcess

TIMEOUT = 400
"""Seconds: importing TensorFlow alone can take half a minute on a busy machine."""


def graticule(*arguments: object, settings: Settings | None = None, code: int = 0) -> str:
    """`graticule ...` with that exit code; all that it printed."""
    environment = {**os.environ, "COLUMNS": "200", **(settings.to_env() if settings else {})}
    run = subprocess.run(
        [sys.executable, "-m", "graticule", *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert run.returncode == code, run.stdout
    assert "Traceback" not in run.stdout, run.stdout
    return " ".join(run.stdout.split())


def refusal(kind: str, source: Path, folder: Path, *options: object, code: int = 2) -> str:
    """What the export of a bad source says; nothing that could be taken for a model may be left behind."""
    told = graticule("export", kind, source, "--name", "bad", "--out", folder, *options, code=code)
    assert not list(folder.glob("model.onnx")) + list(folder.glob("manifest.yaml"))
    assert "o model was written" in told or "Nothing" in told
    return told


def exported(folder: Path) -> Manifest:
    """The manifest of a folder that an export wrote, checked against the file beside it."""
    manifest, _ = read_model_folder(folder)
    assert manifest.provenance.parity["passed"] is True
    return manifest


def picture(size: tuple[int, int], channels: int, seed: int = 5) -> np.ndarray:
    """A drawn photograph, uint8, height x width (x 3)."""
    planes = draw(np.random.default_rng(seed), size, channels)
    pixels = np.round(planes * 255).astype(np.uint8)
    return pixels[0] if channels == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))


@contextmanager
def worker(settings: Settings, log: Path) -> Iterator[Client]:
    """A real worker process, as long as the block lasts."""
    process = WorkerProcess(settings, log)
    process.start()
    try:
        yield Client(settings)
    finally:
        process.kill()


def assert_served(client: Client, name: str, pixels: np.ndarray, expected: np.ndarray) -> None:
    """The worker's mask of a picture is the one that the framework gives (bool, height x width)."""
    result = client.submit(png(pixels), name).result(120)
    mask = client.mask(result) > 0
    assert 0.02 < expected.mean() < 0.98, "the picture would prove nothing"
    overlap = (mask & expected).sum() / (mask | expected).sum()
    assert overlap > 0.999
    assert abs(result.measurements.area_fraction - expected.mean()) < 1e-3
