"""Which files of a folder are pictures to analyse. Pure but for the look at a picture's neighbours and the walk.

Patterns are those of the shell (`*`, `?`, `[...]`), whatever the case. Without a slash they are compared with the
file's name; with one, with its path below the folder, from any sub-folder on (there `*` also spans folders).
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path

from graticule.errors import SourceUnreadable
from graticule.formats import SUFFIXES
from graticule.store import printable

TEMPORARY_PREFIXES = (".", "~$", "._")
TEMPORARY_SUFFIXES = (
    "~",
    ".tmp",
    ".temp",
    ".part",
    ".partial",
    ".filepart",
    ".download",
    ".crdownload",
    ".opdownload",
    ".swp",
    ".lock",
)
COPY_SUFFIXES = (".png", ".tif", ".tiff")
"""A file with one of these beside a JPEG of the same name is its annotation or a copy of it, as in public data sets."""

RESULTS_FOLDER = "masks"
"""Results are written back into a folder of this name; what lies in one is no picture to analyse."""

_JPEG_SPELLINGS = (".jpg", ".JPG", ".jpeg", ".JPEG", ".Jpg", ".Jpeg")
_WILD = re.compile(r"[*?\[]")
_NUMBER = re.compile(r"([0-9]+)")

NaturalKey = tuple[tuple[tuple[str, int, str], ...], str]


class LeftOut(StrEnum):
    """Why a file is not taken."""

    TEMPORARY = "temporary"
    SUFFIX = "no picture"
    EXCLUDED = "excluded"
    NOT_INCLUDED = "not included"
    BESIDE_JPEG = "beside a JPEG"
    RESULT = "in a masks folder"


@dataclass(frozen=True)
class Selection:
    """The rule by which files are taken or left out.

    `include`: take only files like these (default: every suffix that a reader knows). A pattern that spells out the
    suffix, such as `*.png`, also takes what is left out otherwise: unknown suffixes and pictures beside a JPEG.
    `exclude`: leave out files like these; stronger than `include`.
    Folders named `masks` below the root hold results: only an `include` with that name in it takes their files.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def accepts(self, path: Path, root: Path | None = None, siblings: Container[str] | None = None) -> bool:
        """Whether the file is taken; see `reason`."""
        return self.reason(path, root, siblings) is None

    def reason(self, path: Path, root: Path | None = None, siblings: Container[str] | None = None) -> LeftOut | None:
        """Why the file is left out; None when it is taken.

        `root`: the folder that patterns with a slash are relative to. `siblings`: names of the files in the same
        folder; without them the file system is asked.
        """
        return self.judge(_below(path, root), _Neighbours(path) if siblings is None else siblings)

    def judge(self, relative: str, siblings: Container[str] = ()) -> LeftOut | None:
        """The rule itself, for a path below the folder, with slashes."""
        verdict = self._by_name(relative)
        if verdict is None and self._stands_beside_jpeg(relative, siblings):
            return LeftOut.BESIDE_JPEG
        return verdict

    def expand(self, paths: Iterable[Path], *, recursive: bool = True) -> list[Path]:
        """The files that are named, and those of the folders that are named, each once, in natural order.

        A file that is named is taken as it is. Raises SourceUnreadable for a path that is neither.
        """
        found: set[Path] = set()
        for path in paths:
            if path.is_dir():
                found.update(self._in_folder(path, recursive))
            elif path.is_file():
                found.add(path)
            else:
                raise SourceUnreadable(
                    f"There is no file or folder {printable(str(path))!r}.", data="Nothing was sent."
                )
        return sorted(found, key=natural_path_key)

    def _in_folder(self, folder: Path, recursive: bool) -> Iterator[Path]:
        for entries in walk(folder, recursive=recursive):
            siblings = {entry.name for entry in entries}
            for entry in entries:
                path = Path(entry.path)
                if self.accepts(path, folder, siblings) and is_file(entry):
                    yield path

    def _by_name(self, relative: str) -> LeftOut | None:
        name = relative.rpartition("/")[2]
        if is_temporary(relative):
            return LeftOut.TEMPORARY
        if any(pattern.matches(relative) for pattern in self._excluded):
            return LeftOut.EXCLUDED
        if RESULTS_FOLDER in relative.split("/")[:-1] and not self._names_results(relative):
            return LeftOut.RESULT
        if self._names_explicitly(relative):
            return None
        if _suffix(name) not in SUFFIXES:
            return LeftOut.SUFFIX
        if self._included and not any(pattern.matches(relative) for pattern in self._included):
            return LeftOut.NOT_INCLUDED
        return None

    def _names_explicitly(self, relative: str) -> bool:
        return any(pattern.names_suffix and pattern.matches(relative) for pattern in self._included)

    def _names_results(self, relative: str) -> bool:
        return any(pattern.names_results and pattern.matches(relative) for pattern in self._included)

    def _stands_beside_jpeg(self, relative: str, siblings: Container[str]) -> bool:
        """A JPEG that is itself left out does not count: then the other file is the picture."""
        stem, suffix = os.path.splitext(relative)  # noqa: PTH122 (a string, not a Path: called for every file)
        if suffix.lower() not in COPY_SUFFIXES or self._names_explicitly(relative):
            return False
        name = stem.rpartition("/")[2]
        spellings = (spelling for spelling in _JPEG_SPELLINGS if name + spelling in siblings)
        return any(self._by_name(stem + spelling) is None for spelling in spellings)

    @cached_property
    def _included(self) -> tuple[_Pattern, ...]:
        return tuple(map(_Pattern, self.include))

    @cached_property
    def _excluded(self) -> tuple[_Pattern, ...]:
        return tuple(map(_Pattern, self.exclude))


