"""Looks at the whole folder from time to time, and at a new sub-folder at once: events get lost, files do not."""

from __future__ import annotations

import heapq
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, SimpleQueue

from graticule.errors import SourceUnreadable
from graticule.selection import LeftOut, Selection, is_file, walk
from graticule.store import printable
from graticule_producers.watcher.journal import Journal, JournalUnavailable
from graticule_producers.watcher.looks import Look
from graticule_producers.watcher.messages import Found, Inbox, Scanned
from graticule_producers.watcher.outage import Outage

log = logging.getLogger(__name__)

BATCH = 1000
"""Files that are looked up in the journal, and passed on, together."""
RETURNS = (0.0, 0.3, 1.5)
"""A new sub-folder may be filled before the operating system watches it: it is scanned after each of these seconds."""


class Scanner(threading.Thread):
    """Scans when it is asked to, and every `rescan` seconds; passes on what the journal does not know."""

    def __init__(
        self,
        root: Path,
        selection: Selection,
        journal: Journal,
        inbox: Inbox,
        stop: threading.Event,
        *,
        recursive: bool,
        rescan: float,
        seen_until_ns: int | None,
    ) -> None:
        """`seen_until_ns`: a folder that is watched for the first time counts files from before that as seen; None:
        they are taken, too."""
        super().__init__(name="watcher-scanner", daemon=True)
        self._root = root
        self._selection = selection
        self._journal = journal
        self._inbox = inbox
        self._halt = stop
        self._recursive = recursive
        self._rescan = rescan
        self._seen_until_ns = seen_until_ns
        self._requests: SimpleQueue[tuple[float, str]] = SimpleQueue()
        self._due: list[tuple[float, str]] = []
        self._outage = Outage("the journal", log)
        self._complained: set[str] = set()
        self._last_seconds = 0.0

    def request(self) -> None:
        """Scan the whole folder soon; not so often that nothing else is done."""
        self._requests.put((time.monotonic() + 2 * self._last_seconds, str(self._root)))

    def request_new(self, folder: str) -> None:
        """Scan a sub-folder that has just appeared."""
        now = time.monotonic()
        for seconds in RETURNS:
            self._requests.put((now + seconds, folder))

    def wake(self) -> None:
        """Notice at once that it is to stop."""
        self._requests.put((float("inf"), ""))

    def run(self) -> None:
        """Scan until told to stop."""
        next_full = time.monotonic() + self._rescan
        while not self._halt.is_set():
            self._collect_requests(min([next_full, *(when for when, _ in self._due[:1])]))
            now = time.monotonic()
            folders = self._pop_due(now)
            if now >= next_full or str(self._root) in folders:
                folders = {str(self._root)}
            for folder in sorted(folders):
                next_full = self._try_scan(folder, next_full)

    def _collect_requests(self, until: float) -> None:
        try:
            # Short waits, so that stopping does not take long.
            heapq.heappush(self._due, self._requests.get(timeout=max(0.0, min(until - time.monotonic(), 0.2))))
            while True:
                heapq.heappush(self._due, self._requests.get_nowait())
        except Empty:
            pass

    def _pop_due(self, now: float) -> set[str]:
        folders = set()
        while self._due and self._due[0][0] <= now:
            folders.add(heapq.heappop(self._due)[1])
        return folders

    def _try_scan(self, folder: str, next_full: float) -> float:
        """Scan; the time of the next full scan."""
        try:
            left_out = self._scan(Path(folder))
        except JournalUnavailable as error:
            self._outage.failed(error)
            return self._outage.next_try
        except Exception:
            log.exception("Unexpected while %r was scanned; it is scanned again", printable(folder))
            return time.monotonic() + self._rescan
        self._outage.succeeded(0)
        if folder != str(self._root):
            return next_full
        if left_out is not None:
            self._inbox.put(Scanned(left_out))
        return time.monotonic() + self._rescan

    def _scan(self, folder: Path) -> dict[str, int] | None:
        """Pass on what is new in the folder; how many files are left out, or None when there is no folder."""
        began, files = time.monotonic(), 0
        left_out: Counter[LeftOut] = Counter()
        looks: list[Look] = []
        refusals: dict[str, str] = {}
        if not folder.is_dir():
            return None
        for path, entry in self._pictures(folder, left_out):
            try:
                looks.append(Look.of(path, entry.stat()))
            except (OSError, SourceUnreadable) as error:
                looks.append(Look.nowhere(path))
                refusals[path] = _reason(path, error)
            files += 1
            if len(looks) >= BATCH:
                self._pass_on(looks, refusals)
                looks, refusals = [], {}
        self._pass_on(looks, refusals)
        if folder == self._root and self._seen_until_ns is not None and not self._halt.is_set():
            self._journal.start()
            self._seen_until_ns = None
        seconds = time.monotonic() - began
        if folder == self._root:
            self._last_seconds = seconds
        log.debug("Looked at %d files in %.2f s", files, seconds)
        return {reason.value: count for reason, count in left_out.items() if reason is not LeftOut.TEMPORARY}

    def _pictures(self, folder: Path, left_out: Counter[LeftOut]) -> Iterator[tuple[str, os.DirEntry[str]]]:
        prefix = len(str(self._root).rstrip(os.sep)) + 1
        for entries in walk(folder, recursive=self._recursive, on_error=self._complain):
            siblings = {entry.name for entry in entries}
            for entry in entries:
                if self._halt.is_set():
                    return
                relative = entry.path[prefix:].replace(os.sep, "/")
                reason = self._selection.judge(relative, siblings)
                if reason is None:
                    yield entry.path, entry
                elif reason is not LeftOut.SUFFIX or is_file(entry):
                    left_out[reason] += 1

    def _pass_on(self, looks: list[Look], refusals: dict[str, str]) -> None:
        unknown = self._journal.unknown(looks) if looks else []
        if self._seen_until_ns is not None:
            limit = self._seen_until_ns
            self._journal.see(look for look in unknown if _latest(look) < limit)
            unknown = [look for look in unknown if _latest(look) >= limit]
        if unknown:
            self._inbox.put(Found(unknown, refusals))

    def _complain(self, error: OSError) -> None:
        """A folder that cannot be read: said once."""
        name = str(error.filename)
        if name not in self._complained and not isinstance(error, FileNotFoundError):
            self._complained.add(name)
            log.error("Cannot read the folder %r (%s); its files are not submitted.", printable(name), error.strerror)


def _latest(look: Look) -> int:
    return max(look.mtime_ns, look.changed_ns)


def _reason(path: str, error: OSError | SourceUnreadable) -> str:
    if isinstance(error, SourceUnreadable):
        return error.summary
    try:
        Look.at(path)
    except SourceUnreadable as refusal:
        return refusal.summary
    return str(error)
