"""`graticule demo`: a simulated camera, a watcher and a cluster, and pictures becoming results before one's eyes.

Every demo works in a fresh folder `run-001`, `run-002`, ... and deletes nothing. The cluster's data are kept beside it.
"""

from __future__ import annotations

import importlib.util
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePath
from urllib.parse import quote

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from graticule.client import Client
from graticule.errors import BadInput, BrokerUnavailable, ClusterError, GraticuleError, StoreUnavailable
from graticule.events import Events
from graticule.jobs import utc_now
from graticule.local.child import Child, Part, Reaper
from graticule.manifest import Manifest
from graticule.outputs import Names, clear_write_errors, write_atomically
from graticule.render import encode_png, overlay
from graticule.results import Failure, Result
from graticule.selection import Selection
from graticule.settings import Settings, load_settings

INTERRUPTED = 130
STALLED = 90.0
"""Seconds without a result after which a demo that expects one gives up."""

_SHOWN = 12
_BEST = 5
_LOOK = 2.0
"""Seconds between two looks at the store: events may be lost, it is the truth."""
_LISTEN = 0.25


def demo(
    settings: Settings,
    *,
    once: int | None = None,
    rate: float = 4.0,
    folder: Path | None = None,
    directory: Path = Path("graticule-demo"),
    model: str = "tile-defects",
    seed: int = 1,
    console: Console | None = None,
) -> int:
    """Show pictures becoming results until Ctrl-C, until `once` results, or until `folder` is done.

    The exit code is 0 only if everything that was waited for succeeded.
    """
    from graticule.local.cluster import EmbeddedCluster

    console = console or Console(highlight=False, soft_wrap=True)
    expected = _expected(folder, once)
    with clear_write_errors(directory):
        place = _Place.make(directory)
    began = time.monotonic()
    with _terminated_like_interrupted():
        console.print(f"Starting a cluster in {place.cluster} ...", markup=False)
        own = load_settings(data_dir=place.cluster, log_level=settings.log_level)
        with EmbeddedCluster(own, gateway=_has_gateway()) as live:
            show = _Show(Client(live, producer="demo"), model, place, expected, began, console)
            with _children(live, place, model, folder, once, rate, seed) as children:
                interrupted = show.run(children)
            return show.finish(interrupted)


@dataclass(frozen=True)
class _Place:
    """Folders of one demo."""

    run: Path
    cluster: Path

    @classmethod
    def make(cls, directory: Path) -> _Place:
        """Make the folder of a new run; several demos may do so at the same time."""
        directory.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            try:
                (run := directory / f"run-{number:03d}").mkdir()
            except FileExistsError:
                number += 1
                continue
            (run / "pictures").mkdir()
            (run / "logs").mkdir()
            return cls(run=run, cluster=directory / "cluster")

    @property
    def pictures(self) -> Path:
        return self.run / "pictures"

    @property
    def stream(self) -> str:
        """Name of the series; absolute, so that two demos do not share one."""
        return f"demo {self.run.absolute().name} {self.run.absolute().parent}"


@contextmanager
def _children(
    settings: Settings, place: _Place, model: str, folder: Path | None, once: int | None, rate: float, seed: int
) -> Iterator[list[Child]]:
    """The watcher, and the simulated camera unless a folder was given; ended whatever happens."""
    watched = folder or place.pictures
    watch = ["watch", str(watched), "--model", model, "--existing", "--stream", place.stream]
    watch += ["--journal", str(place.run / "journal.sqlite")]
    simulate = ["simulate", "tiles", "--out", str(watched), "--rate", f"{rate:g}", "--seed", str(seed)]
    if once:
        watch += ["--limit", str(once)]
        simulate += ["--count", str(once)]
    commands = {"watcher": watch} if folder else {"watcher": watch, "simulator": simulate}
    with ExitStack() as stack:
        reaper = Reaper()
        stack.callback(reaper.close)
        children = []
        for name, arguments in commands.items():
            part = Part(name, [sys.executable, "-m", "graticule", *arguments], environment=settings.to_env())
            child = Child(part, place.run / "logs" / f"{name}.log", reaper)
            child.start()
            stack.callback(child.stop)
            children.append(child)
        yield children


@dataclass(frozen=True)
class Finished:
    """What became of one picture."""

    job_id: str
    name: str
    succeeded: bool
    count: int
    area_fraction: float
    classes: str
    seconds: float
    message: str

    @classmethod
    def of(cls, outcome: Result | Failure) -> Finished:
        """Keep of an outcome what the demo shows."""
        job = outcome.job
        measured = outcome.segmentation if isinstance(outcome, Result) else None
        kinds = measured.count_by_class.items() if measured else ()
        return cls(
            job_id=job.job_id,
            name=job.image.filename,
            succeeded=measured is not None,
            count=measured.count if measured else 0,
            area_fraction=measured.area_fraction if measured else 0.0,
            classes=", ".join(f"{number} {kind}" for kind, number in kinds if number),
            seconds=max(0.0, (outcome.completed_at - job.submitted_at).total_seconds()),
            message=outcome.message if isinstance(outcome, Failure) else "",
        )


