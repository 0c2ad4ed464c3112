"""`graticule run`: a folder of pictures in; masks, overlays and tables out."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table
from rich.text import Text

from graticule.choice import Picture, choose
from graticule.client import Client
from graticule.endings import EndedJobs
from graticule.errors import BadInput, GraticuleError, StoreUnavailable
from graticule.jobs import Job, Lane
from graticule.manifest import Manifest
from graticule.meter import Meter
from graticule.outputs import Names, clear_write_errors, write_atomically
from graticule.render import binary_mask, encode_png, overlay
from graticule.results import Failure, Result
from graticule.selection import Selection
from graticule.settings import Settings, env_name
from graticule.store import printable
from graticule.submit import Submitter
from graticule.tables import Entry, Tables

INTERRUPTED = 130
MOST_INTERACTIVE = 10
"""Up to so many pictures somebody waits for the answer; more are a batch."""
MOST_FAILURES_SHOWN = 20

_SENDERS = 4
_WRITERS = 4
_PATIENCE = 60.0
"""Seconds for which the store may be away before the run gives up."""
_LISTEN = 0.5

Outcome = Result | Failure
T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """What a run is asked to do."""

    out: Path
    parameters: dict[str, Any]
    labels: bool
    overlays: bool
    timeout: float | None


def run(
    settings: Settings,
    paths: Sequence[Path],
    *,
    model: str,
    out: Path,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    parameters: dict[str, Any] | None = None,
    labels: bool = False,
    overlays: bool = True,
    timeout: float | None = None,
    console: Console | None = None,
) -> int:
    """Analyse pictures and write what comes out into the folder `out`.

    The exit code is 0 only if every picture succeeded; 1 if not; 130 after Ctrl-C. Raises UnknownModel, BadInput when
    there is nothing to do, and GraticuleError when a file cannot be written.
    """
    console = console or Console(highlight=False, soft_wrap=True)
    options = Options(out=out, parameters=parameters or {}, labels=labels, overlays=overlays, timeout=timeout)
    choice = choose(paths, Selection(tuple(include), tuple(exclude)), out)
    if choice.remark:
        console.print(choice.remark, markup=False)
    if not choice.pictures:
        raise BadInput(f"There are no pictures in {', '.join(printable(str(path)) for path in paths)}.")
    with cluster_for(settings, console) as live:
        client = Client(live, producer="run")
        manifest = client.registry.resolve(model)
        with clear_write_errors(out, advice="Make room or choose another --out, and run the same command again."):
            return _Run(client, manifest, choice.pictures, options, console).execute()


@contextmanager
def cluster_for(settings: Settings, console: Console) -> Iterator[Settings]:
    """The cluster that the settings name, or the one that runs on this machine, or one that is started for now."""
    if any(env_name(field) in os.environ for field in ("s3_url", "redis_url")):
        yield settings
        return
    from graticule.local.cluster import EmbeddedCluster, running_cluster

    if running_cluster(settings):
        yield settings
        return
    console.print(f"No cluster is running: starting one in {settings.data_dir} for this run.", markup=False)
    with EmbeddedCluster(settings, flower=False) as live:
        yield live


class _Run:
    """One run: sends, waits, writes."""

    def __init__(
        self, client: Client, manifest: Manifest, pictures: tuple[Picture, ...], options: Options, console: Console
    ) -> None:
        self.client, self.manifest, self.pictures, self.options = client, manifest, pictures, options
        self.console = console
        # The version is pinned: after a new one is published, the same command measures anew.
        self.model = manifest.reference
        self.lane = Lane.INTERACTIVE if len(pictures) <= MOST_INTERACTIVE else Lane.BULK
        self.colours = {kind.name: kind.colour for kind in manifest.postprocessing.classes}
        self.submitter = Submitter(client.settings, producer="run", store=client.store)
        names = Names()
        self.names = [names.give(picture.relative) for picture in pictures]
        self.stop = threading.Event()
        self.waiting: dict[str, tuple[int, Job]] = {}
        self.tally = _Tally()
        self.began = time.monotonic()

    def execute(self) -> int:
        self.options.out.mkdir(parents=True, exist_ok=True)
        ended = EndedJobs(self.client.settings)
        first = 1 if self.manifest.postprocessing.has_background else 0
        classes = [kind.name for kind in self.manifest.postprocessing.classes[first:]]
        interrupted, trouble = False, None
        with Tables(self.options.out, classes) as tables:
            try:
                self._process(ended, tables)
            except KeyboardInterrupt:
                interrupted = True
            except StoreUnavailable as error:
                trouble = error
            finally:
                self.stop.set()
            sent = {place: job_id for job_id, (place, _) in self.waiting.items()}
            for place in range(len(self.pictures)):
                if place not in self.tally.places:
                    tables.add(place, self._unfinished(place, sent.get(place, "")))
        self._report(interrupted)
        if trouble:
            raise trouble
        if interrupted:
            return INTERRUPTED
        return 0 if self.tally.succeeded == len(self.pictures) else 1

    # -- sending and waiting -------------------------------------------------------------------------------

    def _process(self, ended: EndedJobs, tables: Tables) -> None:
        """Send everything, and take what ends while that goes on."""
        with (
            Meter(self.console, len(self.pictures)) as meter,
            ThreadPoolExecutor(_SENDERS, "send") as senders,
            ThreadPoolExecutor(_WRITERS, "write") as writers,
        ):
            try:
                self._loop(ended, tables, meter, senders, writers)
            finally:
                # Ctrl-C must not wait for what has not begun.
                self.stop.set()
                senders.shutdown(wait=False, cancel_futures=True)
                writers.shutdown(wait=False, cancel_futures=True)

    def _loop(
        self,
        ended: EndedJobs,
        tables: Tables,
        meter: Meter,
        senders: ThreadPoolExecutor,
        writers: ThreadPoolExecutor,
    ) -> None:
        unsent = deque(range(len(self.pictures)))
        sending: set[Future[tuple[int, Job | Entry]]] = set()
        writing: dict[Future[Entry | None], str] = {}
        while unsent or sending or self.waiting or writing:
            if self._is_late():
                return
            while unsent and len(sending) < 2 * _SENDERS:
                sending.add(senders.submit(self._send, unsent.popleft()))
            for future in _done(sending):
                sending.discard(future)
                self._sent(*future.result(), tables, meter)
            busy = set(writing.values())
            for job_id in ended.next(self.waiting, self._pause(sending, writing)):
                if job_id not in busy:
                    place, job = self.waiting[job_id]
                    writing[writers.submit(self._take, place, job)] = job_id
            for future in _done(writing):
                job_id = writing.pop(future)
                if entry := future.result():
                    place, _ = self.waiting.pop(job_id)
                    self._enter(place, entry, tables, meter)
            meter.tick()

    def _pause(self, sending: set[Future[Any]], writing: dict[Future[Any], str]) -> float:
        """Seconds to listen for events: none while there is other work; that is waited for instead."""
        if sending or writing:
            wait_for([*sending, *writing], timeout=0.05, return_when=FIRST_COMPLETED)
            return 0.0
        return _LISTEN if self.options.timeout is None else min(_LISTEN, self.options.timeout)

    def _sent(self, place: int, sent: Job | Entry, tables: Tables, meter: Meter) -> None:
        if isinstance(sent, Entry):
            self._enter(place, sent, tables, meter)
        else:
            self.waiting[sent.job_id] = (place, sent)

    def _enter(self, place: int, entry: Entry, tables: Tables, meter: Meter) -> None:
        self.tally.count(place, entry)
        tables.add(place, entry)
        meter.count(entry.status == "succeeded")

    def _is_late(self) -> bool:
        timeout = self.options.timeout
        return timeout is not None and time.monotonic() - self.began > timeout

    # -- one picture (in threads) --------------------------------------------------------------------------

    def _send(self, place: int) -> tuple[int, Job | Entry]:
        """Send one picture; or its entry at once when it is done already or cannot be sent."""
        path = self.pictures[place].path
        try:
            finished = self._patiently(lambda: self._finished_before(path))
            if finished:
                return place, self._written(place, finished)
            job = self._patiently(
                lambda: self.submitter.submit_file(path, self.model, parameters=self.options.parameters, lane=self.lane)
            )
        except StoreUnavailable:
            raise
        except GraticuleError as error:
            return place, self._entry(place, None, "failed", error=error.kind, message=str(error))
        return place, job

    def _finished_before(self, path: Path) -> Result | None:
        """The result of an earlier run with the same file and model."""
        job_id = self.submitter.identity_of_file(path, self.model, self.options.parameters)
        outcome = self.client.outcome(job_id)
        return outcome if isinstance(outcome, Result) else None

    def _take(self, place: int, job: Job) -> Entry | None:
        """Write what a job ended in; None while it has not."""
        outcome = self._patiently(lambda: self.client.records.outcome_of(job))
        if isinstance(outcome, Result):
            return self._written(place, outcome)
        if isinstance(outcome, Failure):
            return self._entry(place, outcome, "failed", error=outcome.error, message=outcome.message)
        return None

    def _written(self, place: int, result: Result) -> Entry:
        """Write the pictures of a result; if the store has lost a part of it, that is this picture's failure."""
        try:
            return self._patiently(lambda: self._write(place, result))
        except StoreUnavailable:
            raise
        except GraticuleError as error:
            return self._entry(place, None, "failed", error=error.kind, message=str(error))

    def _write(self, place: int, result: Result) -> Entry:
        name = f"{self.names[place]}.png"
        mask = self.client.mask(result)
        files = {"masks": encode_png(binary_mask(mask))}
        if self.options.labels:
            files["labels"] = self.client.store.get("results", result.artifacts["mask"].key)
        if self.options.overlays:
            drawn = overlay(self.client.picture(result), mask, result.segmentation.objects, self.colours)
            files["overlays"] = encode_png(drawn)
        for folder, data in files.items():
            write_atomically(self.options.out / folder / name, data)
        return self._entry(
            place,
            result,
            "succeeded",
            mask=f"masks/{name}",
            overlay=f"overlays/{name}" if self.options.overlays else "",
        )

    def _patiently(self, action: Callable[[], T]) -> T:
        """Do it, and wait for a store that is away for a while."""
        gives_up = time.monotonic() + _PATIENCE
        while True:
            try:
                return action()
            except StoreUnavailable:
                if time.monotonic() > gives_up or self.stop.wait(1):
                    raise

    # -- entries and the report ----------------------------------------------------------------------------

    def _entry(self, place: int, outcome: Outcome | None, status: Any, **values: str) -> Entry:  # noqa: ANN401
        path = self.pictures[place].path
        if outcome:
            values["job_id"] = outcome.job.job_id
        return Entry(file=printable(path.name), path=printable(str(path)), outcome=outcome, status=status, **values)

    def _unfinished(self, place: int, job_id: str) -> Entry:
        message = "Not finished when the run ended; running the same command again goes on."
        return self._entry(place, None, "waiting", error="ResultTimeout", message=message, job_id=job_id)

    def _report(self, interrupted: bool) -> None:
        seconds, tally = time.monotonic() - self.began, self.tally
        unfinished = len(self.pictures) - len(tally.places)
        parts = [f"{tally.succeeded} succeeded", f"{tally.failed} failed"]
        if unfinished:
            parts.append(f"{unfinished} not finished")
        speed = f"{seconds:.1f} s ({len(tally.places) / max(seconds, 1e-3):.1f} images/s)"
        self.console.print(
            f"{_pictures(len(self.pictures))}: {', '.join(parts)}, {tally.objects} objects, in {speed}.",
            markup=False,
        )
        if tally.failed:
            self._print_failures()
        if unfinished:
            why = "Interrupted" if interrupted else "Stopped waiting"
            self.console.print(
                f"{why}. What was sent is kept: run the same command again to go on where it stopped.", markup=False
            )
        self.console.print(f"Written: {self.options.out} (results.csv, objects.csv, masks, ...)", markup=False)

    def _print_failures(self) -> None:
        table = Table("Picture", "Error", "Reason", title="Failed", title_justify="left")
        for entry in self.tally.failures:
            table.add_row(Text(entry.path), Text(entry.error), Text(entry.message))
        self.console.print(table)
        if more := self.tally.failed - len(self.tally.failures):
            self.console.print(f"... and {more} more; see results.csv.", markup=False)


@dataclass
class _Tally:
    """What came out so far; no results are kept, there may be a hundred thousand."""

    places: set[int] = field(default_factory=set)
    succeeded: int = 0
    failed: int = 0
    objects: int = 0
    failures: list[Entry] = field(default_factory=list)

    def count(self, place: int, entry: Entry) -> None:
        self.places.add(place)
        if isinstance(entry.outcome, Result):
            self.succeeded += 1
            self.objects += entry.outcome.segmentation.count
            return
        self.failed += 1
        if len(self.failures) < MOST_FAILURES_SHOWN:
            self.failures.append(entry)


def _done(futures: Iterable[Future[T]]) -> list[Future[T]]:
    return [future for future in futures if future.done()]


def _pictures(number: int) -> str:
    return f"{number} picture" if number == 1 else f"{number} pictures"
