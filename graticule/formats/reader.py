"""What every reader of a file format does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
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


class Reader(ABC):
    """Reads one file format. A reader may raise anything on damaged bytes; the registry translates it."""

    name: ClassVar[str]
    suffixes: ClassVar[frozenset[str]]
    media_type: ClassVar[str]

    @abstractmethod
    def matches(self, head: bytes) -> bool:
        """Whether a file that begins with `head` is of this format."""

    @abstractmethod
    def probe(self, stream: BinaryIO) -> ImageInfo:
        """Size and type from the header, without decoding pixels."""

    @abstractmethod
    def decode(self, stream: BinaryIO, frame: int) -> Picture:
        """The pixels of one frame."""

    @abstractmethod
    def check_complete(self, stream: BinaryIO) -> None:
        """Raise anything unless the file is there to its end."""


class Incomplete(Exception):
    """The file ends too early."""


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
