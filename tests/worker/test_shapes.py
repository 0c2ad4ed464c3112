"""Numbers of objects: by hand, and the same as scikit-image's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.measure import regionprops

from graticule.results import Calibration
from graticule_workers.analysis.instances import Regions, analyse, find_regions, measure
from graticule_workers.analysis.shapes import measure_shapes
from tests.worker.test_instances import spec

MASKS = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=30))


def regions_of(labels: np.ndarray) -> Regions:
    """Regions of labels that may touch, by hand."""
    props = regionprops(labels)
    return Regions(
        labels.astype(np.int32),
        np.array([int(prop.area) for prop in props]),
        np.array([prop.centroid[::-1] for prop in props]).reshape(-1, 2),
        np.array([[prop.bbox[1], prop.bbox[0], prop.bbox[3], prop.bbox[2]] for prop in props]).reshape(-1, 4),
    )


def assert_like_scikit_image(regions: Regions, aspect: float = 1.0, *, touching: bool = False) -> None:
    found = measure_shapes(regions.labels, regions.centroid, regions.box, aspect, touching=touching)
    for prop in regionprops(regions.labels):
        number = prop.label - 1
        scaled = (
            prop if aspect == 1 else regionprops((regions.labels == prop.label).astype(int), spacing=(1, aspect))[0]
        )
        assert found.perimeter[number] == pytest.approx(prop.perimeter, abs=1e-6)
        assert found.eccentricity[number] == pytest.approx(scaled.eccentricity, abs=1e-6)
        if scaled.axis_major_length - scaled.axis_minor_length > 1e-5:  # a circle has no orientation
            turned = abs(found.orientation[number] - scaled.orientation)
            assert min(turned, math.pi - turned) < 1e-6


@given(MASKS, st.sampled_from([1.0, 0.5, 1.75]))
@settings(max_examples=200, deadline=None)
def test_shapes_of_connected_regions_agree_with_scikit_image(mask, aspect):
    assert_like_scikit_image(find_regions(mask, 0, 0), aspect)


@given(hnp.arrays(np.int32, (12, 15), elements=st.integers(0, 4)))
@settings(max_examples=100, deadline=None)
def test_shapes_of_instances_that_touch_agree_with_scikit_image(labels):
    present = np.unique(labels[labels > 0])
    labels = np.searchsorted(present, labels).astype(np.int32) + (labels > 0) * np.int32(1) if len(present) else labels
    labels = np.where(np.isin(labels, np.arange(1, len(present) + 1)), labels, 0).astype(np.int32)
    assert_like_scikit_image(regions_of(labels), touching=True)


def test_areas_radii_and_boxes_agree_with_scikit_image():
    rows, columns = np.mgrid[:200, :300]
    mask = np.zeros((200, 300), bool)
    for y, x, r in [(30, 40, 12), (90, 200, 25), (150, 60, 7), (199, 299, 20)]:
        mask |= (rows - y) ** 2 + (columns - x) ** 2 <= r * r
    output = mask[np.newaxis].astype(np.float32)
    for mine, yours in zip(
        analyse(output, spec()).measurements.objects, regionprops(find_regions(mask, 0, 0).labels), strict=True
    ):
        assert mine.area == yours.area
        assert mine.equivalent_radius == pytest.approx(yours.equivalent_diameter_area / 2, abs=1e-6)
        assert mine.centroid == pytest.approx(yours.centroid[::-1], abs=1e-6)
        top, left, bottom, right = yours.bbox
        assert mine.bounding_box == (left, top, right, bottom)


# -- by hand -----------------------------------------------------------------------------------------------------------


def shown(mask: np.ndarray, calibration: Calibration | None = None, **changes):
    return analyse(mask[np.newaxis].astype(np.float32), spec(**changes), calibration).measurements


def test_a_disk():
    rows, columns = np.mgrid[:41, :41]
    result = shown((rows - 20) ** 2 + (columns - 20) ** 2 <= 100)
    (disk,) = result.objects
    assert disk.area == 317  # lattice points within a radius of 10
    assert disk.centroid == (20, 20)
    assert disk.equivalent_radius == pytest.approx(math.sqrt(317 / math.pi))
    assert disk.eccentricity == pytest.approx(0, abs=1e-6)
    # 56 pixels of the border: 20 within straight pieces, 12 within diagonal ones, 24 where one turns into the other.
    assert disk.perimeter == pytest.approx(20 + 12 * math.sqrt(2) + 24 * (1 + math.sqrt(2)) / 2)
    assert not disk.touches_edge


def test_a_rectangle():
    mask = np.zeros((20, 30), bool)
    mask[5:9, 10:22] = True  # 4 x 12
    (found,) = shown(mask).objects
    assert found.perimeter == pytest.approx(2 * (3 + 11))  # through the centres of the border pixels
    variances = (12**2 - 1) / 12, (4**2 - 1) / 12
    assert found.eccentricity == pytest.approx(math.sqrt(1 - variances[1] / variances[0]))
    assert abs(found.orientation) == pytest.approx(math.pi / 2)  # lies along the rows


def test_a_ring_has_two_borders():
    mask = np.zeros((30, 30), bool)
    mask[5:25, 5:25] = True
    mask[10:20, 10:20] = False
    (ring,) = shown(mask).objects
    assert (ring.area, ring.centroid) == (300, (14.5, 14.5))
    # Outside 4 x 19. Inside the border runs around the hole and cuts its corners.
    assert ring.perimeter == pytest.approx(regionprops(mask.astype(int))[0].perimeter)
    assert ring.perimeter > 4 * 19 + 4 * 9
    (filled,) = shown(mask, fill_holes=101).objects
    assert (filled.area, filled.perimeter) == (400, 4 * 19)


@pytest.mark.parametrize("place", [np.s_[0:4, 20:24], np.s_[36:40, 20:24], np.s_[18:22, 0:4], np.s_[18:22, 46:50]])
def test_an_object_at_each_edge(place):
    mask = np.zeros((40, 50), bool)
    mask[place] = True
    (found,) = shown(mask).objects
    assert found.touches_edge
    assert (found.area, found.perimeter) == (16, 12)


def test_lines_and_points():
    mask = np.zeros((9, 9), bool)
    mask[2, 2:7] = True
    mask[5, 5] = True
    line, point = shown(mask).objects
    assert (line.eccentricity, point.eccentricity) == (1, 0)
    assert point.perimeter == 0


def test_touching_squares_are_one_object_and_touching_instances_two():
    labels = np.zeros((10, 12), np.int32)
    labels[2:6, 2:6], labels[2:6, 6:10] = 1, 2
    assert shown(labels > 0).count == 1
    sums = np.array([[16.0, 16.0], [16.0, 16.0]])
    result = measure(regions_of(labels), sums, spec(), touching=True)
    assert [(found.area, found.perimeter) for found in result.objects] == [(16, 12), (16, 12)]


def test_two_classes():
    output = np.zeros((2, 20, 20), np.float32)
    output[0, 2:6, 2:6] = 0.9
    output[1, 10:16, 10:16] = 0.8
    result = analyse(output, spec(names=("void", "loop"))).measurements
    assert [(found.class_name, found.perimeter) for found in result.objects] == [("void", 12), ("loop", 20)]
    assert result.count_by_class == {"void": 1, "loop": 1}


def test_nothing_at_all():
    nm = Calibration(pixel_width=1, pixel_height=1, unit="nm", source="user")
    result = shown(np.zeros((9, 9), bool), nm)
    assert (result.count, result.objects, result.radii, result.radii_nm) == (0, (), None, None)
    assert (result.mean_radius, result.mean_radius_nm, result.density_per_um2) == (None, None, 0)


def test_physical_numbers_beside_pixels():
    mask = np.zeros((50, 100), bool)
    mask[10:14, 20:32] = True
    mask[30:36, 50:56] = True
    result = shown(mask, Calibration(pixel_width=0.2, pixel_height=0.2, unit="nm", source="user"))
    first, second = result.objects
    assert first.area_nm2 == pytest.approx(48 * 0.04)
    assert first.equivalent_radius_nm == pytest.approx(first.equivalent_radius * 0.2)
    assert first.perimeter_nm == pytest.approx(28 * 0.2)
    assert first.centroid_nm == pytest.approx((25.5 * 0.2, 11.5 * 0.2))
    assert result.density_per_um2 == pytest.approx(2 / (100 * 0.2e-3 * 50 * 0.2e-3))
    assert result.mean_radius_nm == pytest.approx(result.mean_radius * 0.2)
    radii = sorted((first.equivalent_radius, second.equivalent_radius))
    assert (result.radii.minimum, result.radii.maximum) == pytest.approx(tuple(radii))
    assert result.radii.median == pytest.approx(sum(radii) / 2)
    assert result.radii.p5 == pytest.approx(radii[0] + 0.05 * (radii[1] - radii[0]))
    assert result.radii_nm.standard_deviation == pytest.approx(0.1 * (radii[1] - radii[0]))


def test_unequal_sides_of_a_pixel_are_kept():
    mask = np.zeros((40, 40), bool)
    mask[10:26, 10:18] = True  # 16 rows x 8 columns of pixels twice as wide as high: a square
    result = shown(mask, Calibration(pixel_width=0.002, pixel_height=0.001, unit="um", source="user"))
    (square,) = result.objects
    assert square.area_nm2 == pytest.approx(16 * 16)
    assert square.centroid_nm == pytest.approx((13.5 * 2, 17.5))
    assert square.eccentricity == pytest.approx(math.sqrt(1 - 4 * (8**2 - 1) / (16**2 - 1)))
    assert (square.perimeter, square.perimeter_nm) == (44, None)


def test_a_unit_that_is_no_length_gives_no_nanometres():
    mask = np.ones((5, 5), bool)
    result = shown(mask, Calibration(pixel_width=1, pixel_height=1, unit="1/nm", source="user"))
    assert result.objects[0].area_nm2 is None
    assert result.density_per_um2 is None
