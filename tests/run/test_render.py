from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from graticule.render import PALETTE, binary_mask, encode_png, line_width, overlay, viewable
from tests.run.samples import make_object

GREY = np.full((20, 30), 100, dtype=np.uint8)
RED = (255, 0, 0)
FILLED = (146, 70, 70)  # 0.7 * 100 + 0.3 * 255 and + 0


def square_mask(dtype: type = np.uint8) -> np.ndarray:
    mask = np.zeros((20, 30), dtype=dtype)
    mask[5:10, 10:16] = 1
    return mask


def drawn(mask: np.ndarray, *objects, numbers: int = 0, pixels: np.ndarray = GREY) -> np.ndarray:
    return overlay(pixels, mask, objects or (make_object(1),), {"crack": "#ff0000", "fray": "#0000ff"}, numbers=numbers)


def test_an_object_is_filled_and_outlined_from_outside():
    picture = drawn(square_mask())
    assert picture.shape == (20, 30, 3)
    assert np.array_equal(np.unique(picture[5:10, 10:16].reshape(-1, 3), axis=0), [(146, 70, 70)])
    ring = [picture[4, 12], picture[10, 12], picture[7, 9], picture[7, 16]]
    assert all(tuple(pixel) == RED for pixel in ring)


def test_a_dark_halo_runs_around_the_outline_and_the_rest_is_untouched():
    picture = drawn(square_mask())
    halo = np.rint(0.55 * 100 + 0.45 * np.array([10, 12, 18]))
    assert np.array_equal(picture[3, 12], halo)
    assert np.array_equal(picture[7, 8], halo)
    untouched = np.ones((20, 30), dtype=bool)
    untouched[3:12, 8:18] = False
    assert (picture[untouched] == 100).all()


def test_an_object_of_one_pixel_stays_visible():
    mask = np.zeros((20, 30), dtype=np.uint8)
    mask[8, 8] = 1
    picture = drawn(mask)
    assert tuple(picture[8, 8]) == FILLED
    assert tuple(picture[8, 9]) == RED


def test_each_object_has_the_colour_of_its_class():
    mask = square_mask()
    mask[5:10, 22:26] = 2
    picture = drawn(mask, make_object(1), make_object(2, class_name="fray"))
    assert tuple(picture[4, 12]) == RED
    assert tuple(picture[4, 23]) == (0, 0, 255)


def test_objects_that_touch_are_told_apart():
    mask = square_mask()
    mask[5:10, 13:16] = 2
    picture = drawn(mask, make_object(1), make_object(2, class_name="fray"))
    assert tuple(picture[7, 12]) == FILLED
    assert tuple(picture[7, 13]) == (0, 0, 255)
    assert tuple(picture[7, 14]) == (70, 70, 146)


def test_a_class_without_a_colour_gets_one_of_the_palette():
    picture = overlay(GREY, square_mask(), [make_object(1, class_name="new")], {}, numbers=0)
    assert "#{:02x}{:02x}{:02x}".format(*picture[4, 12]) == PALETTE[0]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_ids_of_any_type_are_drawn_the_same(dtype: type):
    assert np.array_equal(drawn(square_mask(dtype)), drawn(square_mask()))


def test_ids_beyond_eight_bits():
    mask = square_mask(np.uint16) * np.uint16(40_000)
    assert tuple(drawn(mask, make_object(40_000))[4, 12]) == RED


def test_an_object_at_the_edge_needs_no_room_outside():
    mask = np.zeros((20, 30), dtype=np.uint8)
    mask[:4, :4] = 1
    mask[-3:, -3:] = 1
    picture = drawn(mask)
    assert tuple(picture[0, 0]) == FILLED
    assert tuple(picture[-1, -1]) == FILLED
    assert tuple(picture[0, -1]) == (100, 100, 100)  # nothing wraps around


def test_without_objects_the_picture_is_as_it_was():
    assert (drawn(np.zeros((20, 30), dtype=np.uint8)) == 100).all()


def test_numbers_are_drawn_up_to_a_limit():
    big = np.zeros((120, 160), dtype=np.uint8)
    big[50:60, 70:80] = 1
    found = make_object(1, bounding_box=(70, 50, 80, 60), centroid=(74.5, 54.5), area=100)
    grey = np.full(big.shape, 100, dtype=np.uint8)
    with_number = drawn(big, found, numbers=1, pixels=grey)
    without = drawn(big, found, numbers=0, pixels=grey)
    where = np.argwhere((with_number != without).any(axis=2))
    assert len(where)
    assert where[:, 0].max() < 50  # above the object
    assert 60 < where[:, 1].mean() < 90


def test_the_inputs_stay_as_they_are():
    mask, pixels = square_mask(), GREY.copy()
    drawn(mask, pixels=pixels, numbers=5)
    assert np.array_equal(mask, square_mask())
    assert np.array_equal(pixels, GREY)


def test_the_line_grows_with_the_picture():
    assert [line_width(np.zeros((side, side))) for side in (100, 400, 512, 1024, 4096)] == [1, 2, 2, 4, 16]


def test_eight_bits_are_shown_as_they_are():
    rgb = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert np.array_equal(viewable(rgb), rgb)
    assert np.array_equal(viewable(rgb[:, :, 0])[:, :, 2], rgb[:, :, 0])


def test_sixteen_bits_are_stretched_to_what_is_there():
    pixels = np.linspace(1000, 3000, 10_000).astype(np.uint16).reshape(100, 100)
    shown = viewable(pixels)[:, :, 0]
    assert (shown[0, 0], shown[-1, -1]) == (0, 255)
    # 0.5 % and 99.5 % of a ramp from 1000 to 3000 are 1010 and 2990; the middle stays in the middle.
    assert shown[50, 0] == round((pixels[50, 0] - 1010) / 1980 * 255)


def test_a_few_hot_pixels_do_not_darken_the_rest():
    pixels = np.tile(np.arange(100, dtype=np.uint16), (100, 1))
    pixels[3, 3] = 65_535
    shown = viewable(pixels)[:, :, 0]
    assert 125 <= shown[50, 50] <= 131


def test_a_lone_bright_pixel_in_a_constant_picture_is_shown():
    pixels = np.full((100, 100), 7, dtype=np.uint16)
    pixels[1, 2] = 900
    shown = viewable(pixels)[:, :, 0]
    assert (shown[1, 2], shown[0, 0]) == (255, 0)


def test_values_that_are_no_numbers_become_black():
    pixels = np.linspace(-1, 1, 400, dtype=np.float32).reshape(20, 20)
    pixels[0, :3] = (np.nan, np.inf, -np.inf)
    shown = viewable(pixels)[:, :, 0]
    assert (shown[0, :3] == 0).all()
    assert shown.max() == 255
    assert not viewable(np.full((3, 3), np.nan, dtype=np.float32)).any()


def test_constant_pictures_are_black():
    assert not viewable(np.full((4, 5), 1.5)).any()


def test_the_binary_mask_is_0_and_255():
    mask = np.array([[0, 1, 300]], dtype=np.uint16)
    assert binary_mask(mask).tolist() == [[0, 255, 255]]
    assert binary_mask(mask).dtype == np.uint8


def test_png_keeps_every_pixel():
    picture = drawn(square_mask())
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_png(picture)))), picture)