class _Neighbours:
    """The names in a file's folder, looked up one by one."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __contains__(self, name: object) -> bool:
        return os.path.exists(self._path.with_name(str(name)))  # noqa: PTH110 (a name may be too long to exist)


class _Pattern:
    """A compiled pattern."""

    def __init__(self, text: str) -> None:
        text = text.replace("\\", "/") if os.name == "nt" else text
        self._whole_path = "/" in text
        text = text.strip("/")
        anywhere = r"(?s:.*/)?" if self._whole_path else ""
        self._expression = re.compile(anywhere + fnmatch.translate(text), re.IGNORECASE)
        last = text.rpartition("/")[2]
        suffix = last.rpartition(".")[2] if "." in last else ""
        self.names_suffix = bool(suffix) and not _WILD.search(suffix)
        """Whether the pattern spells out the suffix, so that who wrote it knows what it matches."""
        self.names_results = RESULTS_FOLDER in text.split("/")[:-1]

    def matches(self, relative: str) -> bool:
        """Whether the path below the folder matches."""
        subject = relative if self._whole_path else relative.rpartition("/")[2]
        return self._expression.match(subject) is not None


def is_temporary(relative: str) -> bool:
    """Whether a path below the folder looks like a file that a program is still writing, or a hidden one."""
    parts = relative.split("/")
    if any(part.startswith(".") for part in parts[:-1] if part != ".."):
        return True
    name = parts[-1].lower()
    return name.startswith(TEMPORARY_PREFIXES) or name.endswith(TEMPORARY_SUFFIXES)


def walk(
    folder: Path, *, recursive: bool = True, on_error: Callable[[OSError], None] | None = None
) -> Iterator[list[os.DirEntry[str]]]:
    """The entries of the folder, then those of each sub-folder. Hidden folders are left out; a folder that links lead
    to several times, or in a circle, is entered once. A folder that cannot be read is passed to `on_error`."""
    waiting, entered = [str(folder)], set[tuple[int, int]]()
    while waiting:
        current = waiting.pop()
        try:
            status = os.stat(current)  # noqa: PTH116 (a hundred thousand Path objects are slow)
            identity = (status.st_dev, status.st_ino)
            if identity in entered:
                continue
            if status.st_ino:  # some network file systems have none
                entered.add(identity)
            with os.scandir(current) as listing:
                entries = list(listing)
        except OSError as error:
            if on_error:
                on_error(error)
            continue
        yield entries
        if recursive:
            below = [entry.path for entry in entries if not entry.name.startswith(".") and _is_folder(entry)]
            waiting.extend(sorted(below, reverse=True))


def natural_key(text: str) -> NaturalKey:
    """A key that sorts 'frame-9' before 'frame-10', whatever the case."""
    parts = _NUMBER.split(text.casefold())
    key = [(part, 0, "") for part in parts]
    for at in range(1, len(parts), 2):
        digits = parts[at].lstrip("0")
        key[at] = ("", len(digits), digits)  # numbers of any length, without turning them into integers
    return tuple(key), text


def natural_path_key(path: Path) -> tuple[NaturalKey, ...]:
    """A key that sorts paths folder by folder, each name naturally."""
    return tuple(natural_key(part) for part in path.parts)


def _below(path: Path, root: Path | None) -> str:
    if root is None:
        return path.name if path.is_absolute() else path.as_posix()
    try:
        return path.relative_to(root).as_posix()
    except ValueError:
        return path.name


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122


def is_file(entry: os.DirEntry[str]) -> bool:
    """Whether it is a regular file, or a link to one; a link to itself is not."""
    try:
        return entry.is_file()
    except OSError:
        return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
