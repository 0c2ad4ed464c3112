"""Readers of image files. `probe` looks at the header only, `decode` gives the pixels of a frame, `open_image` keeps a
file of many frames open, `frames` counts them, `check_complete` tells whether a file is there to its end. A further
format is one more `Reader` in `READERS`.

Limits are checked against the header before a pixel is decoded, and whatever a decoder raises becomes UnreadableImage.
Formats that need packages of their own (the extra `formats`) are known to all; reading them without raises MissingPart.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from graticule.errors import GraticuleError, ImageTooLarge, UnreadableImage
from graticule.formats.arrays import NpyReader, NpzReader
from graticule.formats.jpeg import JpegReader
from graticule.formats.mrc import MrcReader
from graticule.formats.png import PngReader
from graticule.formats.reader import OpenImage, Picture, Reader
from graticule.formats.rosetta import DmReader, EmdReader
from graticule.formats.ser import SerReader
from graticule.formats.tiff import TiffReader
from graticule.formats.video import AviReader, Mp4Reader
from graticule.results import ImageInfo

__all__ = [
    "HEAD",
    "READERS",
    "SUFFIXES",
    "ImageFile",
    "OpenImage",
    "Picture",
    "Reader",
    "check_complete",
    "decode",
    "frames",
    "media_type",
    "open_image",
    "probe",
]

READERS: tuple[Reader, ...] = (
    PngReader(),
    JpegReader(),
    TiffReader(),
    DmReader(),
    MrcReader(),
    SerReader(),
    EmdReader(),
    NpyReader(),
    NpzReader(),
    AviReader(),
    Mp4Reader(),
)
SUFFIXES: frozenset[str] = frozenset(suffix for reader in READERS for suffix in reader.suffixes)
"""Endings of the names of files that can be read, lower case, with the dot."""
HEAD = 1024
"""Bytes from the beginning of a file that tell its format."""


class ImageFile:
    """An image file whose header was read; gives its frames in any order. Thread-safe; close it when done."""

    def __init__(self, reader: Reader, opened: OpenImage, filename: str) -> None:
        self._reader, self._opened, self._filename = reader, opened, filename
        self._lock = threading.Lock()

    @property
    def info(self) -> ImageInfo:
        """Size and type of the first frame, and how many frames there are."""
        return self._opened.info

    def read(self, frame: int = 0) -> Picture:
        """The pixels of one frame. Raises UnreadableImage, ImageTooLarge."""
        if not 0 <= frame < self.info.frames:
            raise UnreadableImage(
                f"{self._filename!r} has no frame {frame}: it holds {self.info.frames} (numbered from 0)."
            )
        with self._lock, _translated(self._reader, self._filename):
            return self._opened.read(frame)

    def close(self) -> None:
        """Let go of what is open, but not of the stream that it was made from."""
        self._opened.close()

    def __enter__(self) -> ImageFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_image(
    data: bytes | BinaryIO, filename: str, *, max_pixels: int | None = None, max_frames: int | None = None
) -> ImageFile:
    """Read an image's header. A stream must stay open, and be used by nobody else, until the image is closed.

    Raises UnreadableImage, ImageTooLarge, MissingPart.
    """
    stream = _stream(data)
    reader = _reader_of(stream, filename)
    with _translated(reader, filename):
        opened = reader.open(stream)
    try:
        _check_size(opened.info, filename, max_pixels, max_frames)
    except BaseException:
        opened.close()
        raise
    return ImageFile(reader, opened, filename)


def probe(
    data: bytes | BinaryIO, filename: str, *, max_pixels: int | None = None, max_frames: int | None = None
) -> ImageInfo:
    """Size and type of an image, read from its header. Raises UnreadableImage, ImageTooLarge, MissingPart."""
    with open_image(data, filename, max_pixels=max_pixels, max_frames=max_frames) as image:
        return image.info


def decode(data: bytes | BinaryIO, filename: str, *, frame: int = 0, max_pixels: int | None = None) -> Picture:
    """The pixels of one frame. Raises UnreadableImage, ImageTooLarge, MissingPart."""
    with open_image(data, filename, max_pixels=max_pixels) as image:
        return image.read(frame)


def frames(path: Path, *, max_frames: int | None = None) -> int:
    """How many frames a file holds; 1 for a file that no reader knows: what is wrong with it is the worker's to say.

    Decodes nothing, and does not even open a file whose name says that its format has one frame only.
    Raises ImageTooLarge, UnreadableImage, MissingPart, OSError.
    """
    suffix = path.suffix.lower()
    named = [reader for reader in READERS if suffix in reader.suffixes]
    if named and not any(reader.several_frames for reader in named):
        return 1
    with path.open("rb") as stream:
        head = stream.read(HEAD)
        if not any(reader.several_frames and reader.matches(head) for reader in READERS):
            return 1
        return probe(stream, path.name, max_frames=max_frames).frames


def check_complete(path: Path) -> None:
    """Raise UnreadableImage unless the file is an image that is there to its last byte. Decodes no pixels if it can."""
    with path.open("rb") as stream:
        reader = _reader_of(stream, path.name)
        with _translated(reader, path.name):
            reader.check_complete(stream)


def media_type(filename: str) -> str:
    """Media type that a file's name stands for."""
    suffix = Path(filename).suffix.lower()
    known = (reader.media_type for reader in READERS if suffix in reader.suffixes)
    return next(known, "application/octet-stream")


def _stream(data: bytes | BinaryIO) -> BinaryIO:
    return io.BytesIO(data) if isinstance(data, bytes) else data


def _reader_of(stream: BinaryIO, filename: str) -> Reader:
    stream.seek(0)
    head = stream.read(HEAD)
    stream.seek(0)
    if not head:
        raise UnreadableImage(f"{filename!r} is empty: expected an image, found 0 bytes.")
    for reader in READERS:
        if reader.matches(head):
            return reader
    known = ", ".join(reader.name for reader in READERS)
    raise UnreadableImage(
        f"{filename!r} is not an image that graticule reads: expected one of {known}, found {_describe(head)}."
    )


@contextmanager
def _translated(reader: Reader, filename: str) -> Iterator[None]:
    """Decoders raise nearly anything on damaged bytes; to the user all of it means one thing."""
    try:
        yield
    except GraticuleError:
        raise
    except MemoryError as error:
        raise ImageTooLarge(f"{filename!r} needs more memory than there is.") from error
    except Exception as error:
        raise UnreadableImage(
            f"{filename!r} begins like a {reader.name} file but cannot be read: {_reason(error)}."
        ) from error


def _check_size(info: ImageInfo, filename: str, max_pixels: int | None, max_frames: int | None) -> None:
    pixels = info.width * info.height
    if max_frames is not None and info.frames > max_frames:
        raise ImageTooLarge(
            f"{filename!r} has {info.frames:,} frames; at most {max_frames:,} are accepted (GRATICULE_MAX_FRAMES)."
        )
    if max_pixels is not None and pixels > max_pixels:
        raise ImageTooLarge(
            f"{filename!r} has {info.width} x {info.height} = {pixels:,} pixels; at most {max_pixels:,} are accepted"
            " (GRATICULE_MAX_PIXELS). Nothing was decoded."
        )


def _describe(head: bytes) -> str:
    text = head.decode("latin-1")
    if text.isascii() and all(letter.isprintable() or letter.isspace() for letter in text):
        return f"text that begins with {text[:20]!r}"
    return f"bytes that begin with {head[:8].hex(' ')}"


def _reason(error: Exception) -> str:
    text = str(error).strip().rstrip(".")
    return text or type(error).__name__
