"""PNG (ISO/IEC 15948)."""

from __future__ import annotations

import os
import struct
from typing import BinaryIO

import numpy as np
from PIL import Image

from graticule.errors import MissingPart
from graticule.formats.reader import Incomplete, Picture, Pixels, SingleFrameReader, as_pixels, channels_of
from graticule.results import ImageInfo

# The registry checks the header's size against GRATICULE_MAX_PIXELS before any decoder sees the file.
Image.MAX_IMAGE_PIXELS = None

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 1, 6: 3}
"""Channels left of each colour type: grey, RGB, palette, grey + alpha, RGB + alpha."""


class PngReader(SingleFrameReader):
    """Reads PNG, 1 to 16 bits; an alpha channel is dropped, a palette becomes RGB."""

    name = "PNG"
    suffixes = frozenset({".png"})
    media_type = "image/png"

    def matches(self, head: bytes) -> bool:
        """Whether `head` has the PNG signature."""
        return head.startswith(_SIGNATURE)

    def probe(self, stream: BinaryIO) -> ImageInfo:
        """Read the IHDR chunk."""
        width, height, depth, colour = _image_header(stream)
        return ImageInfo(
            width=width,
            height=height,
            channels=_CHANNELS[colour],
            dtype="uint16" if depth == 16 else "uint8",
            format="png",
        )

    def decode(self, stream: BinaryIO) -> Picture:
        """Decode the picture at its full bit depth."""
        info = self.probe(stream)
        stream.seek(0)
        pixels = as_pixels(_decode(stream, info))
        return Picture(pixels, info.model_copy(update={"channels": channels_of(pixels), "dtype": str(pixels.dtype)}))

    def check_complete(self, stream: BinaryIO) -> None:
        """Walk from chunk to chunk until the end mark, without reading their contents."""
        size = stream.seek(0, os.SEEK_END)
        position = len(_SIGNATURE)
        while True:
            stream.seek(position)
            header = stream.read(8)
            if len(header) < 8:
                raise Incomplete("the file ends before its end mark (IEND)")
            length, kind = struct.unpack(">I4s", header)
            position += 12 + length
            if position > size:
                raise Incomplete(f"the file ends within a chunk: expected {position} bytes, found {size}")
            if kind == b"IEND":
                return


def _image_header(stream: BinaryIO) -> tuple[int, int, int, int]:
    stream.seek(0)
    head = stream.read(33)
    if len(head) < 33 or head[12:16] != b"IHDR":
        raise Incomplete("the file ends within its header")
    width, height, depth, colour = struct.unpack(">IIBB", head[16:26])
    if not width or not height or colour not in _CHANNELS:
        raise Incomplete(f"the header is damaged: {width} x {height}, colour type {colour}")
    return width, height, depth, colour


def _decode(stream: BinaryIO, info: ImageInfo) -> Pixels:
    if info.dtype == "uint16" and info.channels == 3:
        return _decode_deep_colour(stream.read())
    with Image.open(stream) as image:
        if image.mode == "P":
            return np.asarray(image.convert("RGB"))
        if image.mode == "I":
            return np.asarray(image).astype(np.uint16)
        return np.asarray(image)


def _decode_deep_colour(data: bytes) -> Pixels:
    """16-bit RGB: Pillow would silently keep only the upper eight bits."""
    try:
        import imagecodecs
    except ImportError as error:
        raise MissingPart("Reading 16-bit colour PNG", "worker", "imagecodecs") from error
    return imagecodecs.png_decode(data)
