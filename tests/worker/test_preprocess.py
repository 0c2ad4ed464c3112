"""From pixels to the network's input and back: sizes, numbers, borders."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graticule.manifest import Preprocessing
from graticule_workers.pipelines.preprocess import Source, prepare


def spec(size=None, **changes) -> Preprocessing:
    return Preprocessing.model_validate(
        {"size": size or {"policy": "multiple-of", "multiple": 1}, "normalisation": {"kind": "scale"}, **changes}
    )


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (np.array([[0, 51, 255]], np.uint8), [0, 0.2, 1]),
        (np.array([[0, 65535]], np.uint16), [0, 1]),
        (np.array([[0.25, 0.5]], np.float32), [0.25, 0.5]),
        (np.array([[-5.0, 0.0, 15.0]], np.float32), [0, 0.25, 1]),
    ],
)
def test_scale_divides_by_what_the_type_can_hold(pixels, expected):
    prepared = prepare(pixels, spec())
    np.testing.assert_allclose(prepared.tensor[0, 0], expected, atol=1e-6)
    assert ("float-range-stretched" in prepared.flags) == (pixels.min() < 0)


def test_minmax_uses_each_pictures_own_range_and_survives_a_constant_one():
    minmax = spec(normalisation={"kind": "minmax"})
    np.testing.assert_allclose(prepare(np.array([[100, 150, 200]], np.uint16), minmax).tensor[0, 0], [0, 0.5, 1])
    constant = prepare(np.full((3, 3), 7, np.uint8), minmax)
    assert not constant.tensor.any()
    assert constant.flags == ("constant-image",)


def test_standardise_applies_each_channels_constants():
    rgb = np.zeros((2, 2, 3), np.uint8)
    rgb[..., 1] = 255
    made = prepare(
        rgb, spec(colour="rgb", normalisation={"kind": "standardise", "mean": [0.5, 0.5, 0], "std": [0.5, 0.25, 1]})
    )
    np.testing.assert_allclose(made.tensor[:, 0, 0], [-1, 2, 0])


def test_grey_is_luma_and_rgb_of_grey_is_three_times_the_same():
    red = np.zeros((1, 1, 3), np.uint8)
    red[..., 0] = 255
    assert prepare(red, spec()).tensor[0, 0, 0] == pytest.approx(0.299, abs=1e-3)
    assert prepare(np.full((1, 1), 255, np.uint8), spec(colour="rgb")).tensor.ravel().tolist() == [1, 1, 1]


def test_dead_pixels_are_replaced_by_the_median_and_told():
    pixels = np.array([[0.0, np.nan, 1.0, np.inf, 0.5]], np.float32)
    prepared = prepare(pixels, spec())
    np.testing.assert_allclose(prepared.tensor[0, 0], [0, 0.5, 1, 0.5, 0.5])
    assert "non-finite-pixels" in prepared.flags


@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.sampled_from([1, 16, 32]),
    st.sampled_from(["reflect", "edge", "constant"]),
)
@settings(max_examples=80, deadline=None)
def test_padding_keeps_every_pixel_and_can_be_undone(height, width, multiple, mode):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width), np.uint8)
    prepared = prepare(pixels, spec({"policy": "multiple-of", "multiple": multiple}, padding={"mode": mode}))
    _, padded_height, padded_width = prepared.tensor.shape
    assert padded_height % multiple == padded_width % multiple == 0
    assert padded_height - height < multiple
    assert padded_width - width < multiple
    np.testing.assert_allclose(prepared.restore(prepared.tensor)[0] * 255, pixels, atol=1e-3)


@given(st.integers(2, 300), st.integers(2, 300))
@settings(max_examples=40, deadline=None)
def test_a_fixed_size_fits_the_picture_in_without_distortion(height, width):
    prepared = prepare(np.zeros((height, width), np.uint8), spec({"policy": "fixed", "height": 64, "width": 96}))
    assert prepared.tensor.shape == (1, 64, 96)
    rows, columns = prepared.content
    assert rows == 64 or columns == 96
    assert abs(rows / height - columns / width) <= max(1 / height, 1 / width)
    assert prepared.restore(prepared.tensor).shape == (1, height, width)


def test_a_mask_comes_back_to_the_place_where_the_object_is():
    pixels = np.zeros((100, 200), np.uint8)
    pixels[40:60, 120:160] = 255
    prepared = prepare(pixels, spec({"policy": "multiple-of", "multiple": 32}, resize={"short_side": 50}))
    back = prepared.restore(prepared.tensor)[0] > 0.5
    rows, columns = np.nonzero(back)
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (40, 60, 120, 160)


# -- cut out of a large picture ----------------------------------------------------------------------------------------


def large(dtype: type, *, colour: bool) -> np.ndarray:
    generator = np.random.default_rng(1)
    pixels = generator.integers(10, 200, (61, 83, 3) if colour else (61, 83)).astype(dtype)
    if np.issubdtype(dtype, np.floating):
        pixels[5, 7], pixels[30, 40] = np.nan, -np.inf
    return pixels


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("colours", [(False, "grey"), (True, "grey"), (False, "rgb"), (True, "rgb")])
@pytest.mark.parametrize("kind", ["scale", "minmax", "standardise"])
def test_pieces_are_those_of_the_whole_input(dtype, colours, kind, monkeypatch):
    monkeypatch.setattr("graticule_workers.rows.CHUNK_PIXELS", 500)
    in_colour, colour = colours
    constants = {"mean": [0.4] * 3, "std": [0.2] * 3} if colour == "rgb" else {"mean": [0.4], "std": [0.2]}
    made = spec(
        {"policy": "multiple-of", "multiple": 32},
        colour=colour,
        normalisation={"kind": kind, **(constants if kind == "standardise" else {})},
    )
    pixels = large(dtype, colour=in_colour)
    whole, source = prepare(pixels, made), Source(pixels, made)
    assert source.flags == whole.flags
    np.testing.assert_array_equal(source.cut(0, 0, (64, 96)), whole.tensor)
    np.testing.assert_array_equal(source.cut(32, 32, (32, 64)), whole.tensor[:, 32:64, 32:96])


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 90), st.sampled_from(["grey", "rgb"]))
@settings(max_examples=80, deadline=None)
def test_a_picture_scaled_by_pieces_is_the_picture_scaled_at_once(height, width, short_side, colour):
    pixels = np.random.default_rng(2).integers(0, 256, (height, width, 3), np.uint8)
    made = spec(colour=colour, resize={"short_side": short_side})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("graticule_workers.rows.CHUNK_PIXELS", 300)
        source = Source(pixels, made)
    whole = prepare(pixels, made)
    assert source.content == whole.content
    np.testing.assert_allclose(source.cut(0, 0, whole.content), whole.tensor, atol=1e-5)


def test_a_picture_smaller_than_a_tile_is_padded_to_it():
    pixels = np.array([[0, 51, 255]], np.uint8)
    tiled = spec({"policy": "tiled", "height": 4, "width": 6, "overlap": 2}, padding={"mode": "edge"})
    expected = np.tile(np.array([0, 0.2, 1, 1, 1, 1], np.float32), (4, 1))
    np.testing.assert_allclose(prepare(pixels, tiled).tensor[0], expected, atol=1e-6)
    np.testing.assert_allclose(Source(pixels, tiled).cut(0, 0, (4, 6))[0], expected, atol=1e-6)


def test_a_large_float_picture_without_a_single_number_is_constant_and_told():
    source = Source(np.full((5, 5), np.nan, np.float32), spec())
    assert source.flags == ("non-finite-pixels", "constant-image")
    assert not source.cut(0, 0, (5, 5)).any()


@pytest.mark.parametrize("dtype", ["int32", "uint32", "int16"])
def test_counts_that_do_not_fill_their_type_are_stretched_and_that_is_told(dtype):
    pixels = np.array([[100, 200], [300, 500]]).astype(dtype)
    pixels[0, 0] = -100 if dtype == "int16" else 100
    low = int(pixels[0, 0])
    prepared = prepare(pixels, spec())
    expected = (pixels.astype(float) - low) / (500 - low)
    np.testing.assert_allclose(prepared.tensor[0, :2, :2], expected, atol=1e-6)
    assert prepared.flags == ("integer-range-stretched",)


def test_eight_and_sixteen_bits_keep_their_scale():
    for dtype, top in (("uint8", 255), ("uint16", 65_535), ("int16", 32_767)):
        prepared = prepare(np.array([[1, 100]]).astype(dtype), spec())
        np.testing.assert_allclose(prepared.tensor[0, 0, :2], [1 / top, 100 / top], rtol=1e-6)
        assert prepared.flags == ()
