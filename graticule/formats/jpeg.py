"""JPEG (ISO/IEC 10918-1)."""

from __future__ import annotations

import os
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from graticule.formats.reader import Incomplete, Picture, SingleFrameReader, channels_of
from graticule.results import ImageInfo

_END_OF_IMAGE = b"\xff\xd9"
_TAIL = 4096
_SIDEWAYS = {5, 6, 7, 8}
"""EXIF orientations in which width and height change places."""
_ORIENTATION_TAG = 0x0112


class JpegReader(SingleFrameReader):
    """Reads JPEG, turned upright as its EXIF orientation says."""

    name = "JPEG"
    suffixes = frozenset({".jpg", ".jpeg"})
    media_type = "image/jpeg"

    def matches(self, head: bytes) -> bool:
        """Whether `head` begins with a start-of-image marker."""
        return head.startswith(b"\xff\xd8\xff")

    def probe(self, stream: BinaryIO) -> ImageInfo:
        """Read the frame header."""
        stream.seek(0)
        with Image.open(stream, formats=["JPEG"]) as image:
            width, height = image.size
            if image.getexif().get(_ORIENTATION_TAG) in _SIDEWAYS:
                width, height = height, width
            channels = 1 if image.mode == "L" else 3
            return ImageInfo(width=width, height=height, channels=channels, dtype="uint8", format="jpeg")

    def decode(self, stream: BinaryIO) -> Picture:
        """Decode; a file that ends early raises instead of giving grey pixels."""
        info = self.probe(stream)
        stream.seek(0)
        with Image.open(stream, formats=["JPEG"]) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
            pixels = np.asarray(upright if upright.mode in ("L", "RGB") else upright.convert("RGB"))
        return Picture(pixels, info.model_copy(update={"channels": channels_of(pixels)}))

    def check_complete(self, stream: BinaryIO) -> None:
        """Look for the end-of-image marker near the end of the file (some cameras append a few bytes)."""
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - _TAIL))
        if _END_OF_IMAGE not in stream.read():
            raise Incomplete("the file ends before its end mark (EOI)")
