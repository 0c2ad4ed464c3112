"""Continuous batching: what runs together, on which stream, and what an error does."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest

from graticule.errors import InferenceFailed, OutOfMemory
from graticule_workers.engine.batcher import Batcher, Request, TensorRequest
from tests.worker.conftest import wait_until


class Device:
    """Doubles its input; holds its runs until it is released, so that others pile up behind them."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, ...]] = []
        self.busy = threading.Event()
        self.release = threading.Event()
        self.most = 1000

    def run(self, batch: np.ndarray) -> np.ndarray:
        self.batches.append(batch.shape)
        self.busy.set()
        self.release.wait(10)
        if len(batch) > self.most:
            raise OutOfMemory
        if batch.min() < 0:
            raise ValueError("negative")
        return batch * 2


@pytest.fixture
def device():
    return Device()


@pytest.fixture
def batcher(device):
    made = Batcher("test", device.run, [device.run], maximum=4)
    yield made
    device.release.set()
    made.close()


def images(value: float, count: int = 1, side: int = 2) -> np.ndarray:
    return np.full((count, 1, side, side), value, np.float32)


def pile_up(batcher: Batcher, device: Device, requests: list[Request]) -> list[Future[np.ndarray]]:
    """Send a first request, and the others while the device is busy with it."""
    with ThreadPoolExecutor(32) as pool:
        first = pool.submit(batcher.infer, requests[0])
        device.busy.wait(10)
        others = []
        for number, request in enumerate(requests[1:], start=1):
            others.append(pool.submit(batcher.infer, request))
            wait_until(lambda number=number: len(batcher._waiting) == number, 10, "it waits")
        device.release.set()
        return [first, *others]


def test_a_lone_picture_runs_at_once_and_a_backlog_fills_batches(batcher, device):
    requests = [Request(images(value)) for value in range(10)]
    answers = [future.result(10) for future in pile_up(batcher, device, requests)]
    assert [shape[0] for shape in device.batches] == [1, 4, 4, 1]
    for request, answer in zip(requests, answers, strict=True):
        np.testing.assert_array_equal(answer, request.images * 2)


def test_only_pictures_of_equal_shape_run_together_and_the_oldest_goes_first(batcher, device):
    sides = [2, 8, 2, 8, 2]
    for future in pile_up(batcher, device, [Request(images(0, side=side)) for side in sides]):
        future.result(10)
    assert device.batches == [(1, 1, 2, 2), (2, 1, 8, 8), (2, 1, 2, 2)]


def test_the_tiles_of_one_picture_stay_together(batcher, device):
    requests = [Request(images(0)), Request(images(1, 3)), Request(images(2, 3)), Request(images(3, 1))]
    answers = [future.result(10) for future in pile_up(batcher, device, requests)]
    assert [shape[0] for shape in device.batches] == [1, 4, 3]
    assert [len(answer) for answer in answers] == [1, 3, 3, 1]
    np.testing.assert_array_equal(answers[3], images(6))


def test_a_suspect_runs_by_itself(batcher, device):
    requests = [Request(images(0)), Request(images(1)), Request(images(2), alone=True), Request(images(3))]
    for future in pile_up(batcher, device, requests):
        future.result(10)
    assert [shape[0] for shape in device.batches] == [1, 2, 1]


def test_what_a_person_waits_for_goes_first(device):
    batcher = Batcher("test", device.run, [device.run], maximum=1)
    requests = [Request(images(0, side=2)), Request(images(0, side=4)), Request(images(0, side=8), urgent=True)]
    for future in pile_up(batcher, device, requests):
        future.result(10)
    batcher.close()
    assert [shape[-1] for shape in device.batches] == [2, 8, 4]


def test_people_are_served_in_the_order_in_which_they_came(device):
    """Else the first of many, who never stop coming, would wait for ever."""
    batcher = Batcher("test", device.run, [device.run], maximum=1)
    requests = [Request(images(0, side=2)), Request(images(0, side=4))]
    requests += [Request(images(0, side=side), urgent=True) for side in (8, 16, 32)]
    for future in pile_up(batcher, device, requests):
        future.result(10)
    batcher.close()
    assert [shape[-1] for shape in device.batches] == [2, 8, 16, 32, 4]


