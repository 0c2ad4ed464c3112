from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from graticule import formats
from graticule.errors import BadInput
from graticule_producers.simulate import CLASSES, Experiment, simulate_tem
from graticule_producers.simulate.commands import run_simulate_tem

SIZE = 256


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_same_seed_takes_the_same_pictures_and_another_one_others():
    first, again, other = (Experiment(seed, 3, (SIZE, SIZE)).take() for seed in (5, 5, 6))
    assert np.array_equal(first.pixels, again.pixels)
    assert np.array_equal(first.mask, again.mask)
    assert not np.array_equal(first.pixels, other.pixels)


def test_frames_can_be_taken_in_any_order_but_share_their_levels():
    one, two = (Experiment(1, 1, (SIZE, SIZE), frames=5) for _ in range(2))
    one.take(0), two.take(0)
    assert np.array_equal([one.take(n).pixels for n in (3, 1)], [two.take(n).pixels for n in (1, 3)][::-1])


def test_masks_tell_classes_and_voids_lie_where_the_tracks_say():
    for index in range(1, 8):
        experiment = Experiment(2, index, (512, 512))
        mask = experiment.take().mask
        assert set(np.unique(mask)) <= set(range(len(CLASSES)))
        for _, x, y, radius in experiment.places(0):
            assert mask[round(y), round(x)] == 1
            if radius + 2 < min(x, y, 511 - x, 511 - y):
                window = mask[
                    int(y - 1.3 * radius) : int(y + 1.3 * radius) + 2, int(x - 1.3 * radius) : int(x + 1.3 * radius) + 2
                ]
                assert (window == 1).sum() == pytest.approx(np.pi * radius**2, rel=0.12)


def test_fringes_change_sides_with_the_focus():
    """Over-focus has bright rims around dark ones, under-focus dark around bright ones; in focus there is little."""
    contrast = {focus: _fringe(focus) for focus in ("under", "in", "over")}
    assert contrast["under"] < contrast["in"] < contrast["over"]
    assert contrast["under"] < -0.02
    assert contrast["over"] > 0.02
    assert abs(contrast["in"]) < 0.1


def _fringe(focus: str) -> float:
    """Brightness just outside of voids less that just inside, over many; parts of the surroundings'."""
    found = []
    for index in range(1, 9):
        experiment = Experiment(4, index, (512, 512), focus=focus)
        picture = experiment.take()
        rows, columns = np.mgrid[:512, :512]
        for _, x, y, radius in experiment.places(0):
            distance = np.hypot(columns - x, rows - y)
            outside = (distance > radius + 0.5) & (distance < radius + 3) & (picture.mask == 0)
            inside = (distance < radius - 1.5) & (distance > radius - 4) & (picture.mask == 1)
            if outside.sum() > 20 and inside.sum() > 20:
                found.append(picture.pixels[outside].mean() / picture.pixels[inside].mean() - 1)
    return float(np.median(found))


def test_in_a_movie_voids_grow_and_drift_together():
    experiment = Experiment(3, 1, (512, 512), frames=40)
    first, last = ({place[0]: place[1:] for place in experiment.places(frame)} for frame in (0, 39))
    both = sorted(set(first) & set(last))
    assert len(both) >= 3
    moved = np.array([np.subtract(last[one][:2], first[one][:2]) for one in both])
    assert np.abs(moved - experiment.specimen.drift[39]).max() < 1e-9
    grown = [last[one][2] - first[one][2] for one in both]
    assert min(grown) >= 0
    assert max(grown) > 0.5


def test_the_drift_of_a_simulated_movie_is_recovered():
    from graticule_workers.streams import drift_from_many_pairs, drift_from_pairs, drift_from_tracks, link, summarise
    from tests.worker.test_streams import table

    experiment = Experiment(7, 2, (512, 512), frames=20)
    drift = experiment.specimen.drift
    images = [experiment.take(frame).pixels.astype(np.float32) for frame in range(20)]
    for method in (drift_from_pairs, drift_from_many_pairs):
        assert np.abs(method(images) - drift).max() < 0.5, method.__name__
    seen = [(frame, x, y, radius) for frame in range(20) for _, x, y, radius in experiment.places(frame)]
    tracks = link(table(*seen))
    assert np.abs(drift_from_tracks(tracks, 20) - drift).max() < 0.5
    assert len(summarise(tracks)) == len({place[0] for frame in range(20) for place in experiment.places(frame)})


def test_single_pictures_with_truth(tmp_path: Path):
    report = simulate_tem(tmp_path / "p", count=2, rate=0, size=SIZE, truth=tmp_path / "t")
    assert (report.pictures, report.experiments) == (2, 2)
    assert names(tmp_path / "p") == ["tem-000001.tif", "tem-000002.tif"]
    truth = rows(tmp_path / "t" / "truth.csv")
    assert [row["file"] for row in truth] == names(tmp_path / "p")
    picture = formats.decode((tmp_path / "p" / "tem-000001.tif").read_bytes(), "x.tif")
    assert picture.pixels.shape == (SIZE, SIZE)
    assert picture.calibration.nanometres == pytest.approx((float(truth[0]["pixel_nm"]),) * 2, rel=1e-4)
    assert np.asarray(Image.open(tmp_path / "t" / truth[0]["mask"])).shape == (SIZE, SIZE)
    tracks = [row for row in rows(tmp_path / "t" / "tracks.csv") if row["file"] == "tem-000001.tif"]
    assert len(tracks) == int(truth[0]["voids"])


def test_movies_as_files_and_as_a_stack(tmp_path: Path):
    for stack in (False, True):
        folder = tmp_path / str(stack)
        simulate_tem(folder, count=1, frames=3, stack=stack, rate=0, size=SIZE, truth=tmp_path / f"truth-{stack}")
    assert names(tmp_path / "False") == [f"tem-000001-frame-{frame:04d}.tif" for frame in range(3)]
    pages = tifffile.imread(tmp_path / "True" / "tem-000001.tif")
    for frame in range(3):
        single = tifffile.imread(tmp_path / "False" / f"tem-000001-frame-{frame:04d}.tif")
        assert np.array_equal(pages[frame], single)
    assert [row["frame"] for row in rows(tmp_path / "truth-True" / "truth.csv")] == ["0", "1", "2"]
    simulate_tem(tmp_path / "False", count=1, rate=0, size=SIZE)
    assert "tem-000002.tif" in names(tmp_path / "False")


def test_impossible_wishes_are_refused(tmp_path: Path):
    for wrong in ({"size": 64}, {"frames": 0}, {"seed": -1}, {"focus": "soft"}, {"truth": tmp_path / "masks"}):
        with pytest.raises(BadInput):
            simulate_tem(tmp_path, count=1, **wrong)
    assert names(tmp_path) == []


def test_the_command(tmp_path: Path, capsys):
    options = {"count": 1, "frames": 2, "stack": False, "rate": 0, "seed": 1, "size": SIZE, "focus": "", "truth": None}
    assert run_simulate_tem(out=tmp_path, **options) == 0
    assert "2 pictures written" in capsys.readouterr().out
