"""NumPy's own files, npy and npz. Numbers only: what would have to be unpickled is refused."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from graticule.formats.raw import check_end, check_layout, info_of, read_exactly, split
from graticule.formats.reader import Incomplete, OpenImage, Picture, Pixels, Reader, check_values, pictured

_PREFERRED = ("image", "images", "frames", "data", "arr_0")
"""Names of arrays that are taken where an archive holds several that could be pictures."""
_CHUNK = 1 << 22


@dataclass(frozen=True)
class _Array:
    """An array as its header describes it."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    by_columns: bool
    """Fortran order."""
    start: int
    """First byte of the values."""

    @property
    def leading(self) -> tuple[int, ...]:
        return split(self.shape)[0]

    @property
    def frame_shape(self) -> tuple[int, ...]:
        return split(self.shape)[1]

    @property
    def frames(self) -> int:
        return math.prod(self.leading)

    @property
    def end(self) -> int:
        return self.start + math.prod(self.shape) * self.dtype.itemsize

    def check(self) -> None:
        check_values(self.dtype)
        check_layout(self.frame_shape, self.dtype, self.frames)


class NpyReader(Reader):
    """Reads npy: height x width, height x width x colours, or any number of frames of these."""

    name = "npy"
    suffixes = frozenset({".npy"})
    media_type = "application/x-npy"
    several_frames = True

    def matches(self, head: bytes) -> bool:
        """Whether `head` has NumPy's signature."""
        return head.startswith(npy.MAGIC_PREFIX)

    def open(self, stream: BinaryIO) -> OpenImage:
        """Read the header."""
        stream.seek(0)
        return _ArrayFrames(stream, _header(stream), "npy")

    def check_complete(self, stream: BinaryIO) -> None:
        """Compare the file's size with the header."""
        stream.seek(0)
        array = _header(stream)
        array.check()
        check_end(stream, array.end)


class NpzReader(Reader):
    """Reads the one array of an npz that can be pictures; where there are several, the one with a telling name."""

    name = "npz"
    suffixes = frozenset({".npz"})
    media_type = "application/x-npz"
    several_frames = True

    def matches(self, head: bytes) -> bool:
        """Whether `head` begins a zip archive."""
        return head.startswith(b"PK\x03\x04")

    def open(self, stream: BinaryIO) -> OpenImage:
        """Find the array and read its header."""
        archive = zipfile.ZipFile(stream)
        member = _chosen(archive)
        return _MemberFrames(archive, member)

    def check_complete(self, stream: BinaryIO) -> None:
        """The list of contents stands at the end of an archive: where it can be read the rest is there."""
        with zipfile.ZipFile(stream) as archive:
            _chosen(archive)


class _ArrayFrames(OpenImage):
    def __init__(self, stream: BinaryIO, array: _Array, format_name: str) -> None:
        array.check()
        self._stream, self._array = stream, array
        self.info = info_of(array.frame_shape, array.dtype, array.frames, format_name)

    def read(self, frame: int) -> Picture:
        return pictured(_read_frame(self._stream, self._array, frame), self.info)


class _MemberFrames(OpenImage):
    """Frames of a member: to reach one, those before it are unpacked, piece by piece."""

    def __init__(self, archive: zipfile.ZipFile, member: str) -> None:
        self._archive, self._member = archive, member
        with archive.open(member) as stream:
            self._array = _header(stream)
        self._array.check()
        self.info = info_of(self._array.frame_shape, self._array.dtype, self._array.frames, "npz")

    def read(self, frame: int) -> Picture:
        with self._archive.open(self._member) as stream:
            return pictured(_read_frame(stream, self._array, frame), self.info)

    def close(self) -> None:
        self._archive.close()


def _header(stream: Any) -> _Array:  # noqa: ANN401 (a file, or a member of an archive)
    version = npy.read_magic(stream)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"its npy version is {version}: expected 1.0 or 2.0")
    shape, by_columns, dtype = readers[version](stream)
    return _Array(shape, dtype, by_columns, stream.tell())


def _chosen(archive: zipfile.ZipFile) -> str:
    """Name of the member that holds the pictures."""
    fitting = {name.removesuffix(".npy"): name for name in archive.namelist() if _fits(archive, name)}
    for name in _PREFERRED:
        if name in fitting:
            return fitting[name]
    if len(fitting) == 1:
        return next(iter(fitting.values()))
    names = ", ".join(sorted(fitting)) or "none"
    raise ValueError(
        f"expected one array of numbers, height x width or frames x height x width; found: {names}."
        f" Where there are several, one must be called {' or '.join(_PREFERRED)}"
    )


def _fits(archive: zipfile.ZipFile, name: str) -> bool:
    if not name.endswith(".npy"):
        return False
    try:
        with archive.open(name) as stream:
            _header(stream).check()
    except (ValueError, Incomplete):
        return False
    return True


def _read_frame(stream: Any, array: _Array, frame: int) -> Pixels:  # noqa: ANN401
    size = math.prod(array.frame_shape)
    if not array.by_columns:
        data = read_exactly(stream, array.start + frame * size * array.dtype.itemsize, size * array.dtype.itemsize)
        return np.frombuffer(data, array.dtype).reshape(array.frame_shape)
    # In Fortran order the first axis runs fastest: a frame is every n-th value.
    place = (
        int(np.ravel_multi_index(np.unravel_index(frame, array.leading), array.leading, order="F"))
        if array.leading
        else 0
    )
    pieces = [piece[:, place] for piece in _groups(stream, array)]
    return np.concatenate(pieces).reshape(array.frame_shape, order="F")


def _groups(stream: Any, array: _Array) -> Iterator[Pixels]:  # noqa: ANN401
    """All values, in rows of one for each frame, a few rows at a time."""
    left, row = math.prod(array.frame_shape), array.frames * array.dtype.itemsize
    position = array.start
    while left:
        rows = min(left, max(1, _CHUNK // row))
        data = read_exactly(stream, position, rows * row)
        yield np.frombuffer(data, array.dtype).reshape(rows, array.frames)
        position, left = position + rows * row, left - rows