def test_an_error_of_the_model_reaches_its_pictures_and_the_engine_goes_on(batcher, device):
    device.release.set()
    with pytest.raises(InferenceFailed, match="negative"):
        batcher.infer(Request(images(-1)))
    assert batcher.infer(Request(images(1))).max() == 2


def test_without_memory_for_a_batch_it_goes_on_with_halves(batcher, device):
    device.most = 2
    requests = [Request(images(value)) for value in range(9)]
    answers = [future.result(10) for future in pile_up(batcher, device, requests)]
    assert [answer.max() for answer in answers] == [2.0 * value for value in range(9)]
    assert [shape[0] for shape in device.batches] == [1, 4, 2, 2, 2, 2]


def test_without_memory_for_one_picture_it_says_so(batcher, device):
    device.most = 0
    device.release.set()
    with pytest.raises(OutOfMemory):
        batcher.infer(Request(images(1)))


def test_a_lone_picture_has_all_cores_and_a_crowd_shares_them():
    used: list[str] = []
    gate = threading.Barrier(2, timeout=10)

    def lone(batch: np.ndarray) -> np.ndarray:
        used.append("lone")
        return batch

    def stream(batch: np.ndarray) -> np.ndarray:
        used.append("stream")
        gate.wait()  # passes only when both streams are at work at the same time
        return batch

    batcher = Batcher("test", lone, [stream, stream], maximum=8)
    batcher.infer(Request(images(0)))
    assert used == ["lone"]
    with ThreadPoolExecutor(8) as pool:
        with batcher._wake:  # all of them wait before the first is taken
            waiting = [Request(images(value)) for value in range(8)]
            batcher._waiting.extend(waiting)
            batcher._wake.notify_all()
        list(pool.map(lambda request: request.answer.result(10), waiting))
    batcher.close()
    assert used == ["lone", "stream", "stream"]


def test_what_is_under_way_can_be_seen(batcher, device):
    request = Request(images(0, 2), job="j1")
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(batcher.infer, request)
        device.busy.wait(10)
        (running,) = batcher.running()
        assert (running.jobs, running.shape) == (("j1",), (2, 1, 2, 2))
        assert running.since <= time.monotonic()
        device.release.set()
        answer.result(10)
    wait_until(lambda: not batcher.running(), 10, "nothing runs any more")


def test_a_closed_engine_refuses(batcher, device):
    device.release.set()
    batcher.close()
    with pytest.raises(InferenceFailed, match="unloaded"):
        batcher.infer(Request(images(0)))


def test_tensors_wait_in_the_same_line_and_run_by_themselves(device):
    """In a picture's batch, what somebody sends could make the pictures fail with it."""
    ran = []
    tensors = lambda feed: ran.append(len(device.batches)) or {name: array + 1 for name, array in feed.items()}  # noqa: E731
    batcher = Batcher("test", device.run, [device.run], maximum=4, tensors=tensors)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(batcher.infer, Request(images(0)))
        device.busy.wait(10)
        sent = pool.submit(batcher.run, TensorRequest({"a": np.zeros(3), "b": np.array(7)}, urgent=True))
        wait_until(lambda: len(batcher._waiting) == 1, 10, "the tensors wait")
        behind = [pool.submit(batcher.infer, Request(images(value))) for value in (1, 2)]
        wait_until(lambda: len(batcher._waiting) == 3, 10, "the pictures wait")
        device.release.set()
        assert sent.result(10) == {"a": pytest.approx([1, 1, 1]), "b": 8}
        assert [first.result(10).max(), *(future.result(10).max() for future in behind)] == [0, 2, 4]
    assert ran == [1]
    batcher.close()


def test_tensors_that_the_model_cannot_run_fail_alone(device):
    device.release.set()
    batcher = Batcher("test", device.run, [device.run], maximum=4, tensors=lambda feed: feed["missing"])
    with pytest.raises(InferenceFailed, match="missing"):
        batcher.run(TensorRequest({"a": np.zeros(3)}))
    assert batcher.infer(Request(images(1))).max() == 2
    batcher.close()
