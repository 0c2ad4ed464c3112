"""One thread that follows the events of the cluster: it keeps the index, and tells everybody who listens here."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager

from graticule.errors import BrokerUnavailable, GraticuleError
from graticule.events import MAX_EVENTS, Event, Events
from graticule.job_index import JobIndex, Summary, rebuild
from graticule.records import Records
from graticule.settings import Settings
from graticule_producers.gateway import metrics

log = logging.getLogger(__name__)

Entry = tuple[str, Event]
"""A position in the stream of events, and the event."""

_PATIENCE = 0.5
"""Seconds that one question for events may take: this long a stop may wait."""
_WITHOUT_REDIS = 1.0
_MOST_UNREAD = 1000


class TooFarBehind(Exception):
    """A listener is so slow, or was away for so long, that events are lost to it."""


class Dismissed(Exception):
    """The gateway stops: nothing will be told any more."""


class Bell:
    """Collects which of some jobs have ended."""

    def __init__(self) -> None:
        self._heard: set[str] = set()
        self._rung = asyncio.Event()

    def ring(self, job_id: str) -> None:
        """That job has ended."""
        self._heard.add(job_id)
        self._rung.set()

    async def heard(self, patience: float) -> set[str]:
        """The jobs that ended since this was asked last; none after `patience` seconds."""
        try:
            await asyncio.wait_for(self._rung.wait(), patience)
        except TimeoutError:
            return set()
        heard, self._heard = self._heard, set()
        self._rung.clear()
        return heard


class Listener:
    """The events that one client has yet to be told."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Entry | None] = asyncio.Queue(_MOST_UNREAD)
        self._overrun = False
        self._dismissed = False

    def tell(self, entry: Entry) -> None:
        """Add an event; a client that does not read loses its place instead of filling the memory."""
        try:
            self._queue.put_nowait(entry)
        except asyncio.QueueFull:
            self._overrun = True

    def dismiss(self) -> None:
        """Let the listener go."""
        self._dismissed = True
        if self._queue.empty():
            self._queue.put_nowait(None)

    async def next(self, patience: float) -> Entry | None:
        """The next event, or None after `patience` seconds without one. Raises TooFarBehind, Dismissed."""
        if self._dismissed:
            raise Dismissed
        if self._overrun and self._queue.empty():
            raise TooFarBehind
        try:
            return await asyncio.wait_for(self._queue.get(), patience)
        except TimeoutError:
            return None


class EventHub:
    """Follows the events from `start` to `stop`."""

    def __init__(self, settings: Settings, index: JobIndex, records: Records) -> None:
        self.events = Events(settings)
        self.index = index
        self.records = records
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._listeners: set[Listener] = set()
        self._bells: defaultdict[str, set[Bell]] = defaultdict(set)

    def start(self) -> None:
        """Begin to follow; call it in the loop of those who listen."""
        self._loop = asyncio.get_running_loop()
        self._in_thread(self._follow, "events")

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def dismiss(self) -> None:
        """Let everybody go who listens; call it in the loop."""
        for listener in self._listeners:
            listener.dismiss()

    # -- for those who listen, in the loop ------------------------------------------------------------------

    @contextmanager
    def listening(self) -> Iterator[Listener]:
        """Every event from now on."""
        listener = Listener()
        self._listeners.add(listener)
        metrics.set_listeners(len(self._listeners))
        try:
            yield listener
        finally:
            self._listeners.discard(listener)
            metrics.set_listeners(len(self._listeners))

    @contextmanager
    def bell(self, job_ids: Iterable[str]) -> Iterator[Bell]:
        """A bell that rings when one of these jobs has ended."""
        ids, bell = list(job_ids), Bell()
        for job_id in ids:
            self._bells[job_id].add(bell)
        try:
            yield bell
        finally:
            for job_id in ids:
                self._bells[job_id].discard(bell)
                if not self._bells[job_id]:
                    del self._bells[job_id]

    @asynccontextmanager
    async def since(self, position: str) -> AsyncIterator[tuple[list[Entry], Listener]]:
        """What was told after `position`, and a listener for everything that comes then, without a gap.

        Raises TooFarBehind when events after `position` are not kept any more.
        """
        with self.listening() as listener:
            missed = await asyncio.to_thread(self._missed, position) if position else []
            yield missed, listener

    def _missed(self, position: str) -> list[Entry]:
        oldest = self.events.first_id()
        if oldest and as_numbers(position) < as_numbers(oldest):
            raise TooFarBehind
        return self.events.entries(position, limit=2 * MAX_EVENTS)

    def _tell(self, entries: list[Entry]) -> None:
        for entry in entries:
            for bell in self._bells.get(entry[1].job_id, ()):
                bell.ring(entry[1].job_id)
            for listener in self._listeners:
                listener.tell(entry)

    # -- the thread ------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        position: str | None = None
        while not self._stopping.is_set():
            try:
                # What Redis holds after an outage may be older, or nothing: ask again where the index ends.
                position = position or self._begin()
                position = self._step(position)
            except BrokerUnavailable as error:
                log.warning("no events: %s", error)
                position = None
                self._stopping.wait(_WITHOUT_REDIS)
            except Exception:
                log.exception("following the events failed")
                position = None
                self._stopping.wait(_WITHOUT_REDIS)

    def _begin(self) -> str:
        """Where to go on. An index that is lost, or that missed events, is rebuilt beside."""
        position, oldest = self.index.position, self.events.first_id()
        if not position or (oldest and as_numbers(position) < as_numbers(oldest)):
            self._in_thread(self._rebuild, "rebuild")
        return position or "0-0"

    def _step(self, position: str) -> str:
        entries = self.events.entries(position, wait=_PATIENCE)
        if not entries:
            return position
        self.index.add(Summary.of_event(event) for _, event in entries)
        position = entries[-1][0]
        self.index.position = position
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._tell, entries)
        return position

    def _rebuild(self) -> None:
        try:
            log.info("the index is rebuilt: %d jobs", rebuild(self.index, self.records, self._stopping.is_set))
        except GraticuleError as error:
            log.warning("the index is incomplete: %s", error)

    def _in_thread(self, work: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=work, name=name, daemon=True)
        self._threads = [known for known in self._threads if known.is_alive()]
        self._threads.append(thread)
        thread.start()


def as_numbers(position: str) -> tuple[int, int]:
    """A position in an order that can be compared. Raises ValueError for anything else."""
    milliseconds, _, number = position.partition("-")
    return int(milliseconds), int(number or 0)
