"""Readers: what they give back, what they refuse, and how they tell a whole file from half of one."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from graticule import formats
from graticule.errors import BadInput, ImageTooLarge, UnreadableImage

GREY8 = np.arange(12 * 7, dtype=np.uint8).reshape(12, 7)
GREY16 = GREY8.astype(np.uint16) * 700
RGB8 = np.stack([GREY8, GREY8 + 1, GREY8 + 2], axis=2)
RGB16 = RGB8.astype(np.uint16) * 600
FLOAT = GREY8.astype(np.float32) / 3


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def jpeg(array: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def tiff(array: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


def deep_colour_png(array: np.ndarray) -> bytes:
    import imagecodecs

    return imagecodecs.png_encode(array)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (png(GREY8), GREY8),
        (png(GREY16), GREY16),
        (png(RGB8), RGB8),
        (deep_colour_png(RGB16), RGB16),
        (tiff(GREY8), GREY8),
        (tiff(GREY16), GREY16),
        (tiff(FLOAT), FLOAT),
        (tiff(RGB8, photometric="rgb"), RGB8),
        (tiff(RGB8.transpose(2, 0, 1), photometric="rgb", planarconfig="separate"), RGB8),
        (tiff(GREY16, compression="zlib"), GREY16),
        (tiff(GREY16, compression="lzw"), GREY16),
        (tiff(GREY8, bigtiff=True), GREY8),
    ],
)
def test_lossless_formats_give_back_every_bit(data, expected):
    picture = formats.decode(data, "x")
    assert picture.pixels.dtype == expected.dtype
    np.testing.assert_array_equal(picture.pixels, expected)
    info = formats.probe(data, "x")
    assert (info.height, info.width, info.dtype) == (*expected.shape[:2], str(expected.dtype))
    assert picture.info.channels == (1 if expected.ndim == 2 else 3)


def test_alpha_palette_and_bilevel_become_plain_pixels():
    rgba = np.dstack([RGB8, np.full(GREY8.shape, 200, np.uint8)])
    np.testing.assert_array_equal(formats.decode(png(rgba), "x").pixels, RGB8)
    buffer = io.BytesIO()
    Image.fromarray(GREY8 > 40).save(buffer, "PNG")
    assert set(np.unique(formats.decode(buffer.getvalue(), "x").pixels)) == {0, 255}
    palette = Image.fromarray(RGB8).quantize(4)
    buffer = io.BytesIO()
    palette.save(buffer, "PNG")
    np.testing.assert_array_equal(formats.decode(buffer.getvalue(), "x").pixels, np.asarray(palette.convert("RGB")))


def test_a_jpeg_is_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    data = jpeg(np.zeros((20, 10), np.uint8), exif=exif)
    info = formats.probe(data, "x.jpg")
    assert (info.width, info.height) == (20, 10)
    assert formats.decode(data, "x.jpg").pixels.shape == (10, 20)


def test_pages_of_a_tiff_are_frames():
    stack = np.stack([GREY16, GREY16 + 1, GREY16 + 2])
    data = tiff(stack, photometric="minisblack")
    assert formats.probe(data, "s.tif").frames == 3
    np.testing.assert_array_equal(formats.decode(data, "s.tif", frame=2).pixels, stack[2])
    with pytest.raises(UnreadableImage, match="no frame 3"):
        formats.decode(data, "s.tif", frame=3)


def huge_png() -> bytes:
    """50,000 x 50,000 pixels in about 30 kB."""
    side = 50_000

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", bytes(30_000)) + chunk(b"IEND", b"")


def test_a_decompression_bomb_is_refused_by_its_header():
    with pytest.raises(ImageTooLarge, match=r"50000 x 50000 = 2,500,000,000 pixels; at most 1,000,000"):
        formats.decode(huge_png(), "bomb.png", max_pixels=1_000_000)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"hello, world", "text that begins with 'hello, world'"),
        (b"\x00\x01\x02\x03", "bytes that begin with 00 01 02 03"),
        (png(GREY8)[:20], "cannot be read"),
        (jpeg(np.random.default_rng(0).integers(0, 255, (200, 200), np.uint8))[:3000], "cannot be read"),
        (tiff(GREY16)[:100], "cannot be read"),
        (b"\x89PNG\r\n\x1a\n", "cannot be read"),
        (b"\xff\xd8\xff", "cannot be read"),
        (b"II*\x00", "cannot be read"),
    ],
)
def test_what_is_not_a_whole_image_is_refused_with_a_sentence(data, words):
    with pytest.raises(UnreadableImage, match=words):
        formats.decode(data, "täst 1.png")


@pytest.mark.parametrize("encode", [png, jpeg, tiff])
@given(cut=st.floats(0.01, 0.97))
@settings(max_examples=25, deadline=None)
def test_a_file_cut_anywhere_is_incomplete(tmp_path_factory, encode, cut):
    data = encode(np.random.default_rng(1).integers(0, 255, (60, 80), np.uint8))
    path = tmp_path_factory.mktemp("cut") / "x.img"
    path.write_bytes(data)
    formats.check_complete(path)
    path.write_bytes(data[: int(len(data) * cut)])
    with pytest.raises(UnreadableImage):
        formats.check_complete(path)


@given(data=st.binary(max_size=300), head=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\x00"]))
@settings(max_examples=200, deadline=None)
def test_no_bytes_bring_a_reader_down(data, head):
    try:
        formats.decode(head + data, "x", max_pixels=10_000)
    except BadInput:
        pass


@given(hnp.arrays(np.uint16, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40)))
@settings(max_examples=50, deadline=None)
def test_any_16_bit_picture_survives_png_and_tiff(array):
    for data in (png(array), tiff(array)):
        np.testing.assert_array_equal(formats.decode(data, "x").pixels, array)


def test_media_types_and_suffixes():
    assert formats.media_type("A.TIF") == "image/tiff"
    assert formats.media_type("a.xyz") == "application/octet-stream"
    assert {".png", ".jpg", ".jpeg", ".tif", ".tiff"} <= formats.SUFFIXES
