"""Microscopes' formats: every bit and the calibration come back from files that other libraries wrote."""

from __future__ import annotations

import io
import sys
from fractions import Fraction
from pathlib import Path

import av
import cv2
import mrcfile
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from graticule import formats
from graticule.errors import BadInput, ImageTooLarge, InvalidParameters, MissingPart, UnreadableImage
from graticule.formats.units import given_by_user
from tests.microscope_files import dm_file, ser_file, write_ncem_emd, write_velox_emd

RNG = np.random.default_rng(7)
STACK = RNG.integers(0, 60_000, (4, 9, 13), np.uint16)
PICTURE = STACK[0]


def npy(array: np.ndarray, **options: bool) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def npz(compressed: bool = True, **arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)
    return buffer.getvalue()


def mrc(array: np.ndarray, tmp_path: Path, voxel: tuple[float, float, float] | float = 0) -> bytes:
    path = tmp_path / "w.mrc"
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(array)
        file.voxel_size = voxel
    return path.read_bytes()


def emd(write, array: np.ndarray, tmp_path: Path, **options) -> bytes:
    path = tmp_path / "w.emd"
    write(path, array, **options)
    return path.read_bytes()


def tiff(array: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


def video(path: Path, stack: np.ndarray, codec: str, pix_fmt: str, **options: str) -> bytes:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(25), options=options)
        stream.height, stream.width = stack.shape[1:3]
        stream.pix_fmt = pix_fmt
        for array in stack:
            frame = av.VideoFrame.from_ndarray(array, format="gray" if stack.ndim == 3 else "rgb24")
            container.mux(stream.encode(frame.reformat(format=pix_fmt)))
        container.mux(stream.encode())
    return path.read_bytes()


def assert_frames(data: bytes, filename: str, stack: np.ndarray) -> None:
    """Every frame, in any order, bit by bit, and in its own type."""
    with formats.open_image(data, filename) as image:
        assert image.info.frames == len(stack)
        assert (image.info.height, image.info.width, image.info.dtype) == (*stack.shape[1:3], str(stack.dtype))
        for frame in (len(stack) - 1, *range(len(stack)), 0):
            picture = image.read(frame)
            assert picture.pixels.dtype == stack.dtype
            np.testing.assert_array_equal(picture.pixels, stack[frame])
            assert (picture.info.width, picture.info.height) == stack.shape[2:0:-1]


def calibration(data: bytes, filename: str) -> tuple[float, float, str, str] | None:
    found = formats.decode(data, filename).calibration
    return (found.pixel_width, found.pixel_height, found.unit, found.source) if found else None


