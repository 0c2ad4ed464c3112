"""Outlines follow the pixels' edges exactly."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from graticule_producers.gateway.outlines import outline


def area(ring):
    """Signed area, px."""
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairwise(ring)) / 2


def test_a_rectangle_has_four_corners_at_its_pixels_edges():
    inside = np.zeros((4, 5), bool)
    inside[1:3, 1:4] = True
    (((*ring, last),),) = outline(inside, left=10, top=20)
    assert ring == [(10.5, 20.5), (13.5, 20.5), (13.5, 22.5), (10.5, 22.5)]
    assert last == ring[0]


def test_a_hole_and_an_island_in_it():
    inside = np.ones((7, 7), bool)
    inside[1:6, 1:6] = False
    inside[3, 3] = True
    polygons = sorted(outline(inside), key=len, reverse=True)
    assert [[area(ring) for ring in polygon] for polygon in polygons] == [[49.0, -25.0], [1.0]]


def test_pixels_that_share_only_a_corner_are_polygons_of_their_own():
    assert [len(polygon) for polygon in outline(np.eye(3, dtype=bool))] == [1, 1, 1]


@given(hnp.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_the_area_inside_is_the_number_of_pixels(inside):
    polygons = outline(inside)
    assert sum(area(ring) for polygon in polygons for ring in polygon) == inside.sum()
    for polygon in polygons:
        assert area(polygon[0]) > 0
        assert all(area(hole) < 0 for hole in polygon[1:])
        for ring in polygon:
            assert ring[0] == ring[-1]
            corners = ring[:-1]
            assert len(set(corners)) == len(corners)
