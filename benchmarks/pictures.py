"""The pictures that are measured: simulated tiles, always the same."""

from __future__ import annotations

import io

from PIL import Image

from graticule_producers.simulate import draw_tile

_SERIES = 7


def tiles(count: int, *, side: int = 256, first: int = 0) -> list[bytes]:
    """PNG files of simulated tiles of `side` x `side` pixels: the numbers `first` and following of one series."""
    return [_png(first + index, side) for index in range(count)]


def _png(index: int, side: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(draw_tile(_SERIES, index, (side, side)).pixels).save(buffer, "PNG")
    return buffer.getvalue()
