"""The pictures that are measured: simulated tiles, always the same."""

from __future__ import annotations

import io

from PIL import Image

from graticule_producers.simulate import draw_tile


def tiles(count: int, first: int = 0, size: tuple[int, int] = (256, 256)) -> list[bytes]:
    """PNG files of simulated tiles of one size, height x width."""
    return [_png(first + index, size) for index in range(count)]


def _png(index: int, size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(draw_tile(7, index, size).pixels).save(buffer, "PNG")
    return buffer.getvalue()
