"""What the watcher's threads tell its main loop. They share one inbox and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from queue import SimpleQueue

from graticule.jobs import Job
from graticule_producers.watcher.looks import Look


@dataclass(frozen=True)
class Changed:
    """The operating system says that something happened to these paths."""

    added: frozenset[str]
    other: frozenset[str]


@dataclass(frozen=True)
class Found:
    """A scan found files that are not submitted yet."""

    looks: list[Look]
    refusals: Mapping[str, str] = field(default_factory=dict)
    """Why some of them cannot be read, by path."""


@dataclass(frozen=True)
class Scanned:
    """A scan of the whole folder is through."""

    left_out: Mapping[str, int]
    """Files that the selection leaves out: how many, by reason."""


@dataclass(frozen=True)
class Sent:
    """A picture was submitted."""

    look: Look
    jobs: tuple[Job, ...]
    """One for each frame."""
    repeated: bool


@dataclass(frozen=True)
class Refused:
    """A file cannot be read to its end; perhaps it is not complete yet."""

    look: Look
    reason: str


@dataclass(frozen=True)
class Altered:
    """A file changed before it could be submitted."""

    look: Look


@dataclass(frozen=True)
class Unreadable:
    """A file cannot be submitted as it is."""

    look: Look
    reason: str


@dataclass(frozen=True)
class Postponed:
    """The store or the journal is away; the file waits."""

    look: Look
    error: Exception


Outcome = Sent | Refused | Altered | Unreadable | Postponed
Message = Changed | Found | Scanned | Outcome
Inbox = SimpleQueue[Message]
