"""MRC (MRC2014): one picture or a stack, as electron microscopes and cryo-EM programs write it."""

from __future__ import annotations

import struct
from typing import BinaryIO

import numpy as np

from graticule.formats.raw import Layout, RawFrames, check_end, read_exactly
from graticule.formats.reader import NoFrame, OpenImage, Reader
from graticule.formats.units import calibration
from graticule.results import Calibration

_HEADER = 1024
_MAGIC = slice(208, 212)
_TYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
_REFUSED = {3: "complex numbers", 4: "complex numbers", 101: "4-bit numbers"}
_MOST_SIDE = 1 << 24
_ANGSTROM = 0.1
"""Nanometres."""


class MrcReader(Reader):
    """Reads MRC in either byte order, real modes only. Rows stand in the order of the file."""

    name = "MRC"
    suffixes = frozenset({".mrc", ".mrcs"})
    media_type = "image/x-mrc"
    several_frames = True

    def matches(self, head: bytes) -> bool:
        """Whether the header has the mark of the format, `MAP`."""
        return len(head) >= 212 and head[_MAGIC] in (b"MAP ", b"MAP\x00")

    def open(self, stream: BinaryIO) -> OpenImage:
        """Read the header of 1,024 bytes."""
        layout, size = _parse(read_exactly(stream, 0, _HEADER))
        return RawFrames(stream, layout, "mrc", size)

    def check_complete(self, stream: BinaryIO) -> None:
        """Compare the file's size with the header."""
        layout, _ = _parse(read_exactly(stream, 0, _HEADER))
        check_end(stream, layout.end)


def _parse(header: bytes) -> tuple[Layout, Calibration | None]:
    order = _byte_order(header)
    columns, rows, sections, mode = struct.unpack(f"{order}4i", header[:16])
    grid_x, grid_y = struct.unpack(f"{order}2i", header[28:36])
    cell_x, cell_y = struct.unpack(f"{order}2f", header[40:48])
    (extended,) = struct.unpack(f"{order}i", header[92:96])
    if mode not in _TYPES:
        raise ValueError(f"its mode is {mode} ({_REFUSED.get(mode, 'unknown')}): expected one of {sorted(_TYPES)}")
    if min(columns, rows, sections) < 1:
        raise NoFrame
    if max(columns, rows) > _MOST_SIDE or extended < 0:
        raise ValueError(f"the header is damaged: {columns} x {rows} x {sections}, {extended} bytes follow it")
    dtype, start = np.dtype(order + _TYPES[mode]), _HEADER + extended
    step = columns * rows * dtype.itemsize
    layout = Layout((rows, columns), dtype, sections, lambda frame: start + frame * step)
    if grid_x < 1 or grid_y < 1:
        return layout, None
    size = calibration(cell_x / grid_x * _ANGSTROM, cell_y / grid_y * _ANGSTROM, "nm", "MRC cell dimensions")
    return layout, size


def _byte_order(header: bytes) -> str:
    """By the machine stamp; writers that leave it empty are told by a mode that can be."""
    if header[212] in (0x44, 0x41):
        return "<"
    if header[212] == 0x11:
        return ">"
    return "<" if struct.unpack("<i", header[12:16])[0] in {**_TYPES, **_REFUSED} else ">"
