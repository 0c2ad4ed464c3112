"""Which pictures a run is about: the files that are named, and those in the folders that are named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath

from graticule.errors import SourceUnreadable
from graticule.selection import LeftOut, Selection, natural_path_key, walk
from graticule.store import printable


@dataclass(frozen=True)
class Picture:
    """A file to analyse."""

    path: Path
    relative: PurePath
    """Below the folder that was given."""


@dataclass(frozen=True)
class Choice:
    """What a run takes, and what it leaves out."""

    pictures: tuple[Picture, ...]
    left_out: Counter[LeftOut]

    @property
    def remark(self) -> str:
        """A sentence about what was left out; empty: nothing."""
        if not self.left_out:
            return ""
        reasons = ", ".join(f"{number} {reason.value}" for reason, number in self.left_out.most_common())
        hint = " (--include '*.png' would take PNG files)" if LeftOut.BESIDE_JPEG in self.left_out else ""
        return f"{_files(self.left_out.total())} left out: {reasons}{hint}."


def choose(paths: Iterable[Path], selection: Selection, out: Path) -> Choice:
    """The pictures that are named and those in the folders that are named, each once; nothing below `out`.

    Raises SourceUnreadable for a path that is neither.
    """
    found: dict[Path, Picture] = {}
    left_out: Counter[LeftOut] = Counter()
    for path in paths:
        if path.is_dir():
            pictures, rest = _in_folder(path, selection, out)
            left_out.update(rest)
        elif path.is_file():
            pictures = [Picture(path, PurePath(path.name))]
        else:
            raise SourceUnreadable(f"There is no file or folder {printable(str(path))!r}.", data="Nothing was sent.")
        for picture in pictures:
            found.setdefault(picture.path.absolute(), picture)
    return Choice(tuple(found.values()), left_out)


def _in_folder(folder: Path, selection: Selection, out: Path) -> tuple[list[Picture], Counter[LeftOut]]:
    pictures: list[Picture] = []
    left_out: Counter[LeftOut] = Counter()
    results = out.absolute()
    for entries in walk(folder):
        siblings = {entry.name for entry in entries}
        for entry in entries:
            path = Path(entry.path)
            # What an earlier run wrote is no picture of this one.
            if not entry.is_file() or path.absolute().is_relative_to(results):
                continue
            if reason := selection.reason(path, folder, siblings):
                left_out[reason] += 1
            else:
                pictures.append(Picture(path, path.relative_to(folder)))
    return sorted(pictures, key=lambda picture: natural_path_key(picture.path)), left_out


def _files(number: int) -> str:
    return f"{number} file" if number == 1 else f"{number} files"
