from __future__ import annotations

from pathlib import Path, PurePath

import pytest

from graticule.choice import choose
from graticule.errors import SourceUnreadable
from graticule.selection import Selection

CRACKS = Path(__file__).parents[3] / "shared" / "data" / "tiles" / "crack"


def make(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def chosen(folder: Path, *paths: Path, include=(), exclude=(), out: Path | None = None) -> list[str]:
    selection = Selection(tuple(include), tuple(exclude))
    return [str(picture.relative) for picture in choose(paths or [folder], selection, out or folder / "out").pictures]


def test_pictures_of_a_folder_and_its_sub_folders_in_natural_order(tmp_path: Path):
    make(tmp_path, "b/tile-10.jpg", "b/tile-9.jpg", "a.png", "notes.txt")
    assert chosen(tmp_path) == ["a.png", str(PurePath("b/tile-9.jpg")), str(PurePath("b/tile-10.jpg"))]


def test_masks_beside_jpegs_are_left_out_and_counted(tmp_path: Path):
    make(tmp_path, "a.jpg", "a.png", "b.jpg", "b.png", "c.png", "x.tmp")
    choice = choose([tmp_path], Selection(), tmp_path / "out")
    assert [picture.path.name for picture in choice.pictures] == ["a.jpg", "b.jpg", "c.png"]
    assert choice.remark.startswith("3 files left out: 2 beside a JPEG, 1 temporary")


def test_nothing_is_said_when_nothing_is_left_out(tmp_path: Path):
    make(tmp_path, "a.jpg")
    assert choose([tmp_path], Selection(), tmp_path / "out").remark == ""


def test_results_of_an_earlier_run_are_no_pictures(tmp_path: Path):
    make(tmp_path, "a.jpg", "out/masks/a.png", "out/overlays/a.png", "output.png")
    assert chosen(tmp_path) == ["a.jpg", "output.png"]
    assert choose([tmp_path], Selection(), tmp_path / "out").remark == ""


def test_a_file_that_is_named_is_taken_as_it_is(tmp_path: Path):
    make(tmp_path, "a.jpg", "a.png", "odd.bin")
    assert chosen(tmp_path, tmp_path / "a.png", tmp_path / "odd.bin") == ["a.png", "odd.bin"]


def test_a_picture_that_is_named_twice_is_taken_once(tmp_path: Path):
    make(tmp_path, "s/a.jpg")
    assert chosen(tmp_path, tmp_path / "s", tmp_path / "s" / "a.jpg", tmp_path) == ["a.jpg"]


def test_include_and_exclude(tmp_path: Path):
    make(tmp_path, "a.jpg", "a.png", "b.jpg")
    assert chosen(tmp_path, include=["*.png"]) == ["a.png"]
    assert chosen(tmp_path, exclude=["b*"]) == ["a.jpg"]


def test_a_path_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(SourceUnreadable, match="no file or folder '.*gone'"):
        choose([tmp_path / "gone"], Selection(), tmp_path / "out")


def test_the_real_cracks_are_43_pictures():
    if not CRACKS.is_dir():
        pytest.skip("the real photographs are not on this machine (shared/data/tiles)")
    choice = choose([CRACKS], Selection(), Path("out"))
    assert len(choice.pictures) == 43
    assert choice.remark.startswith("43 files left out: 43 beside a JPEG")
