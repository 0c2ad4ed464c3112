"""The main loop: decides which file is looked at, tried and sent when. The threads around it do the waiting."""

from __future__ import annotations

import heapq
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

from graticule.errors import SourceUnreadable, StoreUnavailable
from graticule.jobs import Job
from graticule.registry import Registry
from graticule.selection import LeftOut, NaturalKey, natural_key
from graticule.settings import Settings
from graticule.store import Store, printable
from graticule_producers.watcher.carrier import Carrier
from graticule_producers.watcher.changes import ChangeListener
from graticule_producers.watcher.journal import Journal, JournalUnavailable, Place, journal_path
from graticule_producers.watcher.looks import LONGEST_INTERVAL, STILL, Candidate, Look
from graticule_producers.watcher.messages import (
    Altered,
    Changed,
    Found,
    Inbox,
    Message,
    Postponed,
    Refused,
    Scanned,
    Sent,
    Unreadable,
)
from graticule_producers.watcher.options import WatchOptions, WatchSummary
from graticule_producers.watcher.outage import Outage
from graticule_producers.watcher.returns import ResultsFolder, Returner
from graticule_producers.watcher.scanner import Scanner

log = logging.getLogger(__name__)

CLOCK_TICK_NS = 10_000_000
"""File systems take the time from a clock that ticks less often than this process's."""
OnSubmitted = Callable[[Path, Job], None]

LONGEST_WAIT = 0.2
"""Seconds after which the loop looks at least whether it was told to stop."""
STATUS_INTERVAL = 10.0
STORE_RETRIES = 1
"""Failed requests are repeated this often before a picture goes back into the queue."""
PATIENCE_WITH_THREADS = 5.0
"""Seconds that a scan may take to notice that it is to stop."""
PATIENCE_WITH_LAST = 60.0
"""Seconds that the pictures which are on their way when the watcher is stopped may take."""


def watch(
    options: WatchOptions,
    settings: Settings,
    *,
    stop: threading.Event | None = None,
    on_submitted: OnSubmitted | None = None,
    on_ready: Callable[[], None] | None = None,
) -> WatchSummary:
    """Watch a folder until `stop` is set, or what the options say is reached.

    `on_submitted` is called with each picture's path and job, `on_ready` once when the folder has been looked through
    and every later file will be noticed; both from this thread.
    Raises SourceUnreadable (no such folder), UnknownModel, JournalUnavailable; later trouble is logged and waited out.
    """
    began_ns = time.time_ns() - CLOCK_TICK_NS
    root = options.root
    if not root.is_dir():
        raise SourceUnreadable(f"There is no folder {printable(str(root))!r}.", data="Nothing is watched.")
    store = Store(settings, retries=STORE_RETRIES)
    _check_model(store, options.model)
    journal = Journal(options.journal or journal_path(settings, root, options.model), root)
    try:
        seen_until_ns = _seen_until(options, journal, began_ns)
        hooks = _Hooks(on_submitted, on_ready)
        return _Watcher(options, store, journal, stop or threading.Event(), hooks, seen_until_ns).run()
    finally:
        journal.close()


def _check_model(store: Store, model: str) -> None:
    try:
        Registry(store).resolve(model)
    except StoreUnavailable as error:
        log.warning("%s Whether there is a model %r will show when it answers.", error, model)


def _seen_until(options: WatchOptions, journal: Journal, began_ns: int) -> int | None:
    """Files from before this time count as seen; None: whatever the journal does not know is taken."""
    if not (options.existing or options.once):
        return began_ns if journal.is_new else None
    journal.forget_seen()
    if journal.is_new:
        journal.start()
    return None


@dataclass(frozen=True)
class _Hooks:
    """What the caller wants to be told. Its mistakes do not stop the watcher."""

    on_submitted: OnSubmitted | None
    on_ready: Callable[[], None] | None

    def submitted(self, path: Path, job: Job) -> None:
        try:
            if self.on_submitted:
                self.on_submitted(path, job)
        except Exception:
            log.exception("The on_submitted hook failed; the picture is submitted")

    def ready(self) -> None:
        try:
            if self.on_ready:
                self.on_ready()
        except Exception:
            log.exception("The on_ready hook failed")


