"""Which files are pictures."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graticule.errors import SourceUnreadable
from graticule.formats import SUFFIXES
from graticule.selection import LeftOut, Selection, is_temporary, natural_key, natural_path_key, walk

NAMES = st.text(st.characters(blacklist_characters="/\0", blacklist_categories=("Cs",)), min_size=1, max_size=40)
STEMS = NAMES.filter(lambda name: not name.startswith((".", "~$")))
ANY_SUFFIX = st.sampled_from(sorted(SUFFIXES))


@given(STEMS, ANY_SUFFIX, st.booleans())
def test_every_known_suffix_is_taken_whatever_the_case(stem, suffix, upper):
    assert Selection().judge(stem + (suffix.upper() if upper else suffix)) is None


@given(STEMS, ANY_SUFFIX, st.sampled_from([".tmp", ".part", ".partial", ".crdownload", ".swp", "~", ".TMP"]))
def test_a_temporary_name_is_never_taken(stem, suffix, ending):
    name = stem + suffix + ending
    assert Selection().judge(name) is LeftOut.TEMPORARY
    assert Selection(include=("*", f"*{ending}")).judge(name) is LeftOut.TEMPORARY


@pytest.mark.parametrize("name", [".x.png", "~$x.png", ".~lock.x.png#", "._x.png", "x.png~", ".git/x.png"])
def test_hidden_and_lock_names_are_temporary(name):
    assert is_temporary(name)


@given(STEMS, ANY_SUFFIX)
def test_exclude_is_stronger_than_include(stem, suffix):
    assert Selection(include=("*",), exclude=("*",)).judge(stem + suffix) is LeftOut.EXCLUDED


@pytest.mark.parametrize(
    ("include", "relative", "expected"),
    [
        ("*.tif", "A.TIF", None),
        ("*.tif", "a.png", LeftOut.NOT_INCLUDED),
        ("run1_*", "run1_a.png", None),
        ("run1_*", "run1_notes.txt", LeftOut.SUFFIX),
        ("*.dat", "a.dat", None),
        ("raw/*.tif", "raw/a.tif", None),
        ("raw/*.tif", "day 1/RAW/a.tif", None),
        ("raw/*.tif", "draw/a.tif", LeftOut.NOT_INCLUDED),
        ("raw/*", "raw/deep/a.tif", None),
        ("*.tif", "raw/a.tif", None),
        ("[ab]*.png", "b1.png", None),
        ("[ab]*.png", "c1.png", LeftOut.NOT_INCLUDED),
    ],
)
def test_include(include, relative, expected):
    assert Selection(include=(include,)).judge(relative) is expected


@pytest.mark.parametrize("copy", ["a.png", "a.PNG", "a.tif", "a.tiff"])
@pytest.mark.parametrize("jpeg", ["a.jpg", "a.JPG", "a.jpeg"])
def test_a_copy_beside_a_jpeg_is_left_out(copy, jpeg):
    siblings = {copy, jpeg}
    assert Selection().judge(f"d/{copy}", siblings) is LeftOut.BESIDE_JPEG
    assert Selection().judge(f"d/{jpeg}", siblings) is None
    assert Selection().judge("d/b.png", siblings | {"b.png"}) is None


def test_a_copy_beside_a_jpeg_is_taken_when_it_is_named():
    siblings = {"a.png", "a.jpg"}
    assert Selection(include=("*.png",)).judge("a.png", siblings) is None
    assert Selection(include=("a.png",)).judge("a.png", siblings) is None
    assert Selection(include=("*",)).judge("a.png", siblings) is LeftOut.BESIDE_JPEG
    assert Selection(exclude=("*.jpg",)).judge("a.png", siblings) is None


def test_the_file_system_is_asked_for_neighbours(tmp_path: Path):
    (tmp_path / "a.jpg").touch()
    assert Selection().reason(tmp_path / "a.png", tmp_path) is LeftOut.BESIDE_JPEG
    assert Selection().accepts(tmp_path / "b.png", tmp_path)
    assert Selection().accepts(tmp_path / ("n" * 251 + ".png"), tmp_path)


def test_expand(tmp_path: Path):
    for name in ("f10.png", "f9.png", "F11.png", "notes.txt", ".hidden.png", "sub/a.jpg", "sub/a.png", ".git/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = Selection().expand([tmp_path, tmp_path / "f9.png", tmp_path / "notes.txt"])
    names = [path.relative_to(tmp_path).as_posix() for path in found]
    assert names == ["f9.png", "f10.png", "F11.png", "notes.txt", "sub/a.jpg"]
    with pytest.raises(SourceUnreadable, match="no file or folder 'nowhere'"):
        Selection().expand([Path("nowhere")])


def test_walk_enters_a_circle_once(tmp_path: Path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x.png").touch()
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path, target_is_directory=True)
    files = [entry.name for entries in walk(tmp_path) for entry in entries if entry.is_file()]
    assert files == ["x.png"]


def test_walk_reports_a_folder_that_cannot_be_read(tmp_path: Path):
    errors: list[OSError] = []
    assert list(walk(tmp_path / "gone", on_error=errors.append)) == []
    assert [type(error) for error in errors] == [FileNotFoundError]


@given(st.integers(0, 10**30), st.integers(0, 10**30), NAMES)
def test_numbers_sort_by_value(a, b, stem):
    if stem[-1:].isdigit():
        stem += "-"
    assert (natural_key(f"{stem}{a}.png") < natural_key(f"{stem}{b}.png")) == (a < b)


@given(st.lists(st.text(max_size=12) | st.from_regex(r"[a-c]?[0-9]{0,3}[a-c]?", fullmatch=True)))
def test_natural_order_is_total_and_does_not_depend_on_the_order_before(names):
    names = list(dict.fromkeys(names))
    ordered = sorted(names, key=natural_key)
    backwards = list(reversed(names))
    assert sorted(backwards, key=natural_key) == ordered
    assert sorted(ordered, key=natural_key) == ordered
    assert len({natural_key(name) for name in names}) == len(names)


def test_paths_sort_folder_by_folder():
    paths = [Path(text) for text in ("b/a2", "b-c/a", "a10/z", "a9/z", "b/a10")]
    assert [path.as_posix() for path in sorted(paths, key=natural_path_key)] == [
        "a9/z",
        "a10/z",
        "b/a2",
        "b/a10",
        "b-c/a",
    ]


@given(NAMES.filter(lambda name: not re.search(r"[*?\[\]]", name)))
def test_a_name_as_pattern_matches_itself(name):
    if "\\" in name and os.name == "nt":
        return
    verdict = Selection(exclude=(name,)).judge(name)
    assert verdict in (LeftOut.EXCLUDED, LeftOut.TEMPORARY)
