"""Large pictures are gone through by rows, so that what is made on the way stays small."""

from __future__ import annotations

from collections.abc import Iterator

CHUNK_PIXELS = 1_048_576
"""Pixels that are worked on at a time: 4 MiB of float32 for each plane."""


def row_chunks(first: int, last: int, width: int) -> Iterator[slice]:
    """Slices that cover the rows `first` .. `last` - 1, each of at most `CHUNK_PIXELS` pixels or of one row."""
    step = max(1, CHUNK_PIXELS // width)
    for start in range(first, last, step):
        yield slice(start, min(start + step, last))
