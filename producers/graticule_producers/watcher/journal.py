"""The journal: what was submitted from a folder, so that a restart goes on where the last run stopped.

One SQLite file for each folder, model and cluster. A picture is known by its path, size and modification time: a file
that changes later is another picture. Before a picture is sent its intent is written down with the time of submission;
a run that was killed in between repeats the submission with that time, so that even the pending record is the same.

Held with an exclusive lock: a second watcher of the same folder for the same model is refused.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

import platformdirs

from graticule.errors import GraticuleError
from graticule.jobs import Job, utc_now
from graticule.settings import Settings
from graticule.store import printable
from graticule_producers.watcher.looks import Look

log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS pictures (
    path BLOB NOT NULL,            -- below the folder, as the file system spells it
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    changed_ns INTEGER NOT NULL,
    state TEXT NOT NULL,           -- seen, intended, submitted, unreadable
    sequence INTEGER,
    submitted_at TEXT,
    job_id TEXT,
    sha256 TEXT,
    reason TEXT,
    noted_at TEXT NOT NULL,
    PRIMARY KEY (path, size, mtime_ns)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS frames (
    job_id TEXT PRIMARY KEY,       -- of files with several frames; `pictures` has the first one's
    path BLOB NOT NULL,
    frame INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS returned (job_id TEXT PRIMARY KEY) WITHOUT ROWID;  -- results that were written back
CREATE INDEX IF NOT EXISTS open_pictures ON pictures (state) WHERE state IN ('intended', 'unreadable');
CREATE TEMP TABLE found (at INTEGER PRIMARY KEY, path BLOB, size INTEGER, mtime_ns INTEGER, changed_ns INTEGER);
"""
_UNKNOWN = """
SELECT found.at FROM found LEFT JOIN pictures USING (path, size, mtime_ns)
WHERE state IS NULL OR state = 'intended' OR (state = 'unreadable' AND pictures.changed_ns <> found.changed_ns)
ORDER BY found.at
"""
_NOTE = """
INSERT OR REPLACE INTO pictures
    (path, size, mtime_ns, changed_ns, state, sequence, submitted_at, job_id, sha256, reason, noted_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_NOTE_FRAME = "INSERT OR REPLACE INTO frames VALUES (?, ?, ?)"
_NOT_RETURNED = """
SELECT job_id, path, frame FROM (
    SELECT pictures.job_id, pictures.path, coalesce(frames.frame, -1) AS frame, sequence
    FROM pictures LEFT JOIN frames ON frames.job_id = pictures.job_id WHERE state = 'submitted'
    UNION ALL SELECT job_id, path, frame, 0 FROM frames WHERE frame > 0
) WHERE job_id NOT IN (SELECT job_id FROM returned) ORDER BY sequence, path, frame
"""
_BASELINE = "first watched"


class State(StrEnum):
    """What is known about a picture."""

    SEEN = "seen"
    INTENDED = "intended"
    SUBMITTED = "submitted"
    UNREADABLE = "unreadable"


class JournalUnavailable(GraticuleError):
    """The journal cannot be read or written."""


@dataclass(frozen=True)
class Place:
    """What a job is about."""

    path: str
    """Below the watched folder."""
    frame: int | None = None
    """None: the file has one."""


@dataclass(frozen=True)
class Intent:
    """A submission that is about to be made."""

    sequence: int
    submitted_at: datetime
    repeated: bool
    """Whether an earlier run began it."""


class Journal:
    """The pictures of one folder. Thread-safe."""

    def __init__(self, path: Path, root: Path) -> None:
        """Open or create the journal of the folder `root`. Raises JournalUnavailable."""
        self.path = path
        self._prefix = str(root).rstrip(os.sep) + os.sep
        self._lock = threading.Lock()
        self._owed: list[tuple[str, tuple[object, ...]]] = []
        """Statements and rows about what has happened already that could not be written yet."""
        with self._translated("open"):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = _open(path)
            self._sequence = self._one("SELECT max(sequence) FROM pictures") or 0
            self.submitted_before = self._count(State.SUBMITTED)
            self.seen_before = self._count(State.SEEN)
            with self._database:
                # Whatever was wrong with them may have been put right while nobody watched.
                self._database.execute("DELETE FROM pictures WHERE state = ?", (State.UNREADABLE,))
            begun = self._database.execute("SELECT path FROM pictures WHERE state = ?", (State.INTENDED,))
            self._begun = {path for (path,) in begun}

    @property
    def is_new(self) -> bool:
        """Whether no watcher has looked at the folder before."""
        with self._lock, self._translated("read"):
            return self._one("SELECT value FROM about WHERE name = ?", _BASELINE) is None

    @property
    def begun_before(self) -> int:
        """Submissions that the last run began and did not finish."""
        return len(self._begun)

    def start(self) -> None:
        """Note that the folder is watched from now on."""
        with self._lock, self._translated("write"), self._database:
            self._database.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", (_BASELINE, utc_now().isoformat()))

    def see(self, looks: Iterable[Look]) -> None:
        """Note what was there before anybody watched, and was not asked for."""
        now = utc_now().isoformat()
        rows = [self._row(look, State.SEEN, now) for look in looks]
        with self._lock, self._translated("write"), self._database:
            self._database.executemany(_NOTE, rows)
            self.seen_before += len(rows)

    def forget_seen(self) -> None:
        """What was there before is asked for now."""
        with self._lock, self._translated("write"), self._database:
            self._database.execute("DELETE FROM pictures WHERE state = ?", (State.SEEN,))
            self.seen_before = 0

    def unknown(self, looks: Sequence[Look]) -> list[Look]:
        """Those that still have to be submitted, in the same order. One query, however many there are."""
        with self._lock, self._translated("read"):
            rows = [(at, *self._key(look), look.changed_ns) for at, look in enumerate(looks)]
            with self._database:
                self._database.execute("DELETE FROM found")
                self._database.executemany("INSERT INTO found VALUES (?, ?, ?, ?, ?)", rows)
            return [looks[at] for (at,) in self._database.execute(_UNKNOWN)]

    def intend(self, look: Look) -> Intent:
        """Write down that the picture is going to be submitted. Raises JournalUnavailable: then do not submit it."""
        key = self._key(look)
        with self._lock, self._translated("write"), self._database:
            self._pay()
            begun = self._database.execute(
                "SELECT sequence, submitted_at FROM pictures"
                " WHERE path = ? AND size = ? AND mtime_ns = ? AND state = 'intended'",
                key,
            ).fetchone()
            if begun:
                return Intent(begun[0], datetime.fromisoformat(begun[1]), repeated=key[0] in self._begun)
            # An earlier version of the file that never got through will not come back.
            self._database.execute("DELETE FROM pictures WHERE path = ? AND state = 'intended'", key[:1])
            now = utc_now()
            row = self._row(look, State.INTENDED, now.isoformat(), sequence=self._sequence + 1, submitted_at=now)
            self._database.execute(_NOTE, row)
            self._sequence += 1
            return Intent(self._sequence, now, repeated=False)

    def submitted(self, look: Look, jobs: Sequence[Job]) -> None:
        """Note that the picture was submitted, a job for each frame. If that cannot be written now it is later."""
        row = self._row(look, State.SUBMITTED, utc_now().isoformat(), sequence=jobs[0].sequence, job=jobs[0])
        path = self._key(look)[0]
        frames = [(_NOTE_FRAME, (job.job_id, path, job.image.frame)) for job in jobs] if len(jobs) > 1 else []
        self._owe((_NOTE, row), *frames)
        self._begun.discard(path)

    def unreadable(self, look: Look, reason: str) -> None:
        """Note that the file cannot be read as it is. If that cannot be written now it is written later."""
        self._owe((_NOTE, self._row(look, State.UNREADABLE, utc_now().isoformat(), reason=reason)))

    def count(self, state: State) -> int:
        """Pictures in a state."""
        with self._lock, self._translated("read"):
            return self._count(state)

    def pictures(self, state: State) -> list[tuple[str, str | None]]:
        """(path below the folder, job_id) of the pictures in a state, in the order of their sequence."""
        query = "SELECT path, job_id FROM pictures WHERE state = ? ORDER BY sequence, path"
        with self._lock, self._translated("read"):
            return [(os.fsdecode(path), job_id) for path, job_id in self._database.execute(query, (state,))]

    def not_returned(self) -> dict[str, Place]:
        """What was submitted and whose result was not written back, by job."""
        with self._lock, self._translated("read"):
            rows = self._database.execute(_NOT_RETURNED).fetchall()
        return {job: Place(os.fsdecode(path), frame if frame >= 0 else None) for job, path, frame in rows}

    def returned(self, job_id: str) -> None:
        """Note that a result was written back. Raises JournalUnavailable: then it is written again."""
        with self._lock, self._translated("write"), self._database:
            self._database.execute("INSERT OR IGNORE INTO returned VALUES (?)", (job_id,))

    def settle_debts(self) -> None:
        """Write what could not be written before. Raises JournalUnavailable."""
        if self._owed:
            with self._lock, self._translated("write"), self._database:
                self._pay()

    def close(self) -> None:
        """Write what is owed, as far as possible, and let go of the file."""
        try:
            self.settle_debts()
        except JournalUnavailable as error:
            log.error("%s Pictures sent lately will be sent again as the same jobs.", error)
        with self._lock:
            self._database.close()

    def _owe(self, *rows: tuple[str, tuple[object, ...]]) -> None:
        with self._lock:
            self._owed.extend(rows)
            try:
                with self._translated("write"), self._database:
                    self._pay()
            except JournalUnavailable as error:
                log.error("%s", error)

    def _pay(self) -> None:
        """Inside a transaction: what is owed stays owed until that is committed (writing a row twice does no harm)."""
        if self._owed:
            for statement, row in self._owed:
                self._database.execute(statement, row)
            self._database.commit()
            self._owed.clear()

    def _row(
        self,
        look: Look,
        state: State,
        now: str,
        *,
        sequence: int | None = None,
        submitted_at: datetime | None = None,
        job: Job | None = None,
        reason: str | None = None,
    ) -> tuple[object, ...]:
        when = job.submitted_at if job else submitted_at
        return (
            *self._key(look),
            look.changed_ns,
            state,
            sequence,
            when.isoformat() if when else None,
            job.job_id if job else None,
            job.image.sha256 if job else None,
            reason,
            now,
        )

    def _key(self, look: Look) -> tuple[bytes, int, int]:
        return os.fsencode(look.path.removeprefix(self._prefix)), look.size, look.mtime_ns

    def _count(self, state: State) -> int:
        return self._one("SELECT count(*) FROM pictures WHERE state = ?", state) or 0

    def _one(self, query: str, *values: object) -> int | None:
        row = self._database.execute(query, values).fetchone()
        return row[0] if row else None

    @contextmanager
    def _translated(self, action: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise _unavailable(self.path, action, error) from error


def journal_path(settings: Settings, root: Path, model: str) -> Path:
    """Where the journal of a folder, model and cluster lies: in the user's state folder."""
    folder = Path(platformdirs.user_state_dir("graticule", appauthor=False)) / "watcher"
    return folder / journal_name(settings, root, model)


