"""Pictures of jobs, fetched and decoded; a file of many frames is fetched once, not once for each of them.

A movie of 2 GB is a thousand jobs, and a worker takes many of them, one after another. The file is written to the disk
when the first of them comes, checked against its SHA-256 as a whole (parts of it that were fetched alone could not be),
and stays open with what its reader learned: where the frames lie, where a decoder stands. Small files stay in memory.
"""

from __future__ import annotations

import io
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import BinaryIO

from graticule import formats
from graticule.formats import ImageFile, Picture
from graticule.jobs import ImageRef
from graticule.settings import Settings
from graticule.store import IN_MEMORY_LIMIT, Store

Timed = Callable[[str], AbstractContextManager[None]]

MOST_OPEN = 16
"""Files of several frames that are kept open at a time."""


@dataclass
class _Entry:
    """A file that is being fetched, or that is open."""

    size: int
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Held while it is fetched: who needs the same file waits instead of fetching it too."""
    users: int = 0
    stream: BinaryIO | None = None
    image: ImageFile | None = None

    def close(self) -> None:
        if self.image:
            self.image.close()
        if self.stream:
            self.stream.close()


class Pictures:
    """Gives the frames of images in the store. Thread-safe."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._room = settings.image_cache * 1024**2
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    def get(self, ref: ImageRef, timed: Timed = lambda stage: nullcontext()) -> Picture:
        """One frame. `timed` gets the stages 'fetch' and 'decode'.

        Raises UnreadableImage, ImageTooLarge, MissingPart, NotFound, Corrupted, StoreUnavailable.
        """
        with self._held(ref) as entry:
            with timed("fetch"), entry.lock:
                if entry.stream is None:
                    entry.stream = self._fetch(ref)
            with timed("decode"):
                return self._open(entry, ref).read(ref.frame)

    def close(self) -> None:
        """Let go of every file."""
        with self._lock:
            for entry in self._entries.values():
                entry.close()
            self._entries.clear()

    def _open(self, entry: _Entry, ref: ImageRef) -> ImageFile:
        with entry.lock:
            if entry.image is None:
                assert entry.stream is not None
                entry.image = formats.open_image(
                    entry.stream,
                    ref.filename,
                    max_pixels=self._settings.max_pixels,
                    max_frames=self._settings.max_frames,
                )
            return entry.image

    def _fetch(self, ref: ImageRef) -> BinaryIO:
        if ref.size < IN_MEMORY_LIMIT:
            return io.BytesIO(self._store.get_image(ref))
        file = tempfile.TemporaryFile()  # noqa: SIM115 (without a name: a killed worker leaves nothing behind)
        try:
            self._store.fetch_image(ref, file)
            file.flush()
        except BaseException:
            file.close()
            raise
        return file

    @contextmanager
    def _held(self, ref: ImageRef) -> Iterator[_Entry]:
        """The entry of a file, which is not closed meanwhile."""
        with self._lock:
            entry = self._entries.setdefault(ref.sha256, _Entry(ref.size))
            self._entries.move_to_end(ref.sha256)
            entry.users += 1
        try:
            yield entry
        finally:
            with self._lock:
                entry.users -= 1
                self._make_room()

    def _make_room(self) -> None:
        """Close what nobody uses: files of one frame at once, the others the longest unused first."""
        several = [sha256 for sha256, entry in self._entries.items() if _has_several(entry)]
        newest = several[-1] if several else ""
        total, number = sum(self._entries[sha256].size for sha256 in several), len(several)
        for sha256, entry in list(self._entries.items()):
            if entry.users:
                continue
            if _has_several(entry):
                if sha256 == newest or (total <= self._room and number <= MOST_OPEN):
                    continue
                total, number = total - entry.size, number - 1
            del self._entries[sha256]
            entry.close()


def _has_several(entry: _Entry) -> bool:
    return entry.image is not None and entry.image.info.frames > 1