# -- every bit ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32"])
def test_dm_pictures_and_stacks(version, dtype):
    stack = (STACK // 300).astype(dtype)
    assert_frames(dm_file(stack, version=version), "s.dm4", stack)
    assert_frames(dm_file(stack[1], version=version), f"p.dm{version}", stack[1:2])


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint16", "float32"])
def test_mrc_pictures_and_stacks(tmp_path, dtype):
    stack = (STACK // 500).astype(dtype)
    assert_frames(mrc(stack, tmp_path), "s.mrc", stack)
    assert_frames(mrc(stack[2], tmp_path), "p.mrc", stack[2:3])


def test_mrc_of_the_other_byte_order(tmp_path):
    path = tmp_path / "b.mrc"
    with mrcfile.new(path) as file:
        file.set_data(STACK)
        file.voxel_size = (2.0, 3.0, 1.0)
    data = bytearray(path.read_bytes())
    head = np.frombuffer(bytes(data[:1024]), "<i4").astype(">i4").tobytes()
    swapped = head[:208] + data[208:212] + b"\x11\x11\x00\x00" + head[216:]
    big = swapped + np.frombuffer(bytes(data[1024:]), "<u2").astype(">u2").tobytes()
    assert_frames(big, "b.mrc", STACK)
    assert calibration(big, "b.mrc")[:2] == pytest.approx((0.2, 0.3))


@pytest.mark.parametrize("version", [0x0210, 0x0220])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32"])
def test_ser_series(version, dtype, tmp_path):
    stack = (STACK // 300).astype(dtype)
    data = ser_file(stack, version=version)
    assert_frames(data, "s.ser", stack)
    (tmp_path / "s.ser").write_bytes(data)
    from rsciio.tia import file_reader

    (signal,) = file_reader(str(tmp_path / "s.ser"))  # another reader agrees about what is up
    np.testing.assert_array_equal(signal["data"], stack)


def test_emd_of_ncem_and_of_velox(tmp_path):
    assert_frames(emd(write_ncem_emd, STACK, tmp_path, pixel=(1, 1)), "n.emd", STACK)
    assert_frames(emd(write_ncem_emd, PICTURE, tmp_path, pixel=(1, 1)), "n.emd", STACK[:1])
    assert_frames(emd(write_velox_emd, STACK, tmp_path, pixel=(1e-9, 1e-9)), "v.emd", STACK)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", "uint32", "float16", "float32", "float64"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_and_npz(dtype, order):
    stack = np.asarray(STACK // 300, dtype, order=order)
    expected = stack.astype(np.uint8) * 255 if dtype == "bool" else stack
    if dtype == "bool":
        np.testing.assert_array_equal(formats.decode(npy(stack), "s.npy", frame=3).pixels, expected[3])
        return
    assert_frames(npy(stack), "s.npy", expected)
    assert_frames(npz(stack=stack), "s.npz", expected)
    assert_frames(npz(compressed=False, other=np.arange(3), image=stack[1], mask=stack[2]), "s.npz", expected[1:2])


def test_npy_in_colour_and_with_several_leading_axes():
    colour = np.stack([STACK, STACK + 1, STACK + 2], axis=-1)
    assert formats.probe(npy(colour[0]), "c.npy").channels == 3
    np.testing.assert_array_equal(formats.decode(npy(colour), "c.npy", frame=2).pixels, colour[2])
    for order in "CF":
        grid = np.asarray(STACK.reshape(2, 2, 9, 13), order=order)
        assert_frames(npy(grid), "g.npy", STACK)


@pytest.mark.parametrize("options", [{}, {"bigtiff": True}, {"ome": True}, {"imagej": True}, {"compression": "zlib"}])
def test_tiff_stacks(options):
    assert_frames(tiff(STACK, photometric="minisblack", **options), "s.tif", STACK)


@pytest.mark.parametrize("dtype", ["int32", "uint32", "float32", "float64"])
def test_tiff_keeps_the_bit_depth(dtype):
    stack = STACK.astype(dtype)
    assert_frames(tiff(stack, photometric="minisblack"), "s.tif", stack)


def test_a_preview_in_a_tiff_is_no_frame():
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(PICTURE)
        writer.write(PICTURE[::3, ::3])
    assert_frames(buffer.getvalue(), "p.tif", STACK[:1])


def test_an_imagej_stack_with_one_page_for_all_frames():
    """As ImageJ writes stacks beyond 4 GB."""
    data = tiff(STACK, photometric="minisblack", description=f"ImageJ=1.53c\nimages={len(STACK)}\n", metadata=None)
    with tifffile.TiffFile(io.BytesIO(data)) as tiff_file:
        start = tiff_file.pages[0].dataoffsets[0]
    single = bytearray(tiff(STACK[0], description=f"ImageJ=1.53c\nimages={len(STACK)}\n", metadata=None))
    with tifffile.TiffFile(io.BytesIO(single)) as tiff_file:
        start = tiff_file.pages[0].dataoffsets[0]
    assert_frames(bytes(single[:start]) + STACK.tobytes(), "huge.tif", STACK)


MOVIE = np.stack(
    [np.roll(np.add.outer(np.arange(48), np.arange(64)).astype(np.uint8) * 2, 3 * n, 1) for n in range(30)]
)


@pytest.mark.parametrize(("name", "codec", "pix_fmt"), [("m.avi", "ffv1", "gray"), ("m.avi", "rawvideo", "gray")])
def test_lossless_videos(tmp_path, name, codec, pix_fmt):
    assert_frames(video(tmp_path / name, MOVIE, codec, pix_fmt), name, MOVIE)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("m.mp4", "libx264", {"crf": "0", "bf": "3", "g": "12", "preset": "medium"}),
        ("m.mov", "libx264", {"crf": "0", "bf": "0", "g": "5"}),
        ("m.mp4", "libx264", {"crf": "0", "x264-params": "open-gop=1:bframes=3:keyint=10:min-keyint=10:scenecut=0"}),
    ],
)
def test_videos_whose_frames_need_each_other(tmp_path, name, codec, options):
    """Each frame is the one that was written, whatever was read before; coding loses less than they differ by."""
    data = video(tmp_path / name, MOVIE, codec, "yuv420p", **options)
    with formats.open_image(data, name) as image:
        assert (image.info.frames, image.info.channels) == (30, 3)
        for frame in (29, 0, 13, 12, 11, 28, 1, *range(30)):
            found = image.read(frame).pixels[:, :, 1].astype(int)
            errors = [np.abs(found - other).mean() for other in MOVIE]
            assert int(np.argmin(errors)) == frame
            assert min(errors) < 3


@pytest.mark.parametrize(("name", "fourcc"), [("c.avi", "MJPG"), ("c.mp4", "mp4v"), ("c.mov", "mp4v")])
def test_videos_that_opencv_wrote(tmp_path, name, fourcc):
    writer = cv2.VideoWriter(str(tmp_path / name), cv2.VideoWriter.fourcc(*fourcc), 25, (64, 48), True)
    for frame in MOVIE:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR))
    writer.release()
    formats.check_complete(tmp_path / name)
    assert formats.frames(tmp_path / name) == 30
    with formats.open_image((tmp_path / name).read_bytes(), name) as image:
        for frame in (20, 3, 4):
            assert np.abs(image.read(frame).pixels[:, :, 0].astype(int) - MOVIE[frame]).mean() < 6