def journal_name(settings: Settings, root: Path, model: str) -> str:
    """The folder's name, for people, and a hash of all that makes the journal another one."""
    parts = [os.fsencode(root.resolve()).hex(), model, settings.s3_url.rstrip("/"), settings.namespace]
    digest = hashlib.sha256(json.dumps(parts).encode("ascii")).hexdigest()[:16]
    readable = re.sub(r"[^0-9A-Za-z._-]+", "-", root.resolve().name)[:40].strip("-.") or "folder"
    return f"{readable}-{digest}.sqlite"


def _open(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=1, check_same_thread=False)
    try:
        # Exclusive before WAL: then no shared memory is needed, and the state folder may lie on a network share.
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute("PRAGMA temp_store = MEMORY")
        database.executescript(_SCHEMA)
    except BaseException:
        database.close()
        raise
    return database


def _unavailable(path: Path, action: str, error: Exception) -> JournalUnavailable:
    name = printable(str(path))
    if "locked" in str(error):
        return JournalUnavailable(
            f"Another watcher uses the journal {name!r}.",
            data="Nothing was sent.",
            advice="Stop it first, or give this one its own file with --journal.",
        )
    if any(sign in str(error) for sign in ("not a database", "malformed")):
        return JournalUnavailable(
            f"The journal {name!r} is damaged ({error}).",
            data="Nothing was sent.",
            advice="Move the file away; then --existing sends everything again, as the same jobs.",
        )
    return JournalUnavailable(
        f"Cannot {action} the journal {name!r}: {error}.",
        data="Pictures wait until it can be written.",
        advice="Is the disk full?",
    )
