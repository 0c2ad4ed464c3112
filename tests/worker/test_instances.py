"""Objects and their numbers: by hand, and against an independent implementation (scipy)."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from graticule.errors import UnfitImage
from graticule.manifest import Postprocessing
from graticule_workers.analysis.instances import Analysis, analyse, find_regions, touches_edge
from graticule_workers.analysis.tally import Tally

MASKS = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24))
EIGHT = np.ones((3, 3))


def spec(activation="none", names=("bright",), **changes) -> Postprocessing:
    classes = [{"index": i, "name": name, "colour": "#ff0000"} for i, name in enumerate(names)]
    return Postprocessing.model_validate({"activation": activation, "classes": classes, **changes})


def test_numbers_of_two_rectangles_by_hand():
    output = np.zeros((1, 40, 50), np.float32)
    output[0, 10:14, 20:26] = 0.9  # 4 rows x 6 columns
    output[0, 30:40, 0:5] = 0.7  # 10 rows x 5 columns, in the corner
    result = analyse(output, spec()).measurements
    assert result.count == 2
    assert result.area_fraction == pytest.approx((24 + 50) / 2000)
    first, second = result.objects
    assert (first.area, second.area) == (24, 50)
    assert first.centroid == (22.5, 11.5)
    assert first.bounding_box == (20, 10, 26, 14)
    assert first.equivalent_radius == pytest.approx(math.sqrt(24 / math.pi))
    assert first.confidence == pytest.approx(0.9)
    assert (first.touches_edge, second.touches_edge) == (False, True)
    assert result.mean_radius == pytest.approx((math.sqrt(24 / math.pi) + math.sqrt(50 / math.pi)) / 2)
    assert result.count_by_class == {"bright": 2}


def test_a_picture_without_objects_is_a_valid_result():
    result = analyse(np.zeros((1, 9, 9), np.float32), spec()).measurements
    assert (result.count, result.area_fraction, result.mean_radius, result.objects) == (0, 0.0, None, ())


def test_the_threshold_itself_is_background():
    output = np.full((1, 2, 2), 0.5, np.float32)
    assert analyse(output, spec(threshold=0.5)).measurements.count == 0
    assert analyse(output, spec(threshold=0.49)).measurements.count == 1


def test_softmax_measures_what_is_not_background_and_the_object_votes_for_its_class():
    logits = np.zeros((3, 6, 6), np.float32)
    logits[0] = 5
    logits[:, 1:5, 1:5] = np.array([0, 3, 2], np.float32)[:, None, None]
    logits[:, 1:2, 1:5] = np.array([0, 2, 3], np.float32)[:, None, None]  # a quarter of it votes for the other class
    result = analyse(logits, spec("softmax", ("background", "crack", "fray"))).measurements
    (found,) = result.objects
    assert (found.class_name, found.area) == ("crack", 16)
    assert found.confidence == pytest.approx(1 - 1 / (1 + math.e**3 + math.e**2), abs=1e-6)
    assert result.count_by_class == {"crack": 1, "fray": 0}
    assert result.area_fraction_by_class == {"crack": pytest.approx(16 / 36), "fray": 0.0}


def test_sigmoid_takes_the_most_likely_channel():
    logits = np.full((2, 4, 4), -4, np.float32)
    logits[1, :2] = 4
    (found,) = analyse(logits, spec("sigmoid", ("void", "loop"))).measurements.objects
    assert (found.class_name, found.area) == ("loop", 8)


def test_small_objects_go_before_holes_are_filled():
    mask = np.zeros((12, 12), bool)
    mask[1:8, 1:8] = True
    mask[3:5, 3:5] = False  # a hole of 4 px
    mask[10, 10] = True  # a speck
    regions = find_regions(mask, minimum_area=5, fill_holes=5)
    assert regions.area.tolist() == [49]
    assert find_regions(mask, minimum_area=5, fill_holes=4).area.tolist() == [45]


def test_diagonal_neighbours_are_one_object_and_leave_no_way_through():
    mask = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], bool)
    assert len(find_regions(mask, 0, 0)) == 1
    assert find_regions(mask, 0, 2).area.tolist() == [9]


@given(MASKS)
@settings(max_examples=150, deadline=None)
def test_labels_agree_with_scipy(mask):
    regions = find_regions(mask, 0, 0)
    expected, count = ndimage.label(mask, EIGHT)
    assert len(regions) == count
    pairs = set(zip(regions.labels.ravel().tolist(), expected.ravel().tolist(), strict=True))
    assert len(pairs) == count + (not mask.all())  # a one-to-one renumbering
    for number in range(1, count + 1):
        inside = regions.labels == number
        rows, columns = np.nonzero(inside)
        assert regions.area[number - 1] == inside.sum()
        assert regions.centroid[number - 1] == pytest.approx((columns.mean(), rows.mean()))
        assert regions.box[number - 1].tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@given(MASKS, st.integers(0, 12), st.integers(0, 12))
@settings(max_examples=150, deadline=None)
def test_cleaning_agrees_with_scipy(mask, minimum_area, fill_holes):
    def without_small(values: np.ndarray, minimum: int, structure: np.ndarray | None) -> np.ndarray:
        labels, count = ndimage.label(values, structure)
        sizes = ndimage.sum_labels(values, labels, range(1, count + 1))
        return np.isin(labels, [i + 1 for i, size in enumerate(sizes) if size >= minimum])

    expected = without_small(mask, minimum_area, EIGHT)
    expected = ~without_small(~expected, fill_holes, None) if fill_holes > 1 else expected
    np.testing.assert_array_equal(find_regions(mask, minimum_area, fill_holes).labels > 0, expected)


def test_touching_an_edge_means_fewer_pixels_between_than_the_buffer():
    boxes = np.array([[8, 8, 12, 12], [7, 8, 12, 12], [8, 8, 93, 12], [8, 8, 12, 43]])
    assert touches_edge(boxes, height=50, width=100, buffer=8).tolist() == [False, True, True, True]
    assert touches_edge(boxes, height=50, width=100, buffer=0).tolist() == [False] * 4


def test_more_objects_than_a_mask_can_number_are_refused():
    output = np.zeros((1, 600, 600), np.float32)
    output[0, ::2, ::2] = 1
    with pytest.raises(UnfitImage, match="90000 objects"):
        analyse(output, spec())


# -- band by band ------------------------------------------------------------------------------------------------------


def by_bands(output: np.ndarray, made: Postprocessing, bands: list[int]) -> Analysis:
    """The same as `analyse`, from bands of the given numbers of rows, over and over."""
    tally, top, index = Tally(*output.shape[1:], made), 0, 0
    while top < output.shape[1]:
        band = output[:, top : top + bands[index % len(bands)]]
        tally.add(top, band)
        top, index = top + band.shape[1], index + 1
    return tally.finish()


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(0, 10_000),
    st.lists(st.integers(1, 12), min_size=1, max_size=4),
    st.sampled_from([("softmax", ("background", "crack", "fray")), ("sigmoid", ("void", "loop"))]),
    st.floats(0.2, 0.9),
    st.integers(0, 10),
    st.integers(0, 14),
)
@settings(max_examples=300, deadline=None)
def test_bands_give_the_objects_of_the_whole_picture(
    height, width, seed, bands, kind, threshold, minimum_area, fill_holes
):
    activation, names = kind
    output = np.random.default_rng(seed).normal(0, 3, (len(names), height, width)).astype(np.float32)
    made = spec(activation, names, threshold=threshold, minimum_area=minimum_area, fill_holes=fill_holes)
    whole, parts = analyse(output, made), by_bands(output, made, bands)
    np.testing.assert_array_equal(parts.labels, whole.labels)
    assert parts.measurements.count_by_class == whole.measurements.count_by_class
    for mine, yours in zip(parts.measurements.objects, whole.measurements.objects, strict=True):
        assert mine.model_dump(exclude={"confidence"}) == yours.model_dump(exclude={"confidence"})
        assert mine.confidence == pytest.approx(yours.confidence, abs=1e-9)


def test_numbers_of_an_object_with_a_filled_hole_across_bands_by_hand():
    output = np.zeros((2, 12, 12), np.float32)
    output[0, 2:10, 2:10] = 0.9
    output[1, 2:6, 2:10] = 0.8
    output[:, 5:7, 5:7] = 0.1  # a hole of 4 px over the border between the bands ...
    output[0, 5, 5] = 0.6  # ... with a speck in it: it goes first, then the hole is filled
    output[:, 4:8, 4:8][:, [0, -1]] = 0.3
    output[:, 4:8, 4:8][:, :, [0, -1]] = 0.3
    result = by_bands(output, spec("none", ("void", "loop"), minimum_area=4, fill_holes=17), [6]).measurements
    (found,) = result.objects
    assert (found.area, found.class_name, found.bounding_box) == (64, "void", (2, 2, 10, 10))
    assert found.confidence == pytest.approx((48 * 0.9 + 12 * 0.3 + 0.6 + 3 * 0.1) / 64)


def test_more_objects_than_a_mask_can_number_are_refused_band_by_band():
    output = np.zeros((1, 600, 600), np.float32)
    output[0, ::2, ::2] = 1
    with pytest.raises(UnfitImage, match="90000 objects"):
        by_bands(output, spec(), [100])
