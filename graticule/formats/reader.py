"""What every reader of a file format does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import TracebackType
from typing import Any, BinaryIO, ClassVar

import numpy as np
from numpy.typing import NDArray

from graticule.results import Calibration, ImageInfo

Pixels = NDArray[Any]


@dataclass(frozen=True)
class Picture:
    """One decoded frame."""

    pixels: Pixels
    """height x width, or height x width x channels (RGB order), in the file's own data type."""
    info: ImageInfo
    calibration: Calibration | None = None


class OpenImage(ABC):
    """A file whose header was read. Gives its frames in any order; what it learns on the way it keeps until `close`."""

    info: ImageInfo
    """Of the first frame, and how many there are."""

    @abstractmethod
    def read(self, frame: int) -> Picture:
        """The pixels of one frame. May raise anything on damaged bytes."""

    def close(self) -> None:
        """Let go of what is open. The stream that was handed in stays open: it is its owner's."""
        return

    def __enter__(self) -> OpenImage:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.close()


class Reader(ABC):
    """Reads one file format. A reader may raise anything on damaged bytes; the registry translates it."""

    name: ClassVar[str]
    suffixes: ClassVar[frozenset[str]]
    media_type: ClassVar[str]
    several_frames: ClassVar[bool] = False
    """Whether a file can hold more than one frame."""

    @abstractmethod
    def matches(self, head: bytes) -> bool:
        """Whether a file that begins with `head` is of this format."""

    @abstractmethod
    def open(self, stream: BinaryIO) -> OpenImage:
        """Read the header, without decoding pixels. The stream must stay open as long as what is returned."""

    @abstractmethod
    def check_complete(self, stream: BinaryIO) -> None:
        """Raise anything unless the file is there to its end."""


class SingleFrameReader(Reader):
    """Reads a format whose files hold one picture."""

    @abstractmethod
    def probe(self, stream: BinaryIO) -> ImageInfo:
        """Size and type from the header, without decoding pixels."""

    @abstractmethod
    def decode(self, stream: BinaryIO) -> Picture:
        """The pixels."""

    def open(self, stream: BinaryIO) -> OpenImage:
        """Read the header."""
        return _SingleFrame(self, stream)


class _SingleFrame(OpenImage):
    def __init__(self, reader: SingleFrameReader, stream: BinaryIO) -> None:
        self._reader, self._stream = reader, stream
        self.info = reader.probe(stream)

    def read(self, frame: int) -> Picture:
        return self._reader.decode(self._stream)


class Incomplete(Exception):
    """The file ends too early, or holds no picture."""


class NoFrame(Incomplete):
    """The header is whole, but there is no frame in the file."""

    def __init__(self) -> None:
        super().__init__("it holds no frame")


def as_pixels(array: Pixels) -> Pixels:
    """Drop an alpha channel and a channel axis of length one; bilevel becomes 0 and 255."""
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    if array.ndim == 3 and array.shape[2] in (2, 4):
        array = array[:, :, :-1]
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    return array


def channels_of(array: Pixels) -> int:
    """Number of channels of a height x width (x channels) array."""
    return 1 if array.ndim == 2 else array.shape[2]


def pictured(pixels: Pixels, info: ImageInfo, calibration: Calibration | None = None) -> Picture:
    """A frame whose info says what the pixels really are, in the machine's byte order."""
    pixels = as_pixels(pixels)
    pixels = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("="))
    height, width = pixels.shape[:2]
    values = {"width": width, "height": height, "channels": channels_of(pixels), "dtype": str(pixels.dtype)}
    return Picture(pixels, info.model_copy(update=values), calibration)


def check_values(dtype: np.dtype[Any]) -> None:
    """Raise ValueError unless pixels of this type are numbers that can be shown as a picture."""
    if dtype.hasobject:
        raise ValueError("it holds Python objects (pickle), which are never loaded")
    if dtype.kind == "c":
        raise ValueError(f"it holds complex numbers ({dtype}), e.g. a Fourier transform: expected a picture")
    if dtype.kind not in "buif" or dtype.itemsize > 8:
        raise ValueError(f"its values are of type {dtype}: expected numbers of up to 64 bits")
