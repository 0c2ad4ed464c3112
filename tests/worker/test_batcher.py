"""Continuous batching: what runs together, and what an error does."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from graticule.errors import InferenceFailed
from graticule_workers.engine.batcher import Batcher


class Device:
    """Doubles its input; holds the first run until it is released, so that others pile up behind it."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, ...]] = []
        self.busy = threading.Event()
        self.release = threading.Event()

    def run(self, batch: np.ndarray) -> np.ndarray:
        self.batches.append(batch.shape)
        self.busy.set()
        self.release.wait(10)
        if batch.min() < 0:
            raise ValueError("negative")
        return batch * 2


@pytest.fixture
def device():
    return Device()


@pytest.fixture
def batcher(device):
    made = Batcher("test", device.run, maximum=4)
    yield made
    device.release.set()
    made.close()


def pile_up(batcher, device, tensors):
    """Send a first picture, and the others while the device is busy with it."""
    with ThreadPoolExecutor(32) as pool:
        first = pool.submit(batcher.infer, tensors[0], 10)
        device.busy.wait(10)
        others = []
        for tensor in tensors[1:]:
            others.append(pool.submit(batcher.infer, tensor, 10))
            while len(batcher._waiting) < len(others):
                pass
        device.release.set()
        return [first, *others]


def test_a_lone_picture_runs_at_once_and_a_backlog_fills_batches(batcher, device):
    tensors = [np.full((1, 4, 4), i, np.float32) for i in range(10)]
    answers = [future.result() for future in pile_up(batcher, device, tensors)]
    assert [shape[0] for shape in device.batches] == [1, 4, 4, 1]
    for tensor, answer in zip(tensors, answers, strict=True):
        np.testing.assert_array_equal(answer, tensor * 2)


def test_only_pictures_of_equal_shape_run_together_and_the_oldest_goes_first(batcher, device):
    small, large = np.zeros((1, 2, 2), np.float32), np.zeros((1, 8, 8), np.float32)
    for future in pile_up(batcher, device, [small, large, small, large, small]):
        future.result()
    assert device.batches == [(1, 1, 2, 2), (2, 1, 8, 8), (2, 1, 2, 2)]


def test_an_error_of_the_model_reaches_its_pictures_and_the_engine_goes_on(batcher, device):
    device.release.set()
    with pytest.raises(InferenceFailed, match="negative"):
        batcher.infer(np.full((1, 2, 2), -1, np.float32), 10)
    assert batcher.infer(np.ones((1, 2, 2), np.float32), 10).max() == 2


def test_a_model_that_does_not_answer_in_time_is_an_error(batcher):
    with pytest.raises(InferenceFailed, match="no answer"):
        batcher.infer(np.zeros((1, 2, 2), np.float32), 0.05)