@dataclass
class _Arrivals:
    """Finds the outcomes of one stream: told by events, and looked up in the store now and then."""

    client: Client
    stream: str
    since: datetime = field(default_factory=utc_now)
    waiting: int = 0
    """Jobs that had a pending record at the last look."""
    _position: str | None = None
    _looked: float = 0.0
    _recorded: set[str] = field(default_factory=set)
    _known: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._events = Events(self.client.settings)
        self._listen(0)

    def next(self) -> list[Result | Failure]:
        """Outcomes that are new, after a short wait."""
        candidates = self._listen(_LISTEN)
        if time.monotonic() - self._looked > _LOOK:
            candidates += self._look()
        fresh = [job_id for job_id in dict.fromkeys(candidates) if job_id not in self._known]
        return [outcome for job_id in fresh if (outcome := self._outcome(job_id))]

    def _outcome(self, job_id: str) -> Result | Failure | None:
        outcome = self.client.outcome(job_id)
        if outcome:
            self._known.add(job_id)
        return outcome if outcome and outcome.job.stream == self.stream else None

    def _listen(self, wait: float) -> list[str]:
        try:
            if self._position is None:
                self._position = self._events.last_id()
            events, self._position = self._events.read(self._position, wait=wait)
        except BrokerUnavailable:
            self._position = None
            time.sleep(_LISTEN)
            return []
        return [event.job_id for event in events if event.stream == self.stream]

    def _look(self) -> list[str]:
        """Jobs whose pending record has gone: they have ended, whether or not an event told."""
        self._looked = time.monotonic()
        pending = {key.job_id for key in self.client.records.oldest_pending() if key.submitted_at >= self.since}
        self.waiting = len(pending)
        gone = self._recorded - pending - self._known
        self._recorded |= pending
        return list(gone)


