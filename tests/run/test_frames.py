"""Stacks and movies: one job for each frame, of one series, from a file that is stored once."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import tifffile

from graticule import submit_command
from graticule.client import Client
from graticule.errors import ImageTooLarge
from graticule.run import run
from graticule.settings import Settings
from tests.microscope_files import ser_file


@pytest.fixture(autouse=True)
def _addresses(brightness: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cluster of the tests counts as one that the user named; no second one is started."""
    monkeypatch.setenv("GRATICULE_S3_URL", brightness.s3_url)


def stack(frames: int = 5) -> np.ndarray:
    """Frame n has n bright squares."""
    made = np.zeros((frames, 40, 60), np.uint8)
    for frame in range(frames):
        for number in range(frame):
            made[frame, 4:12, 2 + 11 * number : 10 + 11 * number] = 255
    return made


@pytest.fixture
def movie(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "movie.tif"
    path.parent.mkdir()
    tifffile.imwrite(path, stack(), photometric="minisblack", resolution=(1e7, 2e7), resolutionunit="CENTIMETER")
    return path


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def test_a_run_over_a_stack_gives_a_row_and_a_mask_for_each_frame(brightness, start_worker, movie, tmp_path):
    start_worker()
    assert run(brightness, [movie], model="brightness", out=tmp_path / "out") == 0
    found = rows(tmp_path / "out" / "results.csv")
    assert [(row["file"], row["frame"], row["count"]) for row in found] == [
        ("movie.tif", str(frame), str(frame)) for frame in range(5)
    ]
    assert [row["mask"] for row in found][:2] == ["masks/movie/frame-0000.png", "masks/movie/frame-0001.png"]
    assert (tmp_path / "out" / found[4]["overlay"]).is_file()
    assert {(row["pixel_width"], row["pixel_height"], row["pixel_unit"]) for row in found} == {("1.0", "0.5", "nm")}
    client = Client(brightness)
    outcomes = [client.outcome(row["job_id"]) for row in found]
    assert {outcome.job.stream for outcome in outcomes} == {str(movie)}
    assert [outcome.job.image.frame for outcome in outcomes] == list(range(5))
    assert len({outcome.job.image.key for outcome in outcomes}) == 1
    assert len(client.store.keys("images")) == 1
    # The same command again finds every frame done; more frames of a user's own calibration are other jobs.
    completed = [row["completed_at"] for row in found]
    assert run(brightness, [movie], model="brightness", out=tmp_path / "out") == 0
    assert [row["completed_at"] for row in rows(tmp_path / "out" / "results.csv")] == completed
    parameters = {"pixel_size": [2, 3]}
    assert run(brightness, [movie], model="brightness", out=tmp_path / "own", parameters=parameters, stream="lab") == 0
    again = rows(tmp_path / "own" / "results.csv")
    assert {(row["pixel_width"], row["pixel_height"]) for row in again} == {("2.0", "3.0")}
    own = client.outcome(again[0]["job_id"])
    assert (own.calibration.source, own.job.stream) == ("user", "lab")


def test_a_file_that_cannot_be_read_is_a_row_with_the_reason(brightness, start_worker, movie, tmp_path):
    start_worker()
    (movie.parent / "broken.ser").write_bytes(ser_file(stack(2))[:60])
    assert run(brightness, [movie.parent], model="brightness", out=tmp_path / "out") == 1
    found = rows(tmp_path / "out" / "results.csv")
    assert [row["status"] for row in found] == ["failed", *["succeeded"] * 5]
    assert found[0]["error"] == "UnreadableImage"


def test_submitting_a_stack_sends_every_frame(brightness, movie, capsys):
    handles = Client(brightness).submit_frames(movie, "brightness")
    assert [handle.job.image.frame for handle in handles] == list(range(5))
    assert {handle.job.stream for handle in handles} == {str(movie)}
    code = submit_command.submit(
        brightness, [movie], model="brightness", stream="s", lane="bulk", parameters={}, wait=False, as_json=False
    )
    assert code == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[-1] for line in lines] == [f"frame {frame}" for frame in range(5)]


def test_one_picture_belongs_to_no_series(brightness, tmp_path):
    tifffile.imwrite(tmp_path / "one.tif", stack()[1])
    (handle,) = Client(brightness).submit_frames(tmp_path / "one.tif", "brightness")
    assert handle.job.stream == ""


def test_more_frames_than_allowed_are_refused_before_anything_is_sent(brightness, movie):
    client = Client(brightness.model_copy(update={"max_frames": 4}))
    with pytest.raises(ImageTooLarge, match="5 frames; at most 4"):
        client.submit_frames(movie, "brightness")
    assert not client.store.keys("images")
