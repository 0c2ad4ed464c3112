"""Readers of image files. `probe` looks at the header only, `decode` gives the pixels, `check_complete` tells whether
a file is there to its end. A further format is one more `Reader` in `READERS`.

Limits are checked against the header before a pixel is decoded, and whatever a decoder raises becomes UnreadableImage.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from graticule.errors import GraticuleError, ImageTooLarge, UnreadableImage
from graticule.formats.jpeg import JpegReader
from graticule.formats.png import PngReader
from graticule.formats.reader import Picture, Reader
from graticule.formats.tiff import TiffReader
from graticule.results import ImageInfo

__all__ = ["READERS", "SUFFIXES", "Picture", "Reader", "check_complete", "decode", "media_type", "probe"]

READERS: tuple[Reader, ...] = (PngReader(), JpegReader(), TiffReader())
SUFFIXES: frozenset[str] = frozenset(suffix for reader in READERS for suffix in reader.suffixes)
"""Endings of the names of files that can be read, lower case, with the dot."""

_HEAD = 64


def probe(data: bytes | BinaryIO, filename: str, *, max_pixels: int | None = None) -> ImageInfo:
    """Size and type of an image, read from its header. Raises UnreadableImage, ImageTooLarge."""
    stream = _stream(data)
    reader = _reader_of(stream, filename)
    with _translated(reader, filename):
        info = reader.probe(stream)
    _check_size(info, filename, max_pixels)
    return info


def decode(data: bytes | BinaryIO, filename: str, *, frame: int = 0, max_pixels: int | None = None) -> Picture:
    """The pixels of one frame. Raises UnreadableImage, ImageTooLarge."""
    stream = _stream(data)
    info = probe(stream, filename, max_pixels=max_pixels)
    if frame >= info.frames:
        raise UnreadableImage(f"{filename!r} has no frame {frame}: it holds {info.frames} (numbered from 0).")
    reader = _reader_of(stream, filename)
    with _translated(reader, filename):
        return reader.decode(stream, frame)


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
    head = stream.read(_HEAD)
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
            f"{filename!r} begins like a {reader.name} file but cannot be read to its end: {_reason(error)}."
        ) from error


def _check_size(info: ImageInfo, filename: str, max_pixels: int | None) -> None:
    pixels = info.width * info.height
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
