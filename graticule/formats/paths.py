"""For libraries that read files by their path only."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO


class FilePath:
    """A path under which a stream's bytes can be read: its own, or that of a temporary copy, gone after `close`."""

    def __init__(self, stream: BinaryIO) -> None:
        self._copy: Path | None = None
        self.path = _own_path(stream)
        if self.path is None:
            self.path = self._copy = _copied(stream)

    def close(self) -> None:
        """Remove the copy, if one was made."""
        if self._copy:
            self._copy.unlink(missing_ok=True)


def _own_path(stream: BinaryIO) -> Path | None:
    """The path that a stream was opened with, if the same file is still there."""
    name = getattr(stream, "name", None)
    if not isinstance(name, (str, int)):
        return None
    # A file that was made without a name, or has lost it, can be opened by its number on Linux.
    path = Path(name) if isinstance(name, str) else Path(f"/proc/self/fd/{name}")
    try:
        same = os.path.samestat(path.stat(), os.fstat(stream.fileno()))
    except (OSError, ValueError):
        return None
    return path if same else None


def _copied(stream: BinaryIO) -> Path:
    stream.seek(0)
    handle, name = tempfile.mkstemp(prefix="graticule-image-")
    try:
        with os.fdopen(handle, "wb") as copy:
            shutil.copyfileobj(stream, copy, 1 << 20)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return Path(name)
