"""`graticule stream`: from a movie's jobs to tables."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile

from graticule.client import Client
from graticule.errors import BadInput, NotFound
from graticule.events import Event
from graticule.job_index import JobIndex, Summary
from graticule.settings import Settings
from graticule_workers.streams import commands
from tests.worker.conftest import WorkerProcess

DRIFT = np.array([[0, 0], [2, -1], [4, -2], [5, -1], [7, 1], [6, 2]])
PLACES = ((30, 40), (90, 60), (140, 30))


def movie(path: Path) -> None:
    """Three bright squares on a texture, all of which drifts; the second square grows."""
    texture = cv2.GaussianBlur(np.random.default_rng(0).normal(60, 150, (140, 220)), (0, 0), 2).clip(5, 115)
    stack = np.empty((len(DRIFT), 110, 190), np.uint8)
    for frame, (right, down) in enumerate(DRIFT):
        stack[frame] = texture[15 - down : 125 - down, 15 - right : 205 - right]
        for number, (x, y) in enumerate(PLACES):
            side = 5 + (frame // 2 if number == 1 else 0)
            stack[frame, y + down - side : y + down + side + 1, x + right - side : x + right + side + 1] = 230
    tifffile.imwrite(path, stack, photometric="minisblack", resolution=(2e7, 2e7), resolutionunit="CENTIMETER")


@pytest.fixture
def analysed(brightness: Settings, start_worker: Callable[[], WorkerProcess], tmp_path: Path) -> Settings:
    """A cluster with the results of a movie in the stream 'lab', and the index that the gateway would keep."""
    start_worker()
    movie(tmp_path / "movie.tif")
    client = Client(brightness)
    parameters = {"minimum_area": 20}
    handles = client.submit_frames(tmp_path / "movie.tif", "brightness", stream="lab", parameters=parameters)
    index = JobIndex(brightness)
    for _, outcome in client.as_completed(handles, timeout=60):
        index.add([Summary.of_event(Event.of(outcome))])
    return brightness


def test_a_movie_becomes_tables(analysed, tmp_path, capsys):
    out = tmp_path / "tables"
    methods = ["many-pairs", "pairs", "tracks"]
    assert commands.export(analysed, "lab", out=out, search_range=15, memory=2, methods=methods) == 0
    tables = {path.stem: pd.read_parquet(path) for path in out.iterdir()}
    assert sorted(tables) == ["drift", "frames", "objects", "track_summary", "tracks"]
    assert tables["frames"]["frame_in_file"].tolist() == list(range(6))
    assert tables["frames"]["count"].tolist() == [3] * 6
    assert set(tables["frames"]["pixel_width_nm"]) == {0.5}
    assert len(tables["objects"]) == 18
    for name in ("tracks", "pairs", "many_pairs"):
        found = tables["drift"][[f"{name}_x_px", f"{name}_y_px"]].to_numpy()
        assert np.abs(found - DRIFT).max() < 0.5, name
    assert tables["drift"]["tracks_x_nm"].iloc[-1] == pytest.approx(3, abs=0.25)
    summary = tables["track_summary"]
    assert summary["frames"].tolist() == [6, 6, 6]
    assert summary["largest_displacement_px"].max() < 1  # the drift is taken off
    assert sorted(summary["growth_rate_px_per_frame"].round(3))[:2] == [0, 0]
    assert summary["growth_rate_px_per_frame"].max() == pytest.approx(0.5 * 2 / np.sqrt(np.pi), rel=0.25)
    corrected = tables["tracks"].groupby("track")[["x_corrected_px", "y_corrected_px"]].mean()
    assert np.abs(np.sort(corrected.to_numpy(), axis=0) - np.sort(np.array(PLACES), axis=0)).max() < 0.5
    # and for people
    assert commands.show(analysed, "lab", search_range=15, memory=2, as_json=True) == 0
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (facts["frames"], facts["objects"], facts["tracks"], facts["pixel_nm"]) == (6, 18, 3, "0.5 x 0.5")
    assert facts["drift_x_px"] == pytest.approx(6)
    assert commands.show(analysed, "lab", search_range=15, memory=2, as_json=False) == 0
    assert "Longest tracks" in capsys.readouterr().out
    assert commands.list_streams(analysed, as_json=False) == 0
    assert "lab" in capsys.readouterr().out


def test_what_is_not_there_is_said(brightness, tmp_path):
    with pytest.raises(NotFound, match="no stream 'nowhere'"):
        commands.show(brightness, "nowhere", search_range=15, memory=2, as_json=False)
    with pytest.raises(BadInput, match="tracks, pairs, many-pairs; found magic"):
        commands.export(brightness, "x", out=tmp_path, search_range=15, memory=2, methods=["magic"])
