"""Frames of videos: AVI, MP4 and MOV, decoded by PyAV (FFmpeg) from the extra `formats`."""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from graticule.errors import MissingPart
from graticule.formats.raw import read_exactly, size_of
from graticule.formats.reader import Incomplete, NoFrame, OpenImage, Picture, Pixels, Reader, pictured
from graticule.results import ImageInfo

_KEPT = 16
"""Decoded frames that are remembered: the threads of a worker do not ask for neighbours in order."""
_KEPT_BYTES = 64 * 1024**2
_MOV_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")


class VideoReader(Reader):
    """What AVI, MP4 and MOV have in common: one frame of each picture of the first video stream."""

    several_frames = True

    def open(self, stream: BinaryIO) -> OpenImage:
        """Read the list of frames, without decoding them."""
        return _Video(stream, self.name.lower())

    def check_complete(self, stream: BinaryIO) -> None:
        """Walk through the file's boxes, then read the list of frames."""
        self.check_boxes(stream)
        with self.open(stream):
            pass

    def check_boxes(self, stream: BinaryIO) -> None:
        """Raise Incomplete unless the outermost boxes are there to their end."""
        raise NotImplementedError


class AviReader(VideoReader):
    """Reads AVI."""

    name = "AVI"
    suffixes = frozenset({".avi"})
    media_type = "video/x-msvideo"

    def matches(self, head: bytes) -> bool:
        """Whether `head` begins a RIFF file of the kind AVI."""
        return head.startswith(b"RIFF") and head[8:12] == b"AVI "

    def check_boxes(self, stream: BinaryIO) -> None:
        """RIFF boxes; their length is filled in when the writer is done."""
        position, size = 0, size_of(stream)
        while position + 8 <= size:
            kind, length = struct.unpack("<4sI", read_exactly(stream, position, 8))
            if kind != b"RIFF":
                return
            if not length or position + 8 + length > size:
                raise Incomplete(f"its box of {length:,} bytes is not there to its end")
            position += 8 + length + length % 2


class Mp4Reader(VideoReader):
    """Reads MP4 and MOV."""

    name = "MP4"
    suffixes = frozenset({".mp4", ".mov", ".m4v"})
    media_type = "video/mp4"

    def matches(self, head: bytes) -> bool:
        """Whether `head` begins with a box that such a file begins with."""
        return len(head) >= 8 and head[4:8] in _MOV_BOXES

    def check_boxes(self, stream: BinaryIO) -> None:
        """The boxes follow each other to the end of the file; one of them is the index (moov)."""
        kinds = {kind for kind, _ in _boxes(stream)}
        if b"moov" not in kinds:
            raise Incomplete("the file has no index (moov) yet")


def _boxes(stream: BinaryIO) -> Iterator[tuple[bytes, int]]:
    position, size = 0, size_of(stream)
    while position < size:
        length, kind = struct.unpack(">I4s", read_exactly(stream, position, 8))
        if length == 1:
            (length,) = struct.unpack(">Q", read_exactly(stream, position + 8, 8))
        elif length == 0:
            length = size - position
        if length < 8 or position + length > size:
            raise Incomplete(f"its box {kind!r} of {length:,} bytes is not there to its end")
        yield kind, length
        position += length


class _Video(OpenImage):
    """Knows when each frame is shown, so that a number leads to one frame, always the same."""

    def __init__(self, stream: BinaryIO, format_name: str) -> None:
        self._av = _pyav()
        stream.seek(0)
        self._container = self._av.open(stream, "r", options={"ignore_editlist": "1"})
        try:
            self._stream = self._video_stream()
            self._times, self._keys = self._index()
            self.info = self._described(format_name)
        except BaseException:
            self._container.close()
            raise
        self._kept: OrderedDict[int, Pixels] = OrderedDict()
        self._decoder: Iterator[Any] = iter(())
        self._numbers = {time: number for number, time in enumerate(self._times)}
        self._whole_from = self._times[0]
        self._last = len(self._times)
        """The frame that the decoder gave last; without one, behind all."""

    def read(self, frame: int) -> Picture:
        if frame not in self._kept:
            self._decode_to(frame)
        return pictured(self._kept[frame], self.info)

    def close(self) -> None:
        self._kept.clear()
        self._decoder = iter(())
        self._container.close()

    def _video_stream(self) -> Any:  # noqa: ANN401 (PyAV has no public type for it)
        if not self._container.streams.video:
            raise NoFrame
        stream = self._container.streams.video[0]
        stream.thread_type = "NONE"  # the worker's threads share the cores already
        return stream

    def _index(self) -> tuple[list[int], list[int]]:
        """Times of all frames, and those that can be decoded without others, in the order of time."""
        packets = [packet for packet in self._container.demux(self._stream) if packet.size]
        times = [packet.pts if packet.pts is not None else packet.dts for packet in packets]
        if any(time is None for time in times) or len(set(times)) < len(times):
            raise ValueError("its frames have no times")
        if not times:
            raise NoFrame
        keys = [time for time, packet in zip(times, packets, strict=True) if packet.is_keyframe]
        return sorted(times), sorted(keys) or [min(times)]

    def _described(self, format_name: str) -> ImageInfo:
        context = self._stream.codec_context
        if not context.width or not context.height:
            raise NoFrame
        bits, grey = _kind(self._stream.format)
        return ImageInfo(
            width=context.width,
            height=context.height,
            channels=1 if grey else 3,
            dtype="uint16" if bits > 8 else "uint8",
            format=format_name,
            frames=len(self._times),
        )

    def _decode_to(self, frame: int) -> None:
        """Decode on, or from the nearest frame before that needs no other, until the wanted one has come."""
        key = self._keys[max(0, bisect_right(self._keys, self._times[frame]) - 1)]
        goes_on = self._last < frame and self._times[self._last] >= key
        if goes_on and self._find(frame):
            return
        for start in (key, self._keys[0]):
            self._container.seek(start, stream=self._stream, backward=True, any_frame=False)
            self._decoder, self._whole_from = self._container.decode(self._stream), start
            if self._find(frame):
                return
        raise Incomplete(f"frame {frame} cannot be decoded")

    def _find(self, frame: int) -> bool:
        """Take frames from the decoder up to the wanted one; whether it came."""
        for decoded in self._decoder:
            time = decoded.pts if decoded.pts is not None else decoded.dts
            number = self._numbers.get(time)
            # What is shown before the frame that decoding began with may lack others that it needs.
            if number is None or time < self._whole_from:
                continue
            self._last = number
            self._keep(number, decoded)
            if number >= frame:
                return number == frame
        self._last = len(self._times)
        return False

    def _keep(self, number: int, decoded: Any) -> None:  # noqa: ANN401
        bits, grey = _kind(decoded.format)
        form = ("gray16le" if bits > 8 else "gray") if grey else ("rgb48le" if bits > 8 else "rgb24")
        pixels = np.asarray(decoded.to_ndarray(format=form))
        self._kept[number] = pixels
        most = max(1, min(_KEPT, _KEPT_BYTES // max(1, pixels.nbytes)))
        while len(self._kept) > most:
            self._kept.popitem(last=False)


def _kind(form: Any) -> tuple[int, bool]:  # noqa: ANN401
    """(bits of a value, whether it is grey)."""
    if form is None:
        raise NoFrame
    bits = max((component.bits for component in form.components), default=8)
    return bits, form.name.startswith("gray") or form.name in ("monow", "monob")


def _pyav() -> Any:  # noqa: ANN401 (a module)
    try:
        import av
    except ImportError as error:
        raise MissingPart("Reading videos", "formats", "av") from error
    return av