# -- calibration -------------------------------------------------------------------------------------------------------


def test_calibrations_come_with_unit_and_source_and_unequal_sides(tmp_path):
    assert calibration(dm_file(PICTURE, scale=(0.5, 0.25), unit="nm"), "a.dm3") == (
        0.5,
        0.25,
        "nm",
        "DigitalMicrograph tags",
    )
    assert calibration(dm_file(STACK, scale=(0.5, 0.5), unit="µm", version=4), "a.dm4")[:3] == (0.5, 0.5, "um")
    assert calibration(mrc(STACK, tmp_path, (2.5, 5.0, 1.0)), "a.mrc") == (
        pytest.approx(0.25),
        pytest.approx(0.5),
        "nm",
        "MRC cell dimensions",
    )
    assert calibration(ser_file(STACK, pixel=(2e-10, 4e-10)), "a.ser")[:3] == (
        pytest.approx(0.2),
        pytest.approx(0.4),
        "nm",
    )
    found = calibration(emd(write_ncem_emd, STACK, tmp_path, pixel=(0.125, 0.5)), "a.emd")
    assert found[:2] == pytest.approx((0.125, 0.5))
    found = calibration(emd(write_velox_emd, STACK, tmp_path, pixel=(3e-10, 6e-10)), "a.emd")
    assert found[:2] == pytest.approx((0.3, 0.6))
    assert found[2] == "nm"


def test_no_calibration_is_none(tmp_path):
    assert calibration(dm_file(PICTURE), "a.dm3") is None
    assert calibration(mrc(STACK, tmp_path), "a.mrc") is None
    assert calibration(npy(PICTURE), "a.npy") is None
    assert calibration(tiff(PICTURE), "a.tif") is None


