"""TIFF 6.0 and BigTIFF, one or many pages; OME, ImageJ stacks, and the calibration that microscopes write."""

from __future__ import annotations

import struct
from typing import Any, BinaryIO

import numpy as np
from tifffile import TiffFile, TiffPage

from graticule.formats.raw import check_end, read_exactly, size_of
from graticule.formats.reader import Incomplete, NoFrame, OpenImage, Picture, Pixels, Reader, check_values, pictured
from graticule.formats.tiff_calibration import calibration_of
from graticule.results import ImageInfo

_SIGNATURES = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_FEW_PAGES = 16
"""Up to so many pages each is looked at: a preview among them is no frame."""


class TiffReader(Reader):
    """Reads TIFF of 1 to 64 bits, integers and floats; an alpha channel is dropped."""

    name = "TIFF"
    suffixes = frozenset({".tif", ".tiff"})
    media_type = "image/tiff"
    several_frames = True

    def matches(self, head: bytes) -> bool:
        """Whether `head` begins with a TIFF or BigTIFF signature."""
        return head.startswith(_SIGNATURES)

    def open(self, stream: BinaryIO) -> OpenImage:
        """Read the first page's tags and count the pages."""
        return _Tiff(stream)

    def check_complete(self, stream: BinaryIO) -> None:
        """Read every page's tags and check that the data which they point to is there."""
        size = size_of(stream)
        _check_chain(stream)
        with _Tiff(stream) as tiff:
            tiff.check_complete(size)


class _Tiff(OpenImage):
    def __enter__(self) -> _Tiff:
        return self

    def __init__(self, stream: BinaryIO) -> None:
        stream.seek(0)
        self._stream = stream
        self._tiff = TiffFile(stream)
        try:
            if not len(self._tiff.pages):  # many writers fill in the first page's offset only at the end
                raise NoFrame
            first = self._page(0)
            check_values(np.dtype(first.dtype))
            self._pages = self._frames(first)
            self._behind = _frames_behind(self._tiff, first) if len(self._pages) == 1 else 0
            self._calibration = calibration_of(self._tiff, first)
            self.info = _info(first, self._behind or len(self._pages))
        except BaseException:
            self._tiff.close()
            raise

    def read(self, frame: int) -> Picture:
        if self._behind:
            return pictured(self._read_behind(frame), self.info, self._calibration)
        page = self._page(self._pages[frame])
        array = page.asarray()
        if page.axes.startswith("S"):  # planar: colour planes one after the other
            array = array.transpose(1, 2, 0)
        if array.ndim > 3:
            raise ValueError(f"expected a picture, found an array of shape {array.shape}")
        return pictured(array, self.info, self._calibration)

    def check_complete(self, size: int) -> None:
        for number in range(len(self._tiff.pages)):
            page = self._page(number)
            end = max((a + b for a, b in zip(page.dataoffsets, page.databytecounts, strict=False)), default=0)
            if not page.dataoffsets or end > size:
                raise Incomplete(f"page {number} needs {end} bytes, found {size}")
        if self._behind:
            first = self._page(0)
            check_end(self._stream, first.dataoffsets[0] + self._behind * first.nbytes)

    def close(self) -> None:
        self._tiff.close()

    def _page(self, number: int) -> TiffPage:
        page = self._tiff.pages[number]
        return page if isinstance(page, TiffPage) else page.aspage()

    def _frames(self, first: TiffPage) -> range | list[int]:
        """Numbers of the pages that are frames."""
        pages = len(self._tiff.pages)
        if not 1 < pages <= _FEW_PAGES:
            return range(pages)
        return [number for number in range(pages) if _is_like(self._page(number), first)]

    def _read_behind(self, frame: int) -> Pixels:
        page = self._page(0)
        data = read_exactly(self._stream, page.dataoffsets[0] + frame * page.nbytes, page.nbytes)
        return np.frombuffer(data, np.dtype(self._tiff.byteorder + np.dtype(page.dtype).str[1:])).reshape(page.shape)


def _check_chain(stream: BinaryIO) -> None:
    """Raise Incomplete unless every page's list of tags is there. (tifffile leaves out the pages that are not.)"""
    head = read_exactly(stream, 0, 8)
    order, big = "<" if head[:2] == b"II" else ">", head[2:4] in (b"+\x00", b"\x00+")
    count, entry, offset = (f"{order}Q", 20, f"{order}Q") if big else (f"{order}H", 12, f"{order}I")
    width = struct.calcsize(offset)
    (position,) = struct.unpack(offset, read_exactly(stream, 8 if big else 4, width))
    seen = set[int]()
    while position and position not in seen:
        seen.add(position)
        (entries,) = struct.unpack(count, read_exactly(stream, position, struct.calcsize(count)))
        (position,) = struct.unpack(
            offset, read_exactly(stream, position + struct.calcsize(count) + entries * entry, width)
        )


def _is_like(page: TiffPage, first: TiffPage) -> bool:
    return (page.imagewidth, page.imagelength, page.dtype) == (first.imagewidth, first.imagelength, first.dtype)


def _frames_behind(tiff: TiffFile, page: TiffPage) -> int:
    """Frames of a stack for which ImageJ wrote one page only (beyond 4 GB); 0: it is none."""
    described: dict[str, Any] = tiff.imagej_metadata or {}
    frames = int(described.get("images", 1))
    return frames if frames > 1 and page.is_contiguous and page.compression == 1 else 0


def _info(page: TiffPage, frames: int) -> ImageInfo:
    samples = page.samplesperpixel
    if not page.imagewidth or not page.imagelength:
        raise NoFrame
    return ImageInfo(
        width=page.imagewidth,
        height=page.imagelength,
        channels=samples if samples in (1, 3) else max(1, samples - 1),
        dtype=str(page.dtype),
        format="tiff",
        frames=frames,
    )
