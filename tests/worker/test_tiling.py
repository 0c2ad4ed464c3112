"""Large pictures in tiles: the geometry, seams that cannot be seen, numbers across them, and memory."""

from __future__ import annotations

import tracemalloc
from contextlib import nullcontext
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from pydantic import ValidationError

from graticule.manifest import Manifest, SizePolicy
from graticule_workers.analysis.probabilities import evidence
from graticule_workers.pipelines.preprocess import Prepared, prepare
from graticule_workers.pipelines.segmentation import AT_ONCE, Infer, Segmentation, segment
from graticule_workers.pipelines.tiling import Band, Restorer, lay_out, lay_out_axis
from tests.models import brightness_manifest, write_brightness_model

UNTILED = {"policy": "multiple-of", "multiple": 4}


# -- geometry ----------------------------------------------------------------------------------------------------------


@st.composite
def axes(draw) -> dict[str, int]:
    """Arguments of `lay_out_axis` that a manifest can lead to."""
    multiple = draw(st.sampled_from([1, 2, 8, 32]))
    tile = multiple * draw(st.integers(1, 40))
    content = draw(st.integers(1, 3000))
    # A tile that is fitted to the picture may be shorter than twice the overlap.
    return {
        "content": content,
        "padded": max(tile, -(-content // multiple) * multiple),
        "tile": tile,
        "overlap": draw(st.integers(0, min(3 * tile // 4, tile - multiple))),
        "multiple": multiple,
    }


@given(axes())
@settings(max_examples=200, deadline=None)
def test_weights_on_every_pixel_add_up_to_exactly_one(axis):
    total = np.zeros(axis["content"], np.float32)
    for span in lay_out_axis(**axis):
        assert (span.weights >= 0).all()
        total[span.first : span.last] += span.weights
    assert (total == 1).all()


@given(axes())
@settings(max_examples=200, deadline=None)
def test_tiles_lie_inside_and_share_at_least_the_overlap(axis):
    spans, tile = lay_out_axis(**axis), axis["tile"]
    starts = [span.start for span in spans]
    assert starts[0] == 0
    assert starts[-1] + tile == axis["padded"]
    assert all(start % axis["multiple"] == 0 for start in starts)
    steps = np.diff(starts)
    assert (steps > 0).all()
    assert (steps <= tile - axis["overlap"]).all()


@given(axes())
@settings(max_examples=200, deadline=None)
def test_the_outer_quarter_of_an_overlap_is_context_only(axis):
    spans = lay_out_axis(**axis)
    for span in spans[1:]:
        assert span.first - span.start >= axis["overlap"] // 4
    for span in spans[:-1]:
        assert span.start + axis["tile"] - span.last >= axis["overlap"] // 4


@given(axes())
@settings(max_examples=200, deadline=None)
def test_what_is_settled_is_touched_by_no_later_tile(axis):
    spans = lay_out_axis(**axis)
    for index, span in enumerate(spans):
        assert span.first < span.settled <= span.last
        assert all(later.first >= span.settled for later in spans[index + 1 :])
    assert spans[-1].settled == axis["content"]


def test_tiles_of_the_large_picture_by_hand():
    tiled = lay_out((8192, 8192), SizePolicy(policy="tiled", height=512, width=512, overlap=128))
    assert (len(tiled.rows), len(tiled.columns)) == (21, 21)  # steps of (8192 - 512) / 20 = 384 = 512 - 128
    assert [span.start for span in tiled.rows] == list(range(0, 7681, 384))
    assert (tiled.rows[1].first, tiled.rows[1].last) == (384 + 32, 768 + 96)
    automatic = lay_out((8192, 8192), SizePolicy(policy="multiple-of", multiple=32))
    assert automatic.size == (1472, 1472)  # six of 1536 px would be needed; six of 1472 px reach as far
    assert [span.start for span in automatic.rows] == [0, 1344, 2688, 4032, 5376, 6720]


def test_only_pictures_beyond_the_largest_input_are_tiled():
    size = SizePolicy(policy="multiple-of", multiple=32, largest=256 * 256, overlap=64)
    assert lay_out((250, 250), size).size == (256, 256)
    assert len(lay_out((250, 250), size).tiles) == 1
    assert lay_out((100, 500), size).size == (128, 512)  # a long one within the limit
    assert lay_out((100, 600), size).size == (128, 256)
    assert len(lay_out((100, 600), size).tiles) == 3


@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([1, 4, 32]), st.integers(64, 600), st.floats(0, 0.5))
@settings(max_examples=300, deadline=None)
def test_automatic_tiles_are_no_larger_and_no_more_than_they_must(height, width, multiple, side, share):
    size = SizePolicy(
        policy="multiple-of", multiple=multiple, largest=side**2, overlap=int(share * size_of(side, multiple))
    )
    grid = lay_out((height, width), size)
    assert grid.size[0] * grid.size[1] <= size.largest
    assert grid.size[0] % multiple == grid.size[1] % multiple == 0
    for axis, spans in enumerate((grid.rows, grid.columns)):
        padded = -(-(height, width)[axis] // multiple) * multiple
        assert spans[-1].start + grid.size[axis] == padded
        if len(spans) > 1:
            whole = lay_out_axis(padded, padded, size.tile[axis], size.overlap, multiple)
            assert len(spans) == len(whole)
            assert np.diff([span.start for span in spans]).max() <= grid.size[axis] - size.overlap


def size_of(side: int, multiple: int) -> int:
    """The tile that fits into `side` x `side` px."""
    return side // multiple * multiple


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"policy": "tiled", "height": 512}, "needs height and width"),
        ({"policy": "tiled", "height": 512, "width": 128}, "overlap must be at most half of a tile's shorter side"),
        ({"policy": "tiled", "height": 64, "width": 64, "multiple": 32, "overlap": 33}, "overlap must be at most half"),
        ({"policy": "tiled", "height": 500, "width": 512, "multiple": 32}, "must be multiples of 32 px"),
        ({"policy": "multiple-of", "multiple": 32, "largest": 1000}, "at least 32 x 32 px"),
        ({"policy": "multiple-of", "multiple": 32, "largest": 128 * 128}, "tiles are 128 x 128 px, overlap is 128 px"),
    ],
)
def test_a_manifest_whose_tiles_cannot_work_is_refused(wrong, sentence):
    with pytest.raises(ValidationError, match=sentence):
        SizePolicy.model_validate(wrong)


# -- small networks ----------------------------------------------------------------------------------------------------


class Network:
    """A convolutional network with fixed random weights, and what it was asked."""

    def __init__(self, kernels: tuple[int, ...], classes: int = 1, *, pooled: bool = False) -> None:
        """Zero-padded convolutions with ReLU between; `pooled`: all but the first and the last at a quarter's size."""
        self._session = ort.InferenceSession(_graph(kernels, classes, pooled), providers=["CPUExecutionProvider"])
        self.batches: list[tuple[int, ...]] = []

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        self.batches.append(batch.shape)
        return np.asarray(self._session.run(None, {"image": batch})[0])


def _graph(kernels: tuple[int, ...], classes: int, pooled: bool) -> bytes:
    generator = np.random.default_rng(5)
    nodes, constants, last, channels = [], [], "image", 1
    for index, kernel in enumerate(kernels):
        final = index == len(kernels) - 1
        if pooled and final:
            constants.append(numpy_helper.from_array(np.array([1, 1, 4, 4], np.float32), "scales"))
            nodes.append(helper.make_node("Resize", [last, "", "scales"], ["large"], mode="nearest"))
            last = "large"
        outputs = classes if final else 4
        spread = (2 / (channels * kernel**2)) ** 0.5
        weights = generator.normal(0, spread, (outputs, channels, kernel, kernel)).astype(np.float32)
        constants.append(numpy_helper.from_array(weights, f"w{index}"))
        nodes.append(helper.make_node("Conv", [last, f"w{index}"], [f"c{index}"], pads=[kernel // 2] * 4))
        last, channels = f"c{index}", outputs
        if not final:
            nodes.append(helper.make_node("Relu", [last], [f"r{index}"]))
            last = f"r{index}"
        if pooled and index == 0:
            nodes.append(helper.make_node("MaxPool", [last], ["small"], kernel_shape=[4, 4], strides=[4, 4]))
            last = "small"
    nodes.append(helper.make_node("Identity", [last], ["logits"]))
    shape = ["batch", None, "height", "width"]
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


@pytest.fixture
def brightness(tmp_path) -> Infer:
    """logit = 100 * (brightness - 0.5), pixel by pixel."""
    write_brightness_model(tmp_path)
    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    return lambda batch: np.asarray(session.run(None, {"image": batch})[0])


def manifest(size: dict[str, Any], names: tuple[str, ...] = ("bright",), **changes: Any) -> Manifest:
    """The brightness model's manifest with another size policy; several names: softmax, the first the background."""
    data = brightness_manifest().model_dump()
    data["preprocessing"] |= {"size": size, **changes.pop("preprocessing", {})}
    data["postprocessing"] |= {
        "activation": "sigmoid" if len(names) == 1 else "softmax",
        "classes": [{"index": i, "name": name, "colour": "#ff0000"} for i, name in enumerate(names)],
        **changes,
    }
    return Manifest.model_validate(data)


def run(pixels: np.ndarray, made: Manifest, infer: Infer) -> Segmentation:
    return segment(pixels, made, made.postprocessing, infer, lambda stage: nullcontext())


def cloudy(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Blobs of many sizes, uint8."""
    generator = np.random.default_rng(seed)
    picture = np.zeros((height, width))
    for cell in (4, 16, 50):
        coarse = generator.random((height // cell + 2, width // cell + 2))
        picture += np.kron(coarse, np.ones((cell, cell)))[:height, :width]
    return (picture * 85).astype(np.uint8)


def assert_same(one: Segmentation, other: Segmentation) -> None:
    np.testing.assert_array_equal(one.labels, other.labels)
    assert one.flags == other.flags
    assert one.measurements.count == other.measurements.count > 3
    assert one.measurements.count_by_class == other.measurements.count_by_class
    for mine, yours in zip(one.measurements.objects, other.measurements.objects, strict=True):
        assert mine.model_dump(exclude={"confidence"}) == yours.model_dump(exclude={"confidence"})
        assert mine.confidence == pytest.approx(yours.confidence, abs=1e-5)


# -- seams -------------------------------------------------------------------------------------------------------------

TILED = {"policy": "tiled", "height": 64, "width": 96, "multiple": 4, "overlap": 32}


def test_a_pointwise_network_gives_exactly_the_untiled_mask(brightness):
    pixels = cloudy(333, 410)
    cleaning = {"minimum_area": 20, "fill_holes": 30}
    assert_same(
        run(pixels, manifest(TILED, **cleaning), brightness), run(pixels, manifest(UNTILED, **cleaning), brightness)
    )


def halved(
    infer: Infer, pixels: np.ndarray, size: dict[str, Any], names: tuple[str, ...] = ("bright",), **changes: Any
) -> Manifest:
    """A manifest whose threshold makes objects of about half of the picture."""
    made = manifest(size, names)
    prepared = prepare(pixels, manifest(UNTILED).preprocessing)
    output = prepared.restore(infer(prepared.tensor[np.newaxis])[0])
    foreground = evidence(output, made.postprocessing)[0]
    return manifest(size, names, threshold=float(np.median(foreground)) + 1e-7, **changes)


@pytest.mark.parametrize("names", [("bright",), ("background", "crack", "fray")])
@pytest.mark.parametrize("pooled", [False, True])
def test_a_network_that_sees_less_than_a_quarter_of_the_overlap_gives_the_untiled_mask(names, pooled):
    # 2 + 2 + 2 px around a pixel; pooled: 1 px, and at a quarter of the size 1 px more than the cell of 4 px: 8 px.
    kernels = (3, 3, 1) if pooled else (5, 5, 5)
    infer, pixels = Network(kernels, len(names), pooled=pooled), cloudy(301, 422)
    made = [halved(infer, pixels, size, names, minimum_area=30, fill_holes=10) for size in (UNTILED, TILED)]
    whole, tiled = (run(pixels, one, infer) for one in made)
    assert len(infer.batches) > 10
    assert_same(tiled, whole)


def test_a_network_that_sees_further_shows_that_the_comparison_would_notice():
    infer, pixels = Network((5, 5, 5)), cloudy(301, 422)
    abutting = {**TILED, "overlap": 0}
    whole, parts = (run(pixels, halved(infer, pixels, size), infer) for size in (UNTILED, abutting))
    rows, columns = np.nonzero((parts.labels > 0) != (whole.labels > 0))
    assert len(rows) > 100
    grid = lay_out((301, 422), SizePolicy.model_validate(abutting))
    to_rows = distance(rows, [span.first for span in grid.rows[1:]])
    to_columns = distance(columns, [span.first for span in grid.columns[1:]])
    assert np.minimum(to_rows, to_columns).max() <= 6  # what it can see


def distance(places: np.ndarray, seams: list[int]) -> np.ndarray:
    """From each place to the nearest seam, px."""
    return np.abs(places[:, np.newaxis] - np.array(seams)).min(axis=1)


def test_tiles_that_begin_off_the_networks_stride_would_show():
    infer, pixels = Network((3, 3, 1), pooled=True), cloudy(300, 420)
    off = {**TILED, "multiple": 1, "overlap": 30}
    whole, tiled = (run(pixels, halved(infer, pixels, size), infer) for size in (UNTILED, off))
    assert ((tiled.labels > 0) != (whole.labels > 0)).any()


def test_a_value_that_is_just_the_threshold_stays_background_on_seams():
    pixels = np.full((200, 200), 0.5, np.float32)
    made = manifest({**TILED, "overlap": 30}, activation="none")
    assert run(pixels, made, lambda batch: batch).measurements.count == 0


def test_an_object_over_four_tiles_is_one_object_with_its_own_numbers(brightness):
    pixels = np.full((100, 100), 51, np.uint8)
    pixels[30:70, 25:75] = 204  # 40 rows x 50 columns; tiles of 64 px meet in the middle
    pixels[90:95, 3:6] = 153
    size = {"policy": "tiled", "height": 64, "width": 64, "overlap": 16}
    assert len(lay_out((100, 100), SizePolicy.model_validate(size)).tiles) == 4
    found = run(pixels, manifest(size), brightness)
    large, small = found.measurements.objects
    assert (large.area, large.centroid, large.bounding_box) == (2000, (49.5, 49.5), (25, 30, 75, 70))
    assert (large.touches_edge, small.touches_edge) == (False, True)
    assert large.equivalent_radius == pytest.approx((2000 / np.pi) ** 0.5)
    assert large.confidence == pytest.approx(1 / (1 + np.exp(-100 * (0.8 - 0.5))))
    assert small.confidence == pytest.approx(1 / (1 + np.exp(-100 * (0.6 - 0.5))), abs=1e-6)
    assert (small.area, small.centroid) == (15, (4, 92))
    assert found.measurements.area_fraction == pytest.approx(2015 / 10_000)
    np.testing.assert_array_equal(found.labels[30:70, 25:75], 1)


def test_the_class_of_an_object_is_decided_by_all_its_tiles():
    pixels = np.zeros((64, 250), np.float32)
    pixels[20:40, 10:240] = 1.0
    pixels[20:40, 10:90] = 0.6  # most of the first tiles votes for the other class

    def infer(batch: np.ndarray) -> np.ndarray:
        value = batch[:, 0]
        return np.stack([(value == 0) * 9.0, (value == 1) * 3.0, (np.abs(value - 0.6) < 0.01) * 3.0], axis=1)

    names = ("background", "crack", "fray")
    for size in (TILED, UNTILED):
        (found,) = run(pixels, manifest(size, names), infer).measurements.objects
        assert (found.class_name, found.area) == ("crack", 20 * 230)
        assert found.confidence == pytest.approx((np.e**3 + 1) / (np.e**3 + 2), abs=1e-6)


# -- the whole picture's numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["scale", "minmax"])
def test_normalisation_is_that_of_the_whole_picture(brightness, kind):
    pixels = cloudy(300, 300).astype(np.float32)
    pixels[:, 150:] /= 4  # a tile of its own would be stretched to the full range
    pixels[10, 10], pixels[200, 200] = np.nan, np.inf
    preprocessing = {"normalisation": {"kind": kind}}
    tiled = run(pixels, manifest(TILED, preprocessing=preprocessing), brightness)
    assert_same(tiled, run(pixels, manifest(UNTILED, preprocessing=preprocessing), brightness))
    assert "non-finite-pixels" in tiled.flags
    assert not tiled.labels[:, 150:].any()


@pytest.mark.parametrize("short_side", [130, 500])
def test_a_scaled_picture_is_tiled_after_scaling_and_measured_in_its_own_pixels(brightness, short_side, monkeypatch):
    monkeypatch.setattr("graticule_workers.rows.CHUNK_PIXELS", 3000)
    pixels = np.full((250, 400), 40, np.uint8)
    pixels[100:150, 60:260] = 220
    pixels[20:40, 300:360] = 220
    pixels[200:230, 5:390] = 220
    pixels[170:180, 5:390] = 220
    preprocessing = {"resize": {"short_side": short_side}}
    tiled = run(pixels, manifest(TILED, preprocessing=preprocessing), brightness)
    assert_same(tiled, run(pixels, manifest(UNTILED, preprocessing=preprocessing), brightness))
    assert tiled.measurements.objects[1].centroid == pytest.approx((159.5, 124.5), abs=0.5)


def test_a_large_picture_for_a_fixed_input_is_measured_by_bands(brightness, monkeypatch):
    made = manifest({"policy": "fixed", "height": 64, "width": 64})
    pixels = np.zeros((150, 300), np.uint8)
    for column in range(10, 300, 50):
        pixels[30:80, column : column + 25] = 255
    at_once = run(pixels, made, brightness)
    for place in ("graticule_workers.rows.CHUNK_PIXELS", "graticule_workers.pipelines.segmentation.AT_ONCE"):
        monkeypatch.setattr(place, 1000)
    assert_same(run(pixels, made, brightness), at_once)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60), st.integers(1, 60), st.integers(1, 20))
@settings(max_examples=150, deadline=None)
def test_bands_are_scaled_back_as_the_whole_picture_is(rows, columns, height, width, band):
    scaled = np.random.default_rng(0).random((2, rows, columns), np.float32)
    restorer = Restorer((rows, columns), (height, width))
    restored = np.zeros((2, 0, width), np.float32)
    for top in range(0, rows, band):
        for part in restorer.add(Band(top, scaled[:, top : top + band].copy())):
            assert part.top == restored.shape[1]
            restored = np.concatenate([restored, part.output], axis=1)
    expected = Prepared(scaled, (rows, columns), (height, width), ()).restore(scaled)
    np.testing.assert_allclose(restored, expected, atol=1e-5)


# -- limits ------------------------------------------------------------------------------------------------------------


def test_no_more_tiles_run_together_than_the_manifest_allows():
    infer = Network((1,))
    run(cloudy(200, 300), manifest(TILED), infer)
    assert {shape[1:] for shape in infer.batches} == {(1, 64, 96)}
    assert max(shape[0] for shape in infer.batches) == 4
    tiles = lay_out((200, 300), SizePolicy.model_validate(TILED)).tiles
    assert sum(shape[0] for shape in infer.batches) == len(tiles) == 30


def test_a_run_holds_no_more_pixels_than_the_largest_input():
    infer = Network((1,))
    size = {"policy": "multiple-of", "multiple": 4, "largest": 10_000, "overlap": 32}
    made = manifest(size)
    run(cloudy(200, 300), made, infer)
    assert max(n * height * width for n, _, height, width in infer.batches) <= 10_000
    assert (made.batch_limit(50, 100), made.batch_limit(20, 20), made.batch_limit(1000, 1000)) == (2, 4, 1)
    assert manifest(TILED).batch_limit(64, 96) == 4


def test_stages_are_named_as_results_name_them(brightness):
    stages = set()
    made = manifest(TILED)
    segment(cloudy(200, 200), made, made.postprocessing, brightness, lambda stage: stages.add(stage) or nullcontext())
    assert stages == {"preprocess", "infer", "analyse"}


def test_memory_does_not_grow_with_the_number_of_classes():
    """24 bytes a pixel would hold the probabilities of six classes once; labels take 4, the mask 1."""
    names = ("background", "a", "b", "c", "d", "e")
    made = manifest({"policy": "tiled", "height": 256, "width": 256, "overlap": 64}, names, minimum_area=50)
    pixels = np.zeros((3000, 3000), np.uint8)
    for place in range(100, 2900, 200):
        pixels[place : place + 60, 50:2900] = 255

    def infer(batch: np.ndarray) -> np.ndarray:
        return np.concatenate([0.5 - batch, batch - 0.5, *[batch * 0] * 4], axis=1) * 20

    tracemalloc.start()
    try:
        found = run(pixels, made, infer)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.measurements.count == 14
    assert peak < 16 * pixels.size
    assert pixels.size > AT_ONCE