def test_calibrations_of_tiff():
    ome = tiff(
        PICTURE,
        ome=True,
        metadata={"PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.25, "PhysicalSizeYUnit": "nm"},
    )
    assert calibration(ome, "a.ome.tif") == (0.5, 0.25, "nm", "OME PhysicalSize")
    imagej = tiff(PICTURE, imagej=True, resolution=(4, 2), metadata={"unit": "um"})
    assert calibration(imagej, "a.tif") == (0.25, 0.5, "um", "ImageJ resolution and unit")
    fine = tiff(PICTURE, resolution=(2e7, 4e7), resolutionunit="CENTIMETER")
    assert calibration(fine, "a.tif") == (pytest.approx(0.5), pytest.approx(0.25), "nm", "TIFF resolution")
    fei = tiff(PICTURE, extratags=[(34680, "s", 0, "[Scan]\r\nPixelWidth=1.5e-009\r\nPixelHeight=3e-009\r\n", True)])
    assert calibration(fei, "a.tif")[:3] == (pytest.approx(1.5), pytest.approx(3), "nm")
    tags = [(65003, "s", 0, "nm", True), (65009, "d", 1, 0.75, True), (65010, "d", 1, 0.5, True)]
    assert calibration(tiff(PICTURE, extratags=tags), "a.tif") == (0.75, 0.5, "nm", "DigitalMicrograph TIFF tags")


@pytest.mark.parametrize("dots", [72, 300, 1200])
def test_dots_per_inch_say_nothing_about_the_object(dots):
    assert calibration(tiff(PICTURE, resolution=(dots, dots), resolutionunit="INCH"), "a.tif") is None


def test_what_a_user_says():
    assert given_by_user({}) is None
    found = given_by_user({"pixel_size": 0.5})
    assert (found.pixel_width, found.pixel_height, found.unit, found.source) == (0.5, 0.5, "nm", "user")
    found = given_by_user({"pixel_size": [1, 2.5], "pixel_unit": "µm"})
    assert (found.pixel_width, found.pixel_height, found.unit) == (1, 2.5, "um")
    for wrong in (
        {"pixel_size": 0},
        {"pixel_size": [1]},
        {"pixel_size": "big"},
        {"pixel_unit": "nm"},
        {"pixel_size": True},
    ):
        with pytest.raises(InvalidParameters):
            given_by_user(wrong)


# -- what is refused ---------------------------------------------------------------------------------------------------


class Samples(dict[str, bytes]):
    def __repr__(self) -> str:
        return "samples"


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> Samples:
    folder = tmp_path_factory.mktemp("samples")
    return Samples(
        {
            "a.dm3": dm_file(STACK),
            "a.dm4": dm_file(STACK, version=4),
            "a.mrc": mrc(STACK, folder),
            "a.ser": ser_file(STACK),
            "n.emd": emd(write_ncem_emd, STACK, folder, pixel=(1, 1)),
            "v.emd": emd(write_velox_emd, STACK, folder, pixel=(1e-9, 1e-9)),
            "a.npy": npy(STACK),
            "a.npz": npz(stack=STACK),
            "a.tif": tiff(STACK, photometric="minisblack"),
            "a.avi": video(folder / "a.avi", MOVIE, "ffv1", "gray"),
            "a.mp4": video(folder / "a.mp4", MOVIE, "libx264", "yuv420p"),
        }
    )


NAMES = ["a.dm3", "a.dm4", "a.mrc", "a.ser", "n.emd", "v.emd", "a.npy", "a.npz", "a.tif", "a.avi", "a.mp4"]


@pytest.mark.parametrize("name", NAMES)
def test_whole_files_are_complete_and_frames_are_counted(samples, tmp_path, name):
    (tmp_path / name).write_bytes(samples[name])
    formats.check_complete(tmp_path / name)
    assert formats.frames(tmp_path / name) == (30 if name in ("a.avi", "a.mp4") else 4)
    assert Path(name).suffix in formats.SUFFIXES


@pytest.mark.parametrize("name", NAMES)
@given(cut=st.floats(0.001, 0.995))
@settings(max_examples=20, deadline=None)
def test_a_file_cut_anywhere_is_incomplete(samples, tmp_path_factory, name, cut):
    path = tmp_path_factory.mktemp("cut") / name
    path.write_bytes(samples[name][: max(1, int((len(samples[name]) - 8) * cut))])
    with pytest.raises(UnreadableImage):
        formats.check_complete(path)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_damaged_bytes_are_refused_or_read_but_bring_nothing_down(samples, name, data):
    damaged = bytearray(samples[name])
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, min(len(damaged), 3000) - 1))] = data.draw(st.integers(0, 255))
    try:
        formats.decode(bytes(damaged), name, frame=1, max_pixels=1_000_000)
    except BadInput:
        pass


