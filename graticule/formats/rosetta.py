"""DM3 / DM4 (Gatan DigitalMicrograph) and EMD (NCEM and Velox), read by RosettaSciIO from the extra `formats`."""

from __future__ import annotations

import importlib
import logging
import math
import struct
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np

from graticule.errors import MissingPart
from graticule.formats.paths import FilePath
from graticule.formats.raw import check_layout, info_of, read_exactly, size_of
from graticule.formats.reader import Incomplete, OpenImage, Picture, Reader, pictured
from graticule.formats.units import calibration
from graticule.results import Calibration

# It reports oddities of the file's metadata, which are of no use here, as warnings for every frame.
logging.getLogger("rsciio").setLevel(logging.ERROR)

_HDF5 = b"\x89HDF\r\n\x1a\n"


class DmReader(Reader):
    """Reads DM3 and DM4: the first picture or stack in the file that is not a preview."""

    name = "DM"
    suffixes = frozenset({".dm3", ".dm4"})
    media_type = "image/x-gatan-dm"
    several_frames = True

    def matches(self, head: bytes) -> bool:
        """Whether `head` has the version, 3 or 4, and the byte order where DigitalMicrograph writes them."""
        return len(head) >= 16 and (
            (head.startswith(b"\x00\x00\x00\x03") and head[8:12] in (b"\x00\x00\x00\x00", b"\x00\x00\x00\x01"))
            or (head.startswith(b"\x00\x00\x00\x04") and head[12:16] in (b"\x00\x00\x00\x00", b"\x00\x00\x00\x01"))
        )

    def open(self, stream: BinaryIO) -> OpenImage:
        """Read the file's tree of tags."""
        self._check_size(stream)
        return _Signal(stream, "digitalmicrograph", "dm", "DigitalMicrograph tags")

    def check_complete(self, stream: BinaryIO) -> None:
        """Compare the file's size with the header, and read the tree of tags."""
        with self.open(stream):
            pass

    def _check_size(self, stream: BinaryIO) -> None:
        head = read_exactly(stream, 0, 16)
        version, size = (3, head[4:8]) if head[3] == 3 else (4, head[4:12])
        needed = int.from_bytes(size, "big")
        if size_of(stream) < needed:
            raise Incomplete(f"DM{version} says that it has {needed:,} bytes, {size_of(stream):,} are there")


class EmdReader(Reader):
    """Reads EMD, of NCEM and of Velox: the first picture or stack in the file."""

    name = "EMD"
    suffixes = frozenset({".emd"})
    media_type = "application/x-hdf5"
    several_frames = True

    def matches(self, head: bytes) -> bool:
        """Whether `head` begins an HDF5 file."""
        return head.startswith(_HDF5)

    def open(self, stream: BinaryIO) -> OpenImage:
        """Read what stands about the data."""
        return _Signal(stream, "emd", "emd", "EMD axes")

    def check_complete(self, stream: BinaryIO) -> None:
        """HDF5 notes the file's size in its beginning."""
        with self.open(stream):
            pass


class _Signal(OpenImage):
    """The first data set of a file that can be pictures."""

    def __init__(self, stream: BinaryIO, module: str, format_name: str, source: str) -> None:
        library = _library(module)
        self._file = FilePath(stream)
        try:
            found = _first_picture(_read(library, str(self._file.path), lazy=True))
            self._data, axes = _upright(found["data"], found["axes"])
            self._leading, shape = _split(self._data)
            frames = math.prod(self._leading)
            check_layout(shape, _value_type(self._data.dtype), frames)
            self.info = info_of(shape, _value_type(self._data.dtype), frames, format_name)
            self._calibration = _calibration(axes, source)
        except BaseException:
            self._file.close()
            raise

    def read(self, frame: int) -> Picture:
        place = np.unravel_index(frame, self._leading) if self._leading else ()
        pixels = np.asarray(self._data[tuple(map(int, place))])
        if pixels.dtype.names:  # colours as a structure
            pixels = np.stack([pixels[name] for name in ("R", "G", "B")], axis=-1)
        return pictured(pixels, self.info, self._calibration)

    def close(self) -> None:
        del self._data
        self._file.close()


def _library(module: str) -> Any:  # noqa: ANN401 (a module)
    try:
        return importlib.import_module(f"rsciio.{module}")
    except ModuleNotFoundError as error:
        raise MissingPart("Reading DM3, DM4 and EMD", "formats", error.name or "rosettasciio") from error


def _read(library: Any, path: str, *, lazy: bool) -> list[dict[str, Any]]:  # noqa: ANN401 (a module)
    try:
        return library.file_reader(path, lazy=lazy)
    except ModuleNotFoundError as error:
        raise MissingPart("Reading DM3, DM4 and EMD", "formats", error.name or "h5py") from error
    except ValueError as error:
        if lazy and "RGBA" in str(error):  # the one kind that is not read piece by piece
            return library.file_reader(path, lazy=False)
        raise
    except struct.error as error:
        raise Incomplete("the file ends within its tags") from error


def _first_picture(signals: Sequence[dict[str, Any]]) -> dict[str, Any]:
    for signal in signals:
        signal_axes = [axis for axis in signal["axes"] if not axis.get("navigate", False)]
        if signal["data"].ndim >= 2 and len(signal_axes) != 1:
            return signal
    shapes = ", ".join(str(signal["data"].shape) for signal in signals) or "nothing"
    raise ValueError(f"it holds no picture (found {shapes}): spectra are not read")


def _split(data: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:  # noqa: ANN401 (a dask or numpy array)
    """(axes before a frame, axes of a frame)."""
    shape = tuple(map(int, data.shape))
    colours = (3,) if data.dtype.names else ()
    return shape[:-2], (*shape[-2:], *colours)


def _value_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return dtype[dtype.names[0]] if dtype.names else dtype


def _upright(data: Any, axes: Sequence[dict[str, Any]]) -> tuple[Any, list[dict[str, Any]]]:  # noqa: ANN401
    """The array with its axes in the order (..., y, x), as far as their names tell, and the axes in that order.

    Files of NCEM's kind are written with x last by some programs and with x first by others.
    """
    ordered = list(axes)
    if all("index_in_array" in axis for axis in axes):
        ordered.sort(key=lambda axis: axis["index_in_array"])
    names = [str(axis.get("name") or "").casefold() for axis in ordered]
    if names.count("x") != 1 or names.count("y") != 1 or data.dtype.names or len(names) != data.ndim:
        return data, ordered
    last = [names.index("y"), names.index("x")]
    others = [number for number in range(len(names)) if number not in last]
    if last == [1, 0]:  # everything was reversed
        others.reverse()
    places = [*others, *last]
    return data.transpose(places), [ordered[place] for place in places]


def _calibration(axes: Sequence[dict[str, Any]], source: str) -> Calibration | None:
    rows, columns = axes[-2:]
    units = {str(axis.get("units") or "") for axis in (rows, columns)}
    if len(units) != 1:
        return None
    return calibration(float(columns["scale"]), float(rows["scale"]), units.pop(), source)
