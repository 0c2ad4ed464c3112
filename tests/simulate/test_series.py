from __future__ import annotations

import csv
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graticule.errors import BadInput, GraticuleError
from graticule_producers.simulate import draw_tile, simulate_tiles
from graticule_producers.simulate.commands import INTERRUPTED, parse_size, run_simulate_tiles

SMALL = (64, 72)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_pictures_get_increasing_names_that_do_not_tell_the_kind(tmp_path: Path):
    report = simulate_tiles(tmp_path, count=3, rate=0, size=SMALL)
    assert names(tmp_path) == ["tile-000001.jpg", "tile-000002.jpg", "tile-000003.jpg"]
    assert report.count == 3


def test_a_series_goes_on_behind_the_pictures_that_are_there(tmp_path: Path):
    simulate_tiles(tmp_path, count=2, rate=0, size=SMALL)
    before = (tmp_path / "tile-000002.jpg").read_bytes()
    simulate_tiles(tmp_path, count=2, rate=0, size=SMALL, seed=9)
    assert names(tmp_path)[-1] == "tile-000004.jpg"
    assert (tmp_path / "tile-000002.jpg").read_bytes() == before


def test_two_series_of_one_seed_are_the_same_pictures(tmp_path: Path):
    for folder in ("a", "b"):
        simulate_tiles(tmp_path / folder, count=3, rate=0, size=SMALL, seed=5)
    for name in names(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_file_holds_the_tile_but_for_jpegs_losses(tmp_path: Path):
    simulate_tiles(tmp_path, count=1, rate=0, seed=5)
    saved = np.asarray(Image.open(tmp_path / "tile-000001.jpg"))
    drawn = draw_tile(5, 1).pixels
    assert saved.shape == drawn.shape
    assert np.abs(saved.astype(float) - drawn).mean() < 3


def test_the_truth_lies_beside_with_exact_masks(tmp_path: Path):
    simulate_tiles(tmp_path / "p", count=4, rate=0, seed=2, size=SMALL, truth=tmp_path / "t", defect_share=1)
    with (tmp_path / "t" / "truth.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == names(tmp_path / "p")
    for row in rows:
        tile = draw_tile(2, int(row["index"]), SMALL, defect_share=1)
        mask = np.asarray(Image.open(tmp_path / "t" / row["mask"]))
        assert np.array_equal(mask, tile.mask.astype(np.uint8) * 255)
        assert row["kind"] == tile.kind
        assert int(row["defect_area_px"]) == tile.mask.sum()
        assert (int(row["height_px"]), int(row["width_px"])) == tile.pixels.shape


@pytest.mark.parametrize("truth", [".", "masks", "deep/masks"])
def test_truth_among_the_pictures_is_refused(tmp_path: Path, truth: str):
    with pytest.raises(BadInput, match="take the masks for pictures"):
        simulate_tiles(tmp_path, count=1, truth=tmp_path / truth)
    assert names(tmp_path) == []


@pytest.mark.parametrize("size", [(0, 10), (300, 200), (64, 10**6)])
def test_impossible_sizes_are_refused(tmp_path: Path, size: tuple[int, int]):
    with pytest.raises(BadInput, match="MIN:MAX"):
        simulate_tiles(tmp_path, count=1, size=size)


def test_the_rate_is_kept(tmp_path: Path):
    began = time.monotonic()
    simulate_tiles(tmp_path, count=5, rate=20, size=SMALL)
    assert time.monotonic() - began >= 4 / 20


def test_a_series_without_end_stops_when_told(tmp_path: Path):
    stop = threading.Event()
    report = simulate_tiles(
        tmp_path, rate=0, size=SMALL, stop=stop, on_tile=lambda report: stop.set() if report.count == 3 else None
    )
    assert report.count == 3


def test_a_full_disk_is_one_sentence_and_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(self: Path, data: bytes) -> int:
        self.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(GraticuleError, match="No space left on device.*0 pictures were written"):
        simulate_tiles(tmp_path, count=3, rate=0, size=SMALL)
    assert names(tmp_path) == []


@pytest.mark.parametrize(("text", "sides"), [("120:480", (120, 480)), ("320", (320, 320)), ("", None), (None, None)])
def test_sizes_are_read(text: str | None, sides: tuple[int, int] | None):
    assert parse_size(text) == sides


@pytest.mark.parametrize("text", ["a:b", "12;20", ":"])
def test_sizes_that_are_none_are_refused(text: str):
    with pytest.raises(BadInput, match="MIN:MAX"):
        parse_size(text)


def test_the_command_writes_what_was_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run_simulate_tiles(out=tmp_path, count=2, rate=0, size="64:72") == 0
    assert "2 pictures written" in capsys.readouterr().out
    assert len(names(tmp_path)) == 2


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_the_command_in_order(tmp_path: Path, number: signal.Signals):
    code = (
        "from pathlib import Path; from graticule_producers.simulate.commands import run_simulate_tiles as run;"
        f"raise SystemExit(run(out=Path({str(tmp_path)!r}), count=100000, rate=50, size='64:64'))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        while not names(tmp_path):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(number)
        out, _ = process.communicate(timeout=20)
    assert process.returncode == INTERRUPTED
    assert "pictures written" in out
    assert all(name.endswith(".jpg") and not name.startswith(".") for name in names(tmp_path))
