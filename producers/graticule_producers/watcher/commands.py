"""`graticule watch`: the watcher with signals, words for people and an exit code."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError

from graticule.errors import GraticuleError
from graticule.settings import Settings
from graticule_producers.watcher.options import WatchOptions, WatchSummary
from graticule_producers.watcher.watcher import OnSubmitted, watch

log = logging.getLogger(__name__)

OK, INCOMPLETE, USAGE = 0, 1, 2
_SIGNALS = ("SIGINT", "SIGTERM", "SIGBREAK")
_SHOWN = 20


def run_watch(settings: Settings, *, on_submitted: OnSubmitted | None = None, **options: Any) -> int:  # noqa: ANN401
    """Watch until Ctrl-C, SIGTERM or what was asked for is reached. `options`: the fields of `WatchOptions`.

    The exit code: 0 every picture was submitted, or stopped by a signal; 1 some were not; 2 it could not begin.
    """
    _quieten_libraries()
    try:
        wanted = WatchOptions.model_validate(options)
        with _stopped_by_signals() as stop:
            summary = watch(wanted, settings, stop=stop, on_submitted=on_submitted)
    except ValidationError as error:
        for mistake in error.errors(include_url=False):
            where = ".".join(str(part) for part in mistake["loc"])
            log.error("--%s: %s, found %r.", where.replace("_", "-"), mistake["msg"], mistake["input"])
        return USAGE
    except GraticuleError as error:
        log.error("%s", error)
        return USAGE
    _tell(summary)
    return OK if _has_done_its_work(wanted, summary) else INCOMPLETE


def _has_done_its_work(options: WatchOptions, summary: WatchSummary) -> bool:
    if options.limit is not None and summary.submitted >= options.limit:
        return True
    return summary.complete or (summary.interrupted and not options.once)


def _tell(summary: WatchSummary) -> None:
    for path, reason in list(summary.unreadable.items())[:_SHOWN]:
        log.warning("Not submitted: %r. %s", path, reason)
    if (more := len(summary.unreadable) - _SHOWN) > 0:
        log.warning("... and %d more.", more)
    log.info("%s", summary.sentence())


@contextmanager
def _stopped_by_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set. A second one ends the process the usual way."""
    stop = threading.Event()
    before: dict[signal.Signals, Any] = {}

    def on_signal(number: int, _frame: object) -> None:
        stop.set()
        signal.signal(number, before[signal.Signals(number)])

    if threading.current_thread() is threading.main_thread():
        for name in _SIGNALS:
            if number := getattr(signal, name, None):
                before[number] = signal.signal(number, on_signal)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _quieten_libraries() -> None:
    """Their remarks about files that are being written are noise here."""
    logging.getLogger("watchfiles").setLevel(logging.WARNING)
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