class _Show:
    """The demo as it is seen: a table that lives, or lines in a log; then a summary."""

    def __init__(
        self, client: Client, model: str, place: _Place, expected: int | None, began: float, console: Console
    ) -> None:
        self.client, self.place, self.expected, self.began, self.console = client, place, expected, began, console
        self.manifest: Manifest = client.registry.resolve(model)
        self.arrivals = _Arrivals(client, place.stream)
        self.finished: list[Finished] = []
        self.newest: deque[Finished] = deque(maxlen=_SHOWN)
        self.flower = flower_address(client.settings)
        self.page = page_address(client.settings, place.stream)
        self.last = time.monotonic()
        self.first: float | None = None

    def run(self, children: list[Child]) -> bool:
        """Show results until there are enough; True when Ctrl-C ended it."""
        self.console.print(f"Model {self.manifest.reference}: {self.manifest.title}", markup=False)
        if self.page:
            self.console.print(f"The page, on which you can watch them: {self.page}", markup=False)
        if self.flower:
            self.console.print(f"Flower, the page that shows the queues: {self.flower}", markup=False)
        live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else nullcontext()
        try:
            with live:
                while not self._is_over():
                    self._step(children, live if isinstance(live, Live) else None)
        except KeyboardInterrupt:
            return True
        return False

    def finish(self, interrupted: bool) -> int:
        """Print the summary and give the exit code."""
        failed = [one for one in self.finished if not one.succeeded]
        lines = [f"{len(self.finished)} pictures became results, {len(failed)} of them failures, {self._speed}."]
        if self.first:
            lines[0] += f" The first one came {self.first - self.began:.1f} s after the start."
        lines += [f"  {one.name}: {one.message}" for one in failed[:_BEST]]
        if paths := self._write_best():
            lines += ["Worth looking at:", *(f"  {path}" for path in paths)]
        lines.append(f"Everything of this demo lies in {self.place.run}; its cluster's data in {self.place.cluster}.")
        if self.page:
            lines.append(f"See it all on the page: graticule up --data-dir {self.place.cluster}, then {self.page}")
        self.console.print("\n".join(lines), markup=False)
        missing = self.expected is not None and len(self.finished) < self.expected
        if missing and interrupted:
            return INTERRUPTED
        return 1 if failed or missing else 0

    def _step(self, children: list[Child], live: Live | None) -> None:
        for child in children:
            if child.exit_code:
                raise ClusterError(
                    f"The {child.part.name} ended with exit code {child.exit_code}.", advice=child.last_words()
                )
        try:
            outcomes = self.arrivals.next()
        except StoreUnavailable as error:
            self.console.print(str(error), markup=False)
            time.sleep(1)
            return
        for outcome in outcomes:
            self._take(Finished.of(outcome), quiet=live is not None)
        if live:
            live.update(self._table(), refresh=True)

    def _take(self, one: Finished, *, quiet: bool) -> None:
        self.last = time.monotonic()
        self.first = self.first or self.last
        self.finished.append(one)
        self.newest.append(one)
        if not quiet:
            name, count, area, seconds, classes = _cells(one)
            noun = "object" if one.count == 1 else "objects"
            what = f"{count} {noun}  {area}" if one.succeeded else count
            self.console.print(f"{name}  {what}  {seconds}  {classes}".rstrip(), markup=False)

    def _is_over(self) -> bool:
        if self.expected is None:
            return False
        if time.monotonic() - self.last > STALLED:
            self.console.print(f"No result for {STALLED:g} s: giving up. The logs: {self.place.run / 'logs'}")
            return True
        return len(self.finished) >= self.expected

    @property
    def _speed(self) -> str:
        if self.first is None or len(self.finished) < 2:
            return "no rate yet"
        return f"{(len(self.finished) - 1) / max(self.last - self.first, 1e-3):.1f} images/s"

    def _table(self) -> RenderableType:
        of = f" of {self.expected}" if self.expected else ""
        failed = sum(not one.succeeded for one in self.finished)
        head = f"{len(self.finished)}{of} results  ·  {self._speed}  ·  {self.arrivals.waiting} waiting"
        head += f"  ·  {failed} failed" if failed else ""
        head += f"  ·  Page: {self.page}" if self.page else ""
        table = Table("Picture")
        for name in ("Objects", "Area", "Time"):
            table.add_column(name, justify="right", min_width=8)
        table.add_column("Classes", min_width=24)
        for one in reversed(self.newest):
            name, count, area, seconds, classes = _cells(one)
            table.add_row(Text(name), count, area, seconds, Text(classes), style=None if one.succeeded else "red")
        return Group(Text(head, style="bold"), table, Text("Ctrl-C ends the demo.", style="dim"))

    def _write_best(self) -> list[Path]:
        """Overlays of the pictures with the most objects and the largest area."""
        good = [one for one in self.finished if one.count]
        by_count = sorted(good, key=lambda one: one.count, reverse=True)
        by_area = sorted(good, key=lambda one: one.area_fraction, reverse=True)
        best = list(dict.fromkeys([*by_count[:3], *by_area[:_BEST]]))[:_BEST]
        names = Names()
        written = (self._write_overlay(one, names) for one in best)
        return [path for path in written if path]

    def _write_overlay(self, one: Finished, names: Names) -> Path | None:
        colours = {kind.name: kind.colour for kind in self.manifest.postprocessing.classes}
        try:
            result = self.client.outcome(one.job_id)
            if not isinstance(result, Result):
                return None
            objects = result.segmentation.objects
            drawn = overlay(self.client.picture(result), self.client.mask(result), objects, colours)
        except GraticuleError as error:
            self.console.print(str(error), markup=False)
            return None
        path = self.place.run / "overlays" / f"{names.give(PurePath(one.name))}.png"
        with clear_write_errors(path):
            write_atomically(path, encode_png(drawn))
        return path


def flower_address(settings: Settings) -> str:
    """Where Flower of the running cluster is; empty: nowhere."""
    from graticule.local.cluster import running_cluster

    return getattr(running_cluster(settings), "flower_url", None) or ""


def page_address(settings: Settings, stream: str) -> str:
    """Where the page of the running cluster shows a stream; empty: there is no page."""
    from graticule.local.cluster import running_cluster

    address = getattr(running_cluster(settings), "gateway_url", None)
    return f"{address}/streams?stream={quote(stream, safe='')}" if address else ""


def _has_gateway() -> bool:
    """Whether the gateway is installed."""
    return importlib.util.find_spec("fastapi") is not None


def _cells(one: Finished) -> tuple[str, str, str, str, str]:
    if not one.succeeded:
        return one.name, "failed", "", f"{one.seconds:.2f} s", one.message
    return one.name, str(one.count), f"{one.area_fraction:.2%}", f"{one.seconds:.2f} s", one.classes


def _expected(folder: Path | None, once: int | None) -> int | None:
    """Results after which the demo ends; None: it goes on until Ctrl-C."""
    if folder is None:
        return once
    if not folder.is_dir():
        raise BadInput(f"There is no folder {str(folder)!r}.")
    there = len(Selection().expand([folder]))
    if not there:
        raise BadInput(f"There are no pictures in {str(folder)!r}.")
    return min(there, once) if once else there


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """A polite kill ends the demo as Ctrl-C does, so that no process of it stays behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupt: Callable[..., object] = signal.default_int_handler
    before = signal.signal(signal.SIGTERM, lambda number, frame: interrupt(number, frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
