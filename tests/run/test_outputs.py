from __future__ import annotations

import errno
import os
from pathlib import Path, PurePath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graticule.errors import GraticuleError
from graticule.outputs import LONGEST_NAME, Names, clear_write_errors, safe_name, write_atomically


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("tile-1", "tile-1"),
        ("Größe µm", "Größe µm"),
        ('a<b>:"/\\|?*c', "a_b________c"),
        ("two\nlines\t", "two_lines_"),
        ("ends. ", "ends"),
        ("..", "_"),
        ("", "_"),
        ("CON", "_CON"),
        ("lpt1.old", "_lpt1.old"),
        ("console", "console"),
        ("bad\udcff", "bad_xff"),
        ("e\u0301", "é"),
    ],
)
def test_names_are_made_safe(name: str, safe: str):
    assert safe_name(name) == safe


def test_long_names_are_cut_and_stay_apart():
    one, other = (safe_name("ü" * 300 + end) for end in "ab")
    assert one != other
    assert len(one.encode()) <= LONGEST_NAME


@given(st.text(max_size=400))
def test_any_name_is_a_single_file_name(name: str):
    safe = safe_name(name)
    assert safe == PurePath(safe).name
    assert safe not in (".", "..")
    assert len(safe.encode()) <= LONGEST_NAME
    assert safe_name(safe) == safe


def test_pictures_of_one_name_get_names_of_their_own():
    names = Names()
    given = [
        names.give(PurePath(path)) for path in ("s/a.jpg", "s/a.tif", "t/a.jpg", "s/A.png", "a-2.png", "a.jpg", "a.tif")
    ]
    assert given == ["s/a", "s/a-2", "t/a", "s/A-3", "a-2", "a", "a-3"]


def test_sub_folders_are_made_safe_too():
    assert Names().give(PurePath("con/x:y/a.jpg")) == "_con/x_y/a"


def test_files_appear_whole_in_new_folders(tmp_path: Path):
    write_atomically(tmp_path / "deep" / "er" / "a.png", b"data")
    assert (tmp_path / "deep" / "er" / "a.png").read_bytes() == b"data"
    assert len(list((tmp_path / "deep" / "er").iterdir())) == 1


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.png"
    write_atomically(path, b"old")
    monkeypatch.setattr(os, "replace", _full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]
    assert path.read_bytes() == b"old"


def test_a_full_disk_is_one_sentence(tmp_path: Path):
    with pytest.raises(GraticuleError, match=r"Cannot write '.*out': No space left on device\. Make room\."):  # noqa: SIM117
        with clear_write_errors(tmp_path / "out", advice="Make room."):
            _full()


def _full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
