"""The threads that carry complete files into the store, a few at a time."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from queue import SimpleQueue

from graticule import formats
from graticule.errors import (
    BadInput,
    GraticuleError,
    MissingPart,
    NotFound,
    SourceUnreadable,
    StoreUnavailable,
    UnreadableImage,
)
from graticule.store import Store, printable
from graticule.submit import Submitter
from graticule_producers.watcher.journal import Journal, JournalUnavailable
from graticule_producers.watcher.looks import Look
from graticule_producers.watcher.messages import (
    Altered,
    Inbox,
    Outcome,
    Postponed,
    Refused,
    Sent,
    Unreadable,
)
from graticule_producers.watcher.options import WatchOptions

log = logging.getLogger(__name__)


class Carrier:
    """Checks that a file is complete, writes the intent into the journal, submits the file, writes that down."""

    def __init__(self, options: WatchOptions, store: Store, journal: Journal, inbox: Inbox) -> None:
        self._options = options
        self._journal = journal
        self._inbox = inbox
        self._submitter = Submitter(store.settings, producer="watcher", store=store)
        self._stream = options.stream_name
        self._tasks: SimpleQueue[tuple[Look, bool] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"watcher-carrier-{number}", daemon=True)
            for number in range(options.threads)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let the threads end when they have done what they were given. Does not wait for them."""
        for _ in self._threads:
            self._tasks.put(None)

    def carry(self, look: Look, *, as_it_is: bool) -> None:
        """Submit a file that stands still; the outcome comes into the inbox. `as_it_is`: even if it is no picture."""
        self._tasks.put((look, as_it_is))

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            self._inbox.put(self._outcome(*task))

    def _outcome(self, look: Look, as_it_is: bool) -> Outcome:
        try:
            return self._carry(look, as_it_is)
        except (UnreadableImage, SourceUnreadable, OSError) as error:
            # Perhaps not complete yet, or locked by the program that writes it (Windows), or gone.
            return Unreadable(look, _sentence(error)) if as_it_is else Refused(look, _sentence(error))
        except (StoreUnavailable, NotFound, JournalUnavailable) as error:
            return Postponed(look, error)
        except (BadInput, MissingPart) as error:
            return Unreadable(look, error.sentence)
        except Exception as error:
            log.exception("Unexpected while %s was submitted", printable(look.path))
            return Unreadable(look, f"{type(error).__name__}: {error}")

    def _carry(self, look: Look, as_it_is: bool) -> Outcome:
        path, options = Path(look.path), self._options
        if not as_it_is:
            formats.check_complete(path)
        frames = self._frames(path, as_it_is)
        if Look.at(look.path) != look:
            return Altered(look)
        intent = self._journal.intend(look)
        upload = self._submitter.upload(path)
        jobs = tuple(
            upload.submit(
                options.model,
                frame=frame,
                parameters=options.parameters,
                stream=self._stream,
                sequence=intent.sequence,
                submitted_at=intent.submitted_at,
                lane=options.lane,
            )
            for frame in range(frames)
        )
        self._journal.submitted(look, jobs)
        return Sent(look, jobs, intent.repeated)

    def _frames(self, path: Path, as_it_is: bool) -> int:
        """Each frame of a file is a job. What cannot be read is one: the worker says what is wrong with it."""
        try:
            return self._submitter.count_frames(path)
        except BadInput:
            if as_it_is:
                return 1
            raise


def _sentence(error: GraticuleError | OSError) -> str:
    if isinstance(error, GraticuleError):
        return error.summary
    name = printable(Path(str(error.filename or "")).name)
    return f"Cannot read {name!r}: {error.strerror or error}."