@dataclass(slots=True)
class _Picture:
    """A file on its way into the store."""

    candidate: Candidate
    due: float | None = None
    """When it is looked at again; None while it is ready or with a carrier."""
    touched: bool = False
    """Whether the operating system reported something while a carrier had it."""
    carried: bool = False


class _Watcher:
    def __init__(
        self,
        options: WatchOptions,
        store: Store,
        journal: Journal,
        stop: threading.Event,
        hooks: _Hooks,
        seen_until_ns: int | None,
    ) -> None:
        self._options = options
        self._root = options.root
        self._selection = options.selection
        self._journal = journal
        self._stop = stop
        self._hooks = hooks
        self._halt = threading.Event()
        self._inbox: Inbox = SimpleQueue()
        self._pictures: dict[str, _Picture] = {}
        self._agenda: list[tuple[float, str]] = []
        self._ready: list[tuple[int, NaturalKey, str]] = []
        self._carried = 0
        self._scanned = False
        self._told_about_copies = False
        self._left_out_since: dict[str, LeftOut] = {}
        self._summary = WatchSummary(known=journal.submitted_before)
        self._outages = {StoreUnavailable: Outage("the store", log), JournalUnavailable: Outage("the journal", log)}
        self._began = time.monotonic()
        self._next_status = self._began + STATUS_INTERVAL
        self._reported = 0
        self._scanner = Scanner(
            self._root,
            self._selection,
            journal,
            self._inbox,
            self._halt,
            recursive=options.recursive,
            rescan=options.rescan,
            seen_until_ns=seen_until_ns,
        )
        self._listener = ChangeListener(
            self._root,
            self._inbox,
            self._halt,
            recursive=options.recursive,
            polling=options.polling,
            on_gap=self._scanner.request,
        )
        self._carrier = Carrier(options, store, journal, self._inbox)
        results = ResultsFolder(self._root, legacy_fraction=options.legacy_fraction)
        self._returner = Returner(store, journal, results) if options.write_back else None

    def run(self) -> WatchSummary:
        """Everything from the first scan to the summary."""
        self._greet()
        self._carrier.start()
        self._scanner.start()
        if self._returner:
            self._returner.start()
        if self._options.once:
            self._scanner.request()
        else:
            self._listener.start()
        try:
            while not self._is_done():
                self._step()
            self._finish()
            self._await_results()
        finally:
            self._end_threads()
        return self._summed_up()

    def _end_threads(self) -> None:
        self._halt.set()
        self._carrier.stop()
        self._scanner.wake()
        if self._returner:
            self._returner.halt()
        for thread in (self._scanner, self._listener, self._returner):
            if thread and thread.ident:
                thread.join(PATIENCE_WITH_THREADS)

    def _greet(self) -> None:
        name = printable(str(self._root))
        log.info("Watching %r for %s (%d submitted by earlier runs).", name, self._options.model, self._summary.known)
        if self._journal.begun_before:
            log.warning(
                "%d pictures were on their way when the last run ended; they are sent again as the same jobs.",
                self._journal.begun_before,
            )

    # -- the loop ------------------------------------------------------------------------------------------------

    def _is_done(self) -> bool:
        options = self._options
        if self._stop.is_set():
            self._summary.interrupted = True
            return True
        if options.limit is not None and self._summary.submitted >= options.limit:
            return True
        if options.duration is not None and time.monotonic() - self._began >= options.duration:
            return True
        return options.once and self._scanned and not self._pictures

    def _step(self) -> None:
        """Take what has come in, look at what is due, hand out what is ready."""
        with suppress(Empty):
            self._handle(self._inbox.get(timeout=self._time_to_wait()))
            while True:
                self._handle(self._inbox.get_nowait())
        self._look_at_due()
        self._hand_out()
        self._report_now_and_then()

    def _time_to_wait(self) -> float:
        due = self._agenda[0][0] if self._agenda else float("inf")
        return min(max(0.0, due - time.monotonic()), LONGEST_WAIT)

    def _handle(self, message: Message) -> None:
        match message:
            case Changed():
                self._on_changed(message)
            case Found():
                self._on_found(message)
            case Scanned():
                self._on_scanned(message)
            case _:
                self._carried -= 1
                self._on_outcome(message)

    def _finish(self) -> None:
        """Wait for the pictures that the carriers have."""
        deadline = time.monotonic() + PATIENCE_WITH_LAST
        while self._carried and time.monotonic() < deadline:
            with suppress(Empty):
                message = self._inbox.get(timeout=LONGEST_WAIT)
                if not isinstance(message, (Changed, Found, Scanned)):
                    self._handle(message)

    def _await_results(self) -> None:
        """Who takes what is there and stops wants its results; who is interrupted gets them with the next run."""
        wanted = self._options.once or self._options.limit is not None
        if not (self._returner and wanted and self._returner.due) or self._summary.interrupted:
            return
        log.info("All is sent; waiting for %d results.", self._returner.due)
        while self._returner.due:
            if self._stop.wait(LONGEST_WAIT):
                self._summary.interrupted = True
                return

    def _summed_up(self) -> WatchSummary:
        summary = self._summary
        for reason, count in Counter(self._left_out_since.values()).items():
            summary.left_out[reason.value] = summary.left_out.get(reason.value, 0) + count
        summary.waiting = len(self._pictures)
        if self._returner:
            summary.returned, summary.due = self._returner.returned, self._returner.due
        summary.seen_before = self._journal.seen_before
        return summary

    # -- what comes in --------------------------------------------------------------------------------------------

    def _on_changed(self, changed: Changed) -> None:
        fresh: list[Look] = []
        for path in changed.added | changed.other:
            if picture := self._pictures.get(path):
                self._touch(path, picture)
            elif path in changed.added and os.path.isdir(path):  # noqa: PTH112
                self._on_new_folder(path)
            elif self._wants(path) and (look := self._first_look(path, path in changed.added)):
                fresh.append(look)
        self._take_up(fresh)

    def _on_new_folder(self, path: str) -> None:
        if self._options.recursive:
            self._scanner.request_new(path)
        if self._wants(path):
            self._first_look(path, complain=True)

    def _touch(self, path: str, picture: _Picture) -> None:
        picture.touched = True
        if picture.due is not None:
            self._look_again(path, picture)

    def _wants(self, path: str) -> bool:
        reason = self._selection.reason(Path(path), self._root)
        if reason is not None and reason not in (LeftOut.TEMPORARY, LeftOut.SUFFIX):
            self._left_out_since[path] = reason
        if reason is LeftOut.BESIDE_JPEG:
            self._tell_about_copies()
        return reason is None

    def _on_scanned(self, scanned: Scanned) -> None:
        if not self._scanned:
            self._scanned = True
            self._hooks.ready()
        self._left_out_since.clear()
        self._summary.left_out = dict(scanned.left_out)
        if LeftOut.BESIDE_JPEG in scanned.left_out:
            self._tell_about_copies()

    def _tell_about_copies(self) -> None:
        if not self._told_about_copies:
            self._told_about_copies = True
            log.info(
                "PNG and TIFF files beside a JPEG of the same name are left out: they are its annotation or a copy"
                " of it. To take them name them, e.g. --include '*.png'."
            )

    def _first_look(self, path: str, complain: bool) -> Look | None:
        try:
            return Look.at(path)
        except SourceUnreadable as error:
            if complain:
                self._give_up(Look.nowhere(path), error.summary)
            return None

    def _take_up(self, looks: list[Look]) -> None:
        try:
            unknown = self._journal.unknown(looks) if looks else []
        except JournalUnavailable as error:
            self._outages[JournalUnavailable].failed(error)
            self._scanner.request()
            return
        self._begin(unknown)

    def _on_found(self, found: Found) -> None:
        for path, reason in found.refusals.items():
            self._give_up(Look.nowhere(path), reason)
        self._begin(look for look in found.looks if look.path not in found.refusals)

    def _begin(self, looks: Iterable[Look]) -> None:
        now = time.monotonic()
        for look in looks:
            if look.path not in self._pictures:
                picture = self._pictures[look.path] = _Picture(Candidate(look, since=now))
                self._schedule(look.path, picture, now + STILL)

    def _on_outcome(self, outcome: Sent | Refused | Altered | Unreadable | Postponed) -> None:
        path = outcome.look.path
        picture = self._pictures[path]
        picture.carried = False
        match outcome:
            case Sent():
                self._on_sent(outcome)
            case Unreadable():
                self._give_up(outcome.look, outcome.reason)
            case Postponed():
                self._outage_of(outcome.error).failed(outcome.error)
                self._make_ready(path, picture)
            case Refused():
                wait = picture.candidate.refuse(outcome.reason)
                self._schedule(path, picture, time.monotonic() + wait)
            case Altered():
                self._schedule(path, picture, time.monotonic())
        if picture.touched and path not in self._pictures:
            self._take_up([look] if (look := self._first_look(path, complain=False)) else [])

    def _on_sent(self, sent: Sent) -> None:
        self._pictures.pop(sent.look.path)
        for outage in self._outages.values():
            outage.succeeded(len(self._pictures))
        self._summary.submitted += 1
        self._summary.resent += sent.repeated
        self._summary.unreadable.pop(self._below(sent.look.path), None)
        below = os.path.relpath(sent.look.path, self._root)
        for job in sent.jobs:
            log.debug("%r is job %s", self._below(sent.look.path), job.job_id)
            if self._returner:
                self._returner.expect(job.job_id, Place(below, job.image.frame if len(sent.jobs) > 1 else None))
            self._hooks.submitted(Path(sent.look.path), job)

    def _give_up(self, look: Look, reason: str) -> None:
        self._pictures.pop(look.path, None)
        self._summary.unreadable[self._below(look.path)] = reason
        log.warning("%s It is tried again when it changes.", reason)
        self._journal.unreadable(look, reason)

    # -- what is done about it ---------------------------------------------------------------------------------------

    def _schedule(self, path: str, picture: _Picture, when: float) -> None:
        picture.due = when
        heapq.heappush(self._agenda, (when, path))

    def _look_at_due(self) -> None:
        now = time.monotonic()
        while self._agenda and self._agenda[0][0] <= now:
            when, path = heapq.heappop(self._agenda)
            picture = self._pictures.get(path)
            if picture and picture.due == when:
                self._look_again(path, picture)

    def _look_again(self, path: str, picture: _Picture) -> None:
        now, candidate = time.monotonic(), picture.candidate
        try:
            look = Look.at(path)
        except SourceUnreadable as error:
            if self._root.is_dir():
                self._give_up(Look.nowhere(path), error.summary)
            else:  # it will come back with its folder
                self._schedule(path, picture, now + LONGEST_INTERVAL)
            return
        candidate.see(look, now)
        missing = candidate.missing(now)
        if missing:
            self._schedule(path, picture, now + missing)
        else:
            self._make_ready(path, picture)

    def _make_ready(self, path: str, picture: _Picture) -> None:
        picture.due = None
        heapq.heappush(self._ready, (picture.candidate.look.mtime_ns, natural_key(path), path))

    def _hand_out(self) -> None:
        while self._ready and self._carried < self._places():
            _, _, path = heapq.heappop(self._ready)
            picture = self._pictures[path]
            candidate = picture.candidate
            picture.carried, picture.touched = True, False
            self._carried += 1
            settled = candidate.has_settled(self._options.settle, time.monotonic())
            self._carrier.carry(candidate.look, as_it_is=settled and bool(candidate.refusal))

    def _places(self) -> int:
        """Pictures that may be with the carriers now."""
        places = self._options.threads + 2  # a thread that is done finds the next one waiting
        if self._options.limit is not None:
            places = min(places, self._options.limit - self._summary.submitted)
        tries = [outage.next_try for outage in self._outages.values() if outage.is_on]
        if tries:
            return 1 if max(tries) <= time.monotonic() else 0
        return places

    def _outage_of(self, error: Exception) -> Outage:
        return next(outage for kind, outage in self._outages.items() if isinstance(error, kind))

    def _report_now_and_then(self) -> None:
        now = time.monotonic()
        if now < self._next_status:
            return
        self._next_status = now + STATUS_INTERVAL
        submitted, waiting = self._summary.submitted, len(self._pictures)
        if submitted != self._reported:
            rate = (submitted - self._reported) / STATUS_INTERVAL
            log.info("%d submitted (%.1f/s), %d waiting, %d unreadable.", submitted, rate, waiting, self._unreadable)
            self._reported = submitted

    @property
    def _unreadable(self) -> int:
        return len(self._summary.unreadable)

    def _below(self, path: str) -> str:
        """The path below the folder, as text that can be printed."""
        return printable(path.removeprefix(str(self._root)).lstrip(os.sep))
