from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from graticule_producers.simulate import KINDS, draw_tile
from graticule_producers.simulate.defects import DRAW
from graticule_producers.simulate.shapes import filled
from graticule_producers.simulate.surface import draw_surface

REAL = Path(__file__).parents[3] / "shared" / "data" / "tiles" / "free"
DEFECTS = [kind for kind in KINDS if kind != "free"]


def test_a_tile_is_always_the_same():
    first, again = draw_tile(7, 3), draw_tile(7, 3)
    assert np.array_equal(first.pixels, again.pixels)
    assert np.array_equal(first.mask, again.mask)
    assert first.kind == again.kind


def test_seeds_and_indices_give_different_tiles():
    pictures = {draw_tile(seed, index, (96, 96)).pixels.tobytes() for seed in range(4) for index in range(4)}
    assert len(pictures) == 16


def test_every_kind_is_drawn_and_defects_have_their_share():
    kinds = [draw_tile(2, index, (64, 80), defect_share=0.6).kind for index in range(300)]
    assert set(kinds) == set(KINDS)
    share = sum(kind != "free" for kind in kinds) / len(kinds)
    assert 0.5 < share < 0.7  # 0.6 within three and a half standard deviations


@pytest.mark.parametrize(("share", "kinds"), [(0.0, {"free"}), (1.0, set(DEFECTS))])
def test_the_share_of_defects_can_be_none_or_all(share: float, kinds: set[str]):
    assert {draw_tile(1, index, (64, 64), defect_share=share).kind for index in range(60)} == kinds


def test_sides_are_those_of_real_photographs_unless_given():
    shapes = [draw_tile(3, index).pixels.shape for index in range(40)]
    assert all(230 <= height <= 400 and 115 <= width <= 620 for height, width in shapes)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**40),
    index=st.integers(0, 10**6),
    low=st.integers(64, 300),
    more=st.integers(0, 60),
    kind=st.sampled_from(KINDS),
)
def test_any_tile_keeps_its_promises(seed: int, index: int, low: int, more: int, kind: str):
    tile = draw_tile(seed, index, (low, low + more), kind=kind)
    assert tile.pixels.dtype == np.uint8
    assert tile.mask.dtype == np.bool_
    assert tile.pixels.shape == tile.mask.shape
    assert all(low <= side <= low + more for side in tile.pixels.shape)
    assert tile.mask.any() == (kind != "free")
    assert tile.mask.mean() < 0.65
    assert tile.pixels.std() > 1


@pytest.mark.parametrize("kind", DEFECTS)
@pytest.mark.parametrize("seed", range(6))
def test_the_mask_is_where_the_picture_changed(kind: str, seed: int):
    canvas = draw_surface(np.random.default_rng(seed), (240, 300))
    tone, grain = canvas.tone.copy(), canvas.grain.copy()
    mask = DRAW[kind](np.random.default_rng([seed, 1]), canvas)
    changed = np.maximum(np.abs(canvas.tone / tone - 1), np.abs(canvas.grain - grain))
    assert (changed[mask] > 0.005).mean() > 0.98
    # A rim of a few pixels beside the mask is lit or lies in the shadow; nothing else is touched.
    near = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(23))) > 0
    assert not (changed[~near] > 0.01).any()


@pytest.mark.parametrize("kind", ["blowhole", "crack", "break"])
def test_holes_cracks_and_breaks_are_darker_than_the_tile(kind: str):
    for index in range(12):
        tile, good = (draw_tile(5, index, (300, 300), kind=which) for which in (kind, "free"))
        assert tile.pixels[tile.mask].mean() < 0.93 * good.pixels[tile.mask].mean()


def test_outlines_cover_the_pixels_they_enclose():
    square = np.array([[2, 1], [6, 1], [6, 4], [2, 4]], dtype=float)
    coverage = filled((6, 8), square)
    expected = np.zeros((6, 8))
    expected[1:4, 2:6] = 1
    assert np.array_equal(coverage > 0.5, expected > 0)
    assert np.abs(coverage - expected).max() < 0.34  # Pillow draws the line itself, a third of a pixel, as well


def test_an_outline_outside_of_the_picture_covers_nothing():
    assert not filled((10, 10), np.array([[20, 20], [30, 20], [25, 30]], dtype=float)).any()


def test_the_grain_is_that_of_real_tiles():
    if not REAL.is_dir():
        pytest.skip("the real photographs are not on this machine (shared/data/tiles)")
    real = [np.asarray(Image.open(path).convert("L")) for path in sorted(REAL.glob("*.jpg"))[::12]]
    drawn = [draw_tile(1, index, kind="free").pixels for index in range(25)]
    expected, found = (np.median([_grain(picture) for picture in group], axis=0) for group in (real, drawn))
    assert np.all(np.abs(found / expected - 1) < 0.35), (expected, found)


def _grain(picture: np.ndarray) -> np.ndarray:
    """Contrast between neighbours across and along the grain, and what is left of a streak 8 and 32 px further."""
    height, width = picture.shape
    middle = picture[height // 6 : -height // 6, width // 6 : -width // 6].astype(float)
    middle /= middle.mean()
    kernel = np.ones(7) / 7
    smooth = np.apply_along_axis(lambda row: np.convolve(np.pad(row, 3, mode="edge"), kernel, "valid"), 1, middle)
    fine = middle - smooth
    left = [(fine[:-shift] * fine[shift:]).mean() / (fine**2).mean() for shift in (8, 32)]
    return np.array([np.diff(middle, axis=1).std(), np.diff(middle, axis=0).std(), *left])
