"""One simulated photograph of a magnetic tile, with the exact truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from graticule_producers.simulate.defects import DRAW, Mask
from graticule_producers.simulate.shapes import Size
from graticule_producers.simulate.surface import draw_surface

Kind = Literal["free", "blowhole", "break", "crack", "fray", "uneven"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""`free` is a good tile; the others are the defects that a tile can have."""

DEFECT_SHARE = 0.6
"""Share of the tiles that have a defect."""
SMALLEST_SIDE = 64
LARGEST_SIDE = 4096

_HEIGHTS, _WIDTHS = (230, 400), (115, 620)


@dataclass(frozen=True)
class Tile:
    """A picture and what is really in it."""

    pixels: NDArray[np.uint8]
    """height x width, grey."""
    mask: Mask
    """True where there is a defect."""
    kind: Kind


def draw_tile(
    seed: int,
    index: int,
    size: tuple[int, int] | None = None,
    *,
    defect_share: float = DEFECT_SHARE,
    kind: Kind | None = None,
) -> Tile:
    """The tile number `index` of the series `seed`: always the same one.

    `size`: shortest and longest side in pixels; None: the sides that real tiles' photographs have.
    `kind`: instead of a random one.
    """
    rng = np.random.default_rng([seed, index])
    chosen = _choose_kind(rng, defect_share)
    kind = kind or chosen
    canvas = draw_surface(rng, _choose_size(rng, size))
    mask = DRAW[kind](rng, canvas) if kind in DRAW else np.zeros(canvas.size, dtype=bool)
    return Tile(pixels=canvas.expose(rng), mask=mask, kind=kind)


def _choose_kind(rng: Generator, defect_share: float) -> Kind:
    is_defect, which = rng.random() < defect_share, rng.integers(1, len(KINDS))
    return KINDS[which] if is_defect else "free"


def _choose_size(rng: Generator, limits: tuple[int, int] | None) -> Size:
    heights, widths = (limits, limits) if limits else (_HEIGHTS, _WIDTHS)
    return int(rng.integers(heights[0], heights[1] + 1)), int(rng.integers(widths[0], widths[1] + 1))
