"""TIFF 6.0 and BigTIFF, one or many pages."""

from __future__ import annotations

import os
from typing import BinaryIO

from tifffile import TiffFile, TiffPage

from graticule.formats.reader import Incomplete, Picture, Reader, as_pixels, channels_of
from graticule.results import ImageInfo

_SIGNATURES = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")


class TiffReader(Reader):
    """Reads TIFF of 1 to 64 bits, integers and floats; an alpha channel is dropped."""

    name = "TIFF"
    suffixes = frozenset({".tif", ".tiff"})
    media_type = "image/tiff"

    def matches(self, head: bytes) -> bool:
        """Whether `head` begins with a TIFF or BigTIFF signature."""
        return head.startswith(_SIGNATURES)

    def probe(self, stream: BinaryIO) -> ImageInfo:
        """Read the first page's tags and count the pages."""
        stream.seek(0)
        with TiffFile(stream) as tiff:
            return _info(_page(tiff, 0), len(tiff.pages))

    def decode(self, stream: BinaryIO, frame: int) -> Picture:
        """Decode one page."""
        stream.seek(0)
        with TiffFile(stream) as tiff:
            page = _page(tiff, frame)
            array = page.asarray()
            if page.axes.startswith("S"):  # planar: colour planes one after the other
                array = array.transpose(1, 2, 0)
            if array.ndim > 3:
                raise ValueError(f"expected a picture, found an array of shape {array.shape}")
            pixels = as_pixels(array)
            info = _info(page, len(tiff.pages))
        return Picture(pixels, info.model_copy(update={"channels": channels_of(pixels), "dtype": str(pixels.dtype)}))

    def check_complete(self, stream: BinaryIO) -> None:
        """Read every page's tags and check that the data which they point to is there."""
        size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        with TiffFile(stream) as tiff:
            if not len(tiff.pages):  # many writers fill in the first page's offset only at the end
                raise Incomplete("the file has no page yet")
            for number in range(len(tiff.pages)):
                page = _page(tiff, number)
                end = max((a + b for a, b in zip(page.dataoffsets, page.databytecounts, strict=False)), default=0)
                if not page.dataoffsets or end > size:
                    raise Incomplete(f"page {number} needs {end} bytes, found {size}")


def _page(tiff: TiffFile, number: int) -> TiffPage:
    page = tiff.pages[number]
    if not isinstance(page, TiffPage):
        page = page.aspage()
    return page


def _info(page: TiffPage, frames: int) -> ImageInfo:
    samples = page.samplesperpixel
    return ImageInfo(
        width=page.imagewidth,
        height=page.imagelength,
        channels=samples if samples in (1, 3) else max(1, samples - 1),
        dtype=str(page.dtype),
        format="tiff",
        frames=frames,
    )
