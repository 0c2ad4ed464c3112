"""A cluster with a model and a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graticule.registry import Registry
from graticule.settings import Settings
from graticule.store import Store
from tests.models import write_brightness_model
from tests.worker.conftest import WorkerProcess


@pytest.fixture
def brightness(settings: Settings, tmp_path: Path) -> Settings:
    """A cluster in which the brightness model is published."""
    write_brightness_model(tmp_path / "model")
    Registry(Store(settings)).publish(tmp_path / "model")
    return settings


@pytest.fixture
def start_worker(brightness: Settings, tmp_path: Path) -> Iterator[Callable[[], WorkerProcess]]:
    """Starts workers that serve the brightness model; all are gone in the end."""
    started: list[WorkerProcess] = []

    def start() -> WorkerProcess:
        worker = WorkerProcess(brightness, tmp_path / f"worker-{len(started)}.log")
        started.append(worker)
        worker.start()
        return worker

    yield start
    for worker in started:
        if worker.alive:
            worker.kill()


def write_squares(path: Path, *squares: tuple[int, int, int], size: tuple[int, int] = (60, 80)) -> None:
    """A dark picture with bright squares (left, top, side)."""
    pixels = np.full(size, 40, dtype=np.uint8)
    for left, top, side in squares:
        pixels[top : top + side, left : left + side] = 220
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
