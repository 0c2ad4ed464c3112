"""Where results go on this machine: names that every file system takes, and files that appear whole."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath

from graticule.errors import GraticuleError
from graticule.store import printable

LONGEST_NAME = 200
"""Bytes of a name without its suffix; file systems take 255 for all of it."""

_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
_RESERVED = re.compile(r"^(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\.|$)", re.IGNORECASE)


class Names:
    """Gives each picture a name of its own below an output folder, without a suffix, with its sub-folders."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def give(self, relative: PurePath) -> str:
        """`scan/a.tif` -> `scan/a`; a second picture of that name -> `scan/a-2`."""
        folders = [safe_name(part) for part in relative.parts[:-1]]
        stem = safe_name(relative.stem)
        name, number = stem, 1
        while _folded(path := "/".join((*folders, name))) in self._taken:
            number += 1
            name = f"{stem}-{number}"
        self._taken.add(_folded(path))
        return path


def safe_name(name: str) -> str:
    """A name like `name` that Windows, macOS and Linux take, and that cannot lead out of its folder."""
    text = unicodedata.normalize("NFC", printable(name))
    text = _FORBIDDEN.sub("_", text).rstrip(". ").lstrip(" ")
    if not text.strip("."):
        return "_"
    if _RESERVED.match(text):
        text = f"_{text}"
    return _shortened(text)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it appears with all its bytes or not at all. Makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.tmp")
    try:
        unfinished.write_bytes(data)
        os.replace(unfinished, path)  # noqa: PTH105  (replaces on every system)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


@contextmanager
def clear_write_errors(folder: Path, advice: str = "") -> Iterator[None]:
    """Turn errors of writing (a full disk, no permission) into one sentence."""
    try:
        yield
    except OSError as error:
        where = printable(str(error.filename or folder))
        reason = error.strerror or str(error)
        raise GraticuleError(f"Cannot write {where!r}: {reason}.", advice=advice) from error


def _folded(path: str) -> str:
    """Windows and macOS take names for the same that differ in case only."""
    return unicodedata.normalize("NFC", path.casefold())


def _shortened(text: str) -> str:
    encoded = text.encode("utf-8")
    if len(encoded) <= LONGEST_NAME:
        return text
    mark = hashlib.sha256(encoded).hexdigest()[:8]
    kept = encoded[: LONGEST_NAME - len(mark) - 1].decode("utf-8", "ignore")
    return f"{kept.rstrip('. ')}~{mark}"
