"""Events of the operating system about a folder, and the loud complaint when the folder is gone."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from watchfiles import Change
from watchfiles._rust_notify import RustNotify, WatchfilesRustInternalError  # `watchfiles.watch` starts too late

from graticule.store import printable
from graticule_producers.watcher.messages import Changed, Inbox

log = logging.getLogger(__name__)

STEP_MS = 10
DEBOUNCE_MS = 50
POLL_MS = 1000
CHECK = 0.5
"""Seconds between two looks whether the folder is still the same one."""
FIRST_COMPLAINT = 5.0
LONGEST_COMPLAINT = 300.0


class ChangeListener(threading.Thread):
    """Passes events on until it is told to stop; starts anew when the folder went and came back."""

    def __init__(
        self,
        root: Path,
        inbox: Inbox,
        stop: threading.Event,
        *,
        recursive: bool,
        polling: bool,
        on_gap: Callable[[], None],
    ) -> None:
        """`on_gap` is called whenever events may have been missed, also once at the start."""
        super().__init__(name="watcher-changes", daemon=True)
        self._root = root
        self._inbox = inbox
        self._halt = stop
        self._recursive = recursive
        self._polling = polling
        self._on_gap = on_gap

    def run(self) -> None:
        """Listen; what ends one round of listening is repaired before the next."""
        while not self._halt.is_set():
            if not self._await_folder():
                return
            try:
                self._listen()
            except WatchfilesRustInternalError as error:
                # A name that is not UTF-8 stops the listener. The scan that follows finds the file.
                log.debug("%s", printable(str(error)))
            except OSError as error:
                self._fall_back(error)
            except Exception:
                log.exception("Unexpected while listening for changes; listening again, and the regular scans go on")
                self._halt.wait(FIRST_COMPLAINT)

    def _listen(self) -> None:
        identity = _identity(self._root)
        # Events carry the spelling of the path that is listened to, on macOS the resolved one.
        listened = str(self._root.resolve())
        checked = time.monotonic()
        with RustNotify([listened], False, self._polling, POLL_MS, self._recursive, True) as notify:
            self._on_gap()
            while True:
                changes = notify.watch(DEBOUNCE_MS, STEP_MS, int(CHECK * 1000), self._halt)
                if changes == "stop":
                    return
                if not isinstance(changes, str):
                    self._pass_on(changes, listened)
                if time.monotonic() - checked >= CHECK:
                    if _identity(self._root) != identity:
                        return
                    checked = time.monotonic()

    def _pass_on(self, changes: Iterable[tuple[int, str]], listened: str) -> None:
        spelled = listened, str(self._root)
        added = {_respell(path, *spelled) for change, path in changes if change == Change.added}
        other = {_respell(path, *spelled) for change, path in changes if change != Change.added}
        self._inbox.put(Changed(frozenset(added), frozenset(other - added)))

    def _await_folder(self) -> bool:
        """Wait until the folder is there; False when told to stop meanwhile."""
        if _identity(self._root):
            return True
        began, name = time.monotonic(), printable(str(self._root))
        next_complaint, pause = 0.0, FIRST_COMPLAINT
        while not _identity(self._root):
            if time.monotonic() >= next_complaint:
                log.error(
                    "The watched folder %r is gone; nothing can be submitted from it. Waiting for it to come back.",
                    name,
                )
                next_complaint, pause = time.monotonic() + pause, min(pause * 2, LONGEST_COMPLAINT)
            if self._halt.wait(CHECK):
                return False
        log.warning("The watched folder %r is back after %.0f s.", name, time.monotonic() - began)
        return True

    def _fall_back(self, error: OSError) -> None:
        """Listening failed although the folder is there: usually the system's limit of watched folders."""
        if not _identity(self._root):
            return
        if not self._polling:
            log.error("The operating system reports no changes (%s). Looking every %d ms instead.", error, POLL_MS)
            self._polling = True
            return
        log.error("Cannot listen for changes (%s). Trying again; the regular scans go on.", error)
        self._halt.wait(FIRST_COMPLAINT)


def _identity(folder: Path) -> tuple[int, int] | None:
    """What tells a folder from another one of the same name; None when there is none."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if folder.is_dir() else None


def _respell(path: str, listened: str, root: str) -> str:
    return root + path[len(listened) :] if path.startswith(listened) else os.path.normpath(path)
