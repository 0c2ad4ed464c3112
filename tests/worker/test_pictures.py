"""What a worker fetches and keeps: a stack once, not once for each frame."""

from __future__ import annotations

import io
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from graticule.errors import Corrupted, NotFound, UnreadableImage
from graticule.pictures import Pictures
from graticule.store import IN_MEMORY_LIMIT, Store


class CountingStore(Store):
    """A real store that counts what it is asked for."""

    def __init__(self, settings) -> None:
        super().__init__(settings)
        self.fetched: list[str] = []

    def get_image(self, ref):
        self.fetched.append(ref.sha256)
        return super().get_image(ref)

    def fetch_image(self, ref, file):
        self.fetched.append(ref.sha256)
        super().fetch_image(ref, file)


@pytest.fixture
def store(settings) -> CountingStore:
    return CountingStore(settings)


@pytest.fixture
def pictures(settings, store):
    made = Pictures(settings, store)
    yield made
    made.close()


def put(store: Store, array: np.ndarray, name: str = "s.npy"):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return store.put_image(buffer.getvalue(), name)


def frame_of(ref, frame: int):
    return ref.model_copy(update={"frame": frame})


def stack(frames: int = 12, side: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (frames, side, side), np.uint8)


def test_a_stack_is_fetched_once_for_all_threads(pictures, store):
    array = stack(40)
    ref, together = put(store, array), threading.Barrier(8)

    def take(frame: int) -> bool:
        if frame < 8:
            together.wait()
        return np.array_equal(pictures.get(frame_of(ref, frame)).pixels, array[frame])

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(take, range(40)))
    assert store.fetched == [ref.sha256]


def test_a_large_stack_goes_to_the_disk_and_is_checked(pictures, store):
    array = stack(5, 2048)
    assert array.nbytes > IN_MEMORY_LIMIT
    buffer = io.BytesIO()
    np.save(buffer, array)
    buffer.seek(0)
    ref = store.put_image_stream(buffer, "s.npy")
    for frame in (4, 0):
        np.testing.assert_array_equal(pictures.get(frame_of(ref, frame)).pixels, array[frame])
    assert store.fetched == [ref.sha256]
    wrong = ref.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(Corrupted):
        pictures.get(wrong)


def test_single_pictures_are_not_kept(pictures, store):
    ref = put(store, stack(1)[0])
    for _ in range(2):
        pictures.get(ref)
    assert len(store.fetched) == 2
    assert not pictures._entries


def test_stacks_are_forgotten_when_there_is_no_room(settings, store):
    tight = Pictures(settings.model_copy(update={"image_cache": 0}), store)
    first, second = put(store, stack(seed=1)), put(store, stack(seed=2))
    for ref in (first, first, second, second, first):
        tight.get(frame_of(ref, 3))
    assert store.fetched == [first.sha256, second.sha256, first.sha256]
    assert len(tight._entries) == 1
    tight.close()


def test_what_cannot_be_fetched_or_read_is_not_kept(pictures, store):
    gone = put(store, stack(seed=3)).model_copy(update={"key": "00/nothing"})
    with pytest.raises(NotFound):
        pictures.get(gone)
    text = store.put_image(b"hello", "x.png")
    with pytest.raises(UnreadableImage, match="text that begins with 'hello'"):
        pictures.get(text)
    with pytest.raises(UnreadableImage, match="no frame 12"):
        pictures.get(frame_of(put(store, stack(seed=4)), 12))
    assert len(pictures._entries) == 1  # the last one is a good stack