@pytest.mark.parametrize("name", NAMES)
def test_pixels_and_frames_are_limited_by_the_header(samples, name):
    with pytest.raises(ImageTooLarge, match="pixels"):
        formats.probe(samples[name], name, max_pixels=100)
    with pytest.raises(ImageTooLarge, match=r"frames; at most 3 .*GRATICULE_MAX_FRAMES"):
        formats.probe(samples[name], name, max_frames=3)


def test_headers_that_promise_more_than_memory_holds_are_refused(tmp_path):
    huge = bytearray(npy(np.zeros((1, 1), np.uint8)))
    huge = bytes(huge).replace(b"(1, 1)", b"(9999999, 9999999)"[:18]).replace(b" " * 12, b"", 1)
    with pytest.raises(BadInput):
        formats.decode(huge, "bomb.npy", max_pixels=1_000_000)
    with pytest.raises(ImageTooLarge):
        formats.decode(npz(a=np.zeros((5000, 5000), np.uint8)), "bomb.npz", max_pixels=1_000_000)


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value encountered")
def test_one_pixel_is_a_picture(tmp_path):
    one = np.array([[7]], np.uint16)
    written = {
        "a.dm3": dm_file(one),
        "a.mrc": mrc(one, tmp_path),
        "a.ser": ser_file(one[None]),
        "a.emd": emd(write_ncem_emd, one, tmp_path, pixel=(1, 1)),
        "a.npy": npy(one),
        "a.npz": npz(a=one),
        "a.tif": tiff(one),
    }
    for name, data in written.items():
        assert formats.decode(data, name).pixels.tolist() == [[7]], name


def test_files_without_a_frame_say_so(tmp_path):
    empty = bytearray(mrc(STACK, tmp_path))
    empty[8:12] = bytes(4)
    series = bytearray(ser_file(STACK))
    series[18:22] = bytes(4)
    files = {
        "a.mrc": bytes(empty),
        "a.ser": bytes(series),
        "a.npy": npy(np.zeros((0, 5, 5), np.uint8)),
        "a.npz": npz(image=np.zeros((5, 0), np.uint8)),
    }
    for name, data in files.items():
        with pytest.raises(UnreadableImage, match="holds no frame|found: none"):
            formats.decode(data, name)


def test_what_is_no_picture_is_refused_with_the_reason(tmp_path):
    pickled = npy(np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UnreadableImage, match="never loaded"):
        formats.decode(pickled, "a.npy")
    with pytest.raises(UnreadableImage, match="found: none"):
        formats.decode(npz(a=np.array(["text"])), "a.npz")
    with pytest.raises(UnreadableImage, match="found: a, b"):
        formats.decode(npz(a=PICTURE, b=PICTURE), "a.npz")
    with pytest.raises(UnreadableImage, match="expected height x width"):
        formats.decode(npy(np.arange(5)), "a.npy")
    with pytest.raises(UnreadableImage, match="complex"):
        formats.decode(npy(PICTURE.astype(complex)), "a.npy")
    with pytest.raises(UnreadableImage, match="complex"):
        formats.decode(mrc(STACK.astype(np.complex64), tmp_path), "a.mrc")


@pytest.mark.parametrize(("name", "package"), [("a.dm3", "rsciio"), ("n.emd", "rsciio"), ("a.mp4", "av")])
def test_a_missing_library_is_named_with_the_pip_command(samples, name, package, monkeypatch):
    for module in [module for module in sys.modules if module == package or module.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPart, match=r'pip install "graticule\[formats\]"'):
        formats.decode(samples[name], name)


def test_a_large_stack_is_not_read_for_one_frame():
    """Only the header and the frame's own bytes are read."""

    class Counting(io.BytesIO):
        taken = 0

        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            self.taken += len(data)
            return data

    stack = np.zeros((200, 64, 64), np.uint8)
    for name, data in {"a.npy": npy(stack), "a.ser": ser_file(stack)}.items():
        stream = Counting(data)
        with formats.open_image(stream, name) as image:
            image.read(150)
        assert stream.taken < 20_000, name
