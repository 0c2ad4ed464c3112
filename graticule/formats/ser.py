"""SER: series of pictures of FEI / Thermo Fisher TIA (TEM Imaging & Analysis)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from graticule.formats.raw import Layout, RawFrames, check_end, check_layout, read_exactly, size_of
from graticule.formats.reader import Incomplete, NoFrame, OpenImage, Pixels, Reader
from graticule.formats.units import calibration
from graticule.results import Calibration

_MARK = b"II\x97\x01"
_PICTURES = 0x4122
_WIDE = 0x0220
"""From this version on offsets have 64 bits."""
_TYPES = {1: "u1", 2: "u2", 3: "u4", 4: "i1", 5: "i2", 6: "i4", 7: "f4", 8: "f8"}
_ELEMENT = struct.Struct("<ddiddihii")
_METRE = 1e9
"""Nanometres."""


class SerReader(Reader):
    """Reads SER files with pictures. The file's rows go from the bottom to the top; they are put the right way up."""

    name = "SER"
    suffixes = frozenset({".ser"})
    media_type = "image/x-tia-ser"
    several_frames = True

    def matches(self, head: bytes) -> bool:
        """Whether `head` has the byte order and the mark of a TIA series."""
        return head.startswith(_MARK)

    def open(self, stream: BinaryIO) -> OpenImage:
        """Read the header, where the pictures lie, and the first one's size."""
        offsets = _offsets(stream)
        first = _element(stream, offsets[0])
        return _SerFrames(stream, first.layout(offsets), "ser", first.calibration)

    def check_complete(self, stream: BinaryIO) -> None:
        """Look whether the last picture is there."""
        offsets = _offsets(stream)
        layout = _element(stream, offsets[0]).layout(offsets)
        check_layout(layout.shape, layout.dtype, layout.frames)
        check_end(stream, max(layout.offset(frame) for frame in range(layout.frames)) + layout.frame_bytes)


class _SerFrames(RawFrames):
    def arranged(self, pixels: Pixels) -> Pixels:
        return pixels[::-1]


@dataclass(frozen=True)
class _Element:
    """What stands before the pixels of a picture."""

    dtype: np.dtype[np.generic]
    rows: int
    columns: int
    calibration: Calibration | None

    def layout(self, offsets: list[int]) -> Layout:
        return Layout((self.rows, self.columns), self.dtype, len(offsets), lambda frame: offsets[frame] + _ELEMENT.size)


def _offsets(stream: BinaryIO) -> list[int]:
    """Where each picture's element begins."""
    version, kind, _, _, valid = struct.unpack("<Hiiii", read_exactly(stream, 4, 18))
    wide = version >= _WIDE
    (table,) = struct.unpack("<q" if wide else "<i", read_exactly(stream, 22, 8 if wide else 4))
    if kind != _PICTURES:
        raise ValueError(f"it holds spectra or lines (type {kind:#x}): expected pictures")
    if valid < 1:
        raise NoFrame
    width = 8 if wide else 4
    if table < 0 or table + valid * width > size_of(stream):
        raise Incomplete(f"the file ends before the list of its {valid} pictures")
    return np.frombuffer(read_exactly(stream, table, valid * width), f"<i{width}").tolist()


def _element(stream: BinaryIO, offset: int) -> _Element:
    _, step_x, _, _, step_y, _, kind, columns, rows = _ELEMENT.unpack(read_exactly(stream, offset, _ELEMENT.size))
    if kind not in _TYPES:
        raise ValueError(f"its values are of type {kind} (complex or unknown): expected a picture")
    if columns < 1 or rows < 1:
        raise NoFrame
    size = calibration(step_x * _METRE, step_y * _METRE, "nm", "SER calibration")
    return _Element(np.dtype("<" + _TYPES[kind]), rows, columns, size)
