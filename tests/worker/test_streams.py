"""Tracks and drift, on series whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage
from scipy.stats import siegelslopes

from graticule.errors import BadInput
from graticule_workers.streams import (
    correct_positions,
    drift_from_many_pairs,
    drift_from_pairs,
    drift_from_tracks,
    link,
    remove_drift,
    shift_between,
    summarise,
)
from graticule_workers.streams.summary import MOST_POINTS, siegel_slope


def table(*rows: tuple[int, float, float, float]) -> pd.DataFrame:
    """Objects from (frame, x, y, radius)."""
    frame = pd.DataFrame(rows, columns=["frame", "x", "y", "radius"])
    return frame.assign(object_id=range(1, len(rows) + 1), **{"class": "void", "touches_edge": False})


def walk(steps: int, seed: int = 0, size: float = 1.5) -> np.ndarray:
    """A drift: frames x (x, y), beginning at (0, 0)."""
    path = np.cumsum(np.random.default_rng(seed).normal(0.3, size, (steps, 2)), axis=0)
    return path - path[0]


# -- linking -----------------------------------------------------------------------------------------------------------


def test_two_objects_are_two_tracks_and_a_gap_is_interpolated():
    found = link(table((0, 10, 10, 5), (0, 50, 50, 8), (1, 12, 10, 5.5), (3, 16, 14, 6.5), (1, 50, 50, 8)), memory=2)
    assert found["track"].tolist() == [0, 0, 0, 0, 1, 1]
    first = found[found["track"] == 0]
    assert first["frame"].tolist() == [0, 1, 2, 3]
    assert first["x"].tolist() == [10, 12, 14, 16]
    assert first["y"].tolist() == [10, 10, 12, 14]
    assert first["radius"].tolist() == [5, 5.5, 6, 6.5]
    assert first["inferred"].tolist() == [False, False, True, False]
    assert first["object_id"].tolist() == [1, 3, 0, 4]


def test_without_memory_a_gap_ends_a_track():
    found = link(table((0, 10, 10, 5), (2, 10, 10, 5)), memory=0)
    assert found["track"].tolist() == [0, 1]


def test_what_moves_farther_than_the_range_is_another_object():
    objects = table((0, 10, 10, 5), (1, 30, 10, 5))
    assert link(objects, search_range=19)["track"].tolist() == [0, 1]
    assert link(objects, search_range=21)["track"].tolist() == [0, 0]


def test_a_track_has_the_class_of_most_of_its_frames():
    objects = table((0, 10, 10, 5), (1, 10, 10, 5), (2, 10, 10, 5))
    objects["class"] = ["loop", "void", "void"]
    assert set(link(objects)["class"]) == {"void"}


def test_series_without_objects_have_no_tracks():
    found = link(table())
    assert len(found) == 0
    assert len(summarise(found, pixel_nm=(1, 1))) == 0
    assert drift_from_tracks(found, 3).tolist() == [[0, 0]] * 3
    with pytest.raises(BadInput):
        link(table(), search_range=0)


def test_tracks_of_a_crowd_are_found_with_few_mistakes():
    """60 objects that wander, grow, vanish for a frame and come late: links against the truth."""
    rng = np.random.default_rng(5)
    frames, count = 80, 60
    places = rng.uniform(0, 800, (count, 2)) + np.cumsum(rng.normal(0, 1.2, (frames, count, 2)), axis=0)
    rows, truth = [], []
    for frame in range(frames):
        for number in range(count):
            if (number % 7 or frame > 20) and rng.random() > 0.04:  # every seventh comes late
                rows.append((frame, *places[frame, number], 6 + 0.02 * frame))
                truth.append(number)
    objects = table(*rows)
    found = link(objects, search_range=12, memory=3)
    seen = found[~found["inferred"]].sort_values("object_id")
    links = {tuple(pair) for pair in zip(_before(seen["track"].to_numpy()), range(len(truth)), strict=True)}
    right = {tuple(pair) for pair in zip(_before(np.array(truth)), range(len(truth)), strict=True)}
    links, right = ({pair for pair in pairs if pair[0] >= 0} for pairs in (links, right))
    precision, recall = len(links & right) / len(links), len(links & right) / len(right)
    assert precision > 0.99, f"precision {precision:.4f}"
    assert recall > 0.99, f"recall {recall:.4f}"


def _before(owners: np.ndarray) -> list[int]:
    """For each observation that of the same object before it; -1: it is the first."""
    last: dict[int, int] = {}
    before = []
    for place, owner in enumerate(owners.tolist()):
        before.append(last.get(owner, -1))
        last[owner] = place
    return before


# -- summaries ---------------------------------------------------------------------------------------------------------


def test_the_summary_of_a_track_by_hand():
    objects = table((2, 0, 0, 5), (3, 3, 4, 5.5), (5, 9, 12, 6.5), (6, 3, 4, 7))
    objects.loc[2, "touches_edge"] = True
    (row,) = summarise(link(objects), pixel_nm=(2.0, 0.5)).to_dict("records")
    assert (row["first_frame"], row["last_frame"], row["frames"], row["inferred_frames"]) == (2, 6, 5, 1)
    assert row["touches_edge"]
    assert row["displacement_px"] == 5
    assert row["largest_displacement_px"] == 15
    assert row["path_length_px"] == pytest.approx(5 + 10 + 10)
    assert row["movement_per_frame_px"] == pytest.approx(25 / 4)
    assert (row["smallest_radius_px"], row["largest_radius_px"], row["mean_radius_px"]) == (5, 7, 6)
    assert row["growth_rate_px_per_frame"] == pytest.approx(0.5)
    assert row["displacement_nm"] == pytest.approx(math.hypot(3 * 2, 4 * 0.5))
    assert row["largest_radius_nm"] == pytest.approx(7)  # 2 nm x 0.5 nm pixels: sides of 1 nm on average
    assert row["growth_rate_nm_per_frame"] == pytest.approx(0.5)


def test_growth_is_told_for_more_than_three_frames_only_and_outliers_do_not_count():
    short = summarise(link(table(*((frame, 5, 5, 4 + frame) for frame in range(3)))))
    assert np.isnan(short["growth_rate_px_per_frame"][0])
    grown = [(frame, 5, 5, 4 + 0.1 * frame + (20 if frame == 6 else 0)) for frame in range(20)]
    assert summarise(link(table(*grown)))["growth_rate_px_per_frame"][0] == pytest.approx(0.1)


def test_the_slope_is_scipys():
    rng = np.random.default_rng(1)
    x = np.sort(rng.choice(500, 60, replace=False))
    y = 0.3 * x + rng.standard_cauchy(60)
    assert siegel_slope(x, y) == pytest.approx(siegelslopes(y, x).slope)
    x = np.arange(10 * MOST_POINTS)
    assert siegel_slope(x, 0.25 * x + rng.normal(0, 1, len(x))) == pytest.approx(0.25, abs=1e-3)


# -- drift -------------------------------------------------------------------------------------------------------------


def tracked(drift: np.ndarray, movers: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(2)
    places = rng.uniform(100, 900, (25, 2))
    own = np.zeros((25, 2))
    own[:movers] = (2.0, -1.0)
    rows = [
        (frame, *(places[number] + drift[frame] + own[number] * frame + rng.normal(0, 0.05, 2)), 6)
        for frame in range(len(drift))
        for number in range(25)
        if rng.random() > 0.1
    ]
    return link(table(*rows), search_range=20)


@pytest.mark.parametrize("movers", [0, 8])
def test_drift_from_tracks_is_that_of_most_objects(movers):
    drift = walk(60)
    found = drift_from_tracks(tracked(drift, movers), 60)
    assert np.abs(found - drift).max() < 0.5
    assert found[0].tolist() == [0, 0]


def test_without_matches_the_drift_stays_what_it_was():
    objects = table((0, 10, 10, 5), (1, 13, 11, 5), (5, 200, 200, 5), (6, 201, 200, 5))
    found = drift_from_tracks(link(objects, memory=0), 8)
    assert found.tolist() == [[0, 0], *[[3, 1]] * 5, [4, 1], [4, 1]]


def test_positions_without_drift_stand_still():
    drift = walk(40)
    still = correct_positions(tracked(drift), drift)
    assert summarise(still)["largest_displacement_px"].max() < 0.5


def movie(drift: np.ndarray, side: int = 160, noise: float = 0.0) -> list[np.ndarray]:
    """A texture that moves, under light that does not."""
    rng = np.random.default_rng(4)
    margin = 40
    texture = ndimage.gaussian_filter(rng.normal(size=(side + 2 * margin,) * 2), 2.5) * 10
    rows, columns = np.mgrid[:side, :side].astype(float)
    light = 0.02 * (rows + columns)
    return [
        (
            ndimage.map_coordinates(texture, [rows + margin - y, columns + margin - x], order=3)
            + light
            + rng.normal(0, noise, (side, side))
        ).astype(np.float32)
        for x, y in drift
    ]


@pytest.mark.parametrize("method", [drift_from_pairs, drift_from_many_pairs])
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_drift_from_pictures_is_found_within_half_a_pixel(method, noise):
    drift = walk(30, seed=1, size=0.6)
    found = method(movie(drift, noise=noise))
    assert found.shape == (30, 2)
    assert np.abs(found - drift).max() < 0.5


def test_many_pairs_hold_together_better_than_single_ones():
    drift = walk(40, seed=3, size=0.6)
    pictures = movie(drift, noise=2.5)
    errors = [np.abs(method(pictures) - drift).mean() for method in (drift_from_pairs, drift_from_many_pairs)]
    assert errors[1] < errors[0]


def test_shifts_have_x_first_and_large_pictures_are_reduced():
    first, second = movie(np.array([[0, 0], [3, -7]]), side=1200)
    assert shift_between(first, second) == pytest.approx((3, -7), abs=0.3)


def test_pictures_of_other_sizes_or_in_colour_are_refused():
    with pytest.raises(BadInput, match="one size"):
        drift_from_pairs([np.zeros((9, 9), np.float32), np.zeros((9, 8), np.float32)])
    with pytest.raises(BadInput, match="grey"):
        drift_from_pairs([np.zeros((9, 9, 3), np.float32)])
    with pytest.raises(BadInput, match="with 1 among them"):
        drift_from_many_pairs([], offsets=(2, 4))


def test_constant_pictures_and_dead_pixels_do_no_harm():
    flat = [np.full((20, 30), 7, np.float32)] * 3
    assert drift_from_pairs(flat).tolist() == [[0, 0]] * 3
    drift = walk(6)
    pictures = movie(drift)
    for picture in pictures:
        picture[10, 10], picture[50, 60] = np.nan, np.inf
    assert np.abs(drift_from_many_pairs(pictures) - drift).max() < 0.5
    assert drift_from_pairs([]).shape == (0, 2)


@pytest.mark.parametrize("enlarged", [False, True])
def test_without_drift_the_pictures_lie_upon_each_other(enlarged):
    drift = np.array([[0, 0], [4, -3], [-2, 6]], float)
    pictures = [picture.astype(np.uint16) for picture in (np.stack(movie(drift)) + 50) * 100]
    moved = list(remove_drift(pictures, drift, enlarged=enlarged))
    assert all(picture.dtype == np.uint16 for picture in moved)
    if enlarged:
        assert moved[0].shape == (160 + 9, 160 + 6)
    inner = np.s_[30:130, 30:130]
    for picture in moved[1:]:
        assert (
            np.abs(picture[inner].astype(float) - moved[0][inner]).max() < 40
        )  # of about 10,000: the light stands still
    assert enlarged == all((picture > 0).sum() >= 0.99 * 160 * 160 for picture in moved)
