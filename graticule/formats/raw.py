"""Frames that lie in a file as plain numbers: one is read without the others."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from graticule.formats.reader import Incomplete, NoFrame, OpenImage, Picture, Pixels, check_values, pictured
from graticule.results import Calibration, ImageInfo

COLOURS = (3, 4)
"""Lengths of a last axis that is one of colours, where a format does not say."""


@dataclass(frozen=True)
class Layout:
    """Where the frames lie, and what one is."""

    shape: tuple[int, ...]
    """height x width, or height x width x channels."""
    dtype: np.dtype[Any]
    frames: int
    offset: Callable[[int], int]
    """First byte of a frame."""

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def end(self) -> int:
        """First byte behind the last frame, where they follow each other."""
        return self.offset(self.frames - 1) + self.frame_bytes


class RawFrames(OpenImage):
    """The frames of a file with a `Layout`."""

    def __init__(
        self, stream: BinaryIO, layout: Layout, format_name: str, calibration: Calibration | None = None
    ) -> None:
        check_layout(layout.shape, layout.dtype, layout.frames)
        self._stream, self._layout, self._calibration = stream, layout, calibration
        self.info = info_of(layout.shape, layout.dtype, layout.frames, format_name)

    def read(self, frame: int) -> Picture:
        """Read the bytes of one frame."""
        layout = self._layout
        data = read_exactly(self._stream, layout.offset(frame), layout.frame_bytes)
        pixels = np.frombuffer(data, layout.dtype).reshape(layout.shape)
        return pictured(self.arranged(pixels), self.info, self._calibration)

    def arranged(self, pixels: Pixels) -> Pixels:
        """The frame the right way up."""
        return pixels


def info_of(shape: tuple[int, ...], dtype: np.dtype[Any], frames: int, format_name: str) -> ImageInfo:
    """What the header tells, before a pixel is read."""
    channels = shape[2] if len(shape) == 3 else 1
    return ImageInfo(
        width=shape[1],
        height=shape[0],
        channels=channels if channels in (1, 3) else max(1, channels - 1),
        dtype=str(dtype.newbyteorder("=")),
        format=format_name,
        frames=frames,
    )


def check_layout(shape: tuple[int, ...], dtype: np.dtype[Any], frames: int) -> None:
    """Raise NoFrame, ValueError for what is no picture."""
    check_values(dtype)
    if frames < 1 or not math.prod(shape):
        raise NoFrame
    if len(shape) == 3 and shape[2] not in (1, 2, *COLOURS):
        raise ValueError(f"its frames have {shape[2]} channels: expected grey or colour pictures")


def split(shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(axes before a frame, axes of a frame) of an array: (frames ...) x height x width (x 3 or 4 colours).

    A three-dimensional array with a last axis of 3 or 4 is one picture in colour. Raises ValueError.
    """
    if len(shape) < 2:
        raise ValueError(f"it holds an array of shape {shape}: expected height x width, or frames x height x width")
    colours = 1 if len(shape) > 2 and shape[-1] in COLOURS else 0
    return shape[: len(shape) - 2 - colours], shape[len(shape) - 2 - colours :]


def read_exactly(stream: BinaryIO, offset: int, size: int) -> bytes:
    """Bytes from a place in the file. Raises Incomplete."""
    stream.seek(offset)
    data = stream.read(size)
    if len(data) < size:
        raise Incomplete(
            f"the file ends too early: {offset + size:,} bytes are needed, {offset + len(data):,} are there"
        )
    return data


def size_of(stream: BinaryIO) -> int:
    """Bytes in the file."""
    return stream.seek(0, os.SEEK_END)


def check_end(stream: BinaryIO, end: int) -> None:
    """Raise Incomplete unless the file reaches `end`."""
    if (size := size_of(stream)) < end:
        raise Incomplete(f"the file ends too early: {end:,} bytes are needed, {size:,} are there")
