"""One look at a file, and what several of them tell about whether its writer is done."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field

from graticule.errors import SourceUnreadable
from graticule.store import printable

STILL = 0.025
"""Seconds that a file must stand still before it is tried, at least."""
FIRST_INTERVAL = 0.025
LONGEST_INTERVAL = 1.0
PATIENCE = 2.5
"""A file whose writer paused for t seconds between two changes must stand still for PATIENCE * t."""

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass(frozen=True, slots=True)
class Look:
    """A file at one moment. Path, size and modification time are what makes a picture another picture."""

    path: str
    size: int
    mtime_ns: int
    changed_ns: int = field(default=0, compare=False)
    """Time of the last change to the file's entry; a new permission shows here only."""

    @classmethod
    def at(cls, path: str) -> Look:
        """Look at a regular file, without opening it. Raises SourceUnreadable, also for pipes and folders."""
        try:
            status = os.stat(path)  # noqa: PTH116 (called for every file of every scan)
        except OSError as error:
            raise SourceUnreadable(f"Cannot read {_name(path)!r}: {_why(path, error)}.") from error
        return cls.of(path, status)

    @classmethod
    def of(cls, path: str, status: os.stat_result) -> Look:
        """The look that a `stat` result stands for. Raises SourceUnreadable unless it is a regular file's."""
        kind = stat.S_IFMT(status.st_mode)
        if kind != stat.S_IFREG:
            raise SourceUnreadable(f"Cannot read {_name(path)!r}: it is {_KINDS.get(kind, 'no file')}, not a file.")
        return cls(path, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    @classmethod
    def nowhere(cls, path: str) -> Look:
        """Stands for something that is no regular file, or is gone."""
        return cls(path, -1, 0)


@dataclass(slots=True)
class Candidate:
    """A file that is not known to be complete yet. Times are those of `time.monotonic`."""

    look: Look
    since: float
    """When the file was first seen as it is now."""
    interval: float = FIRST_INTERVAL
    longest_pause: float = 0.0
    """Longest time that its writer let pass between two changes."""
    refusal: str = ""
    """Why it could not be read at the last try; empty before the first."""

    def see(self, look: Look, now: float) -> bool:
        """Take note of a look; whether the file stands still."""
        if look == self.look:
            self.look = look
            return True
        self.longest_pause = max(self.longest_pause, now - self.since)
        self.look, self.since, self.interval = look, now, FIRST_INTERVAL
        return False

    def missing(self, now: float) -> float:
        """Seconds that it must still stand still before it is tried."""
        # The looks are a little coarser than the writer's pauses; half a second of caution is enough for any of them.
        needed = max(STILL, min(PATIENCE * self.longest_pause, 0.5))
        return max(0.0, self.since + needed - now)

    def refuse(self, reason: str) -> float:
        """Note that it could not be read yet; seconds until the next try."""
        self.refusal = reason
        self.interval = min(self.interval * 2, LONGEST_INTERVAL)
        return self.interval

    def has_settled(self, settle: float, now: float) -> bool:
        """Whether it has stood still so long that nobody is writing it any more."""
        return now - self.since >= settle


def _name(path: str) -> str:
    return printable(os.path.basename(path))  # noqa: PTH119


def _why(path: str, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "it is a link that leads nowhere" if os.path.islink(path) else "it is gone"  # noqa: PTH114
    return error.strerror or str(error)
