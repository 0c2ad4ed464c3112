"""What `graticule simulate` does."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from rich.console import Console

from graticule.errors import BadInput
from graticule_producers.simulate.micrograph import Focus
from graticule_producers.simulate.series import Report, simulate_tiles
from graticule_producers.simulate.tem_series import simulate_tem

INTERRUPTED = 130
_PLAIN_INTERVAL = 10.0
"""Seconds between two lines where there is no terminal."""


def run_simulate_tiles(
    *,
    out: Path,
    count: int | None = None,
    rate: float = 4.0,
    seed: int = 1,
    size: str | None = None,
    truth: Path | None = None,
    defect_share: float = 0.6,
) -> int:
    """Draw tiles into `out` until `count` or Ctrl-C. `size`: "MIN:MAX" in pixels; empty: as real photographs have."""
    console = Console(highlight=False, soft_wrap=True)
    stop = threading.Event()
    sides = parse_size(size)
    with _stopped_by_signals(stop), _Progress(console, count) as progress:
        report = simulate_tiles(
            out,
            count=count,
            rate=rate,
            seed=seed,
            size=sides,
            truth=truth,
            defect_share=defect_share,
            stop=stop,
            on_tile=progress,
        )
    console.print(_summary(report), markup=False)
    return 0 if count is None or report.count == count else INTERRUPTED


def run_simulate_tem(
    *,
    out: Path,
    count: int | None,
    frames: int,
    stack: bool,
    rate: float,
    seed: int,
    size: int,
    focus: str,
    truth: Path | None,
) -> int:
    """Take micrographs into `out` until `count` experiments or Ctrl-C. `focus`: under, in, over; empty: any."""
    console = Console(highlight=False, soft_wrap=True)
    stop = threading.Event()
    pictures = None if count is None else count * frames
    with _stopped_by_signals(stop), _Progress(console, pictures) as progress:
        report = simulate_tem(
            out,
            count=count,
            frames=frames,
            stack=stack,
            rate=rate,
            seed=seed,
            size=size,
            focus=cast("Focus | None", focus or None),
            truth=truth,
            stop=stop,
            on_picture=lambda so_far: progress.tell(so_far.pictures, so_far.seconds),
        )
    console.print(f"{report.pictures} pictures written into {report.folder} in {report.seconds:.1f} s.", markup=False)
    return 0 if pictures is None or report.pictures == pictures else INTERRUPTED


def parse_size(text: str | None) -> tuple[int, int] | None:
    """`"120:480"` -> (120, 480); `"320"` -> (320, 320); empty -> None. Raises BadInput."""
    if not text:
        return None
    smallest, _, largest = text.partition(":")
    try:
        return int(smallest), int(largest or smallest)
    except ValueError:
        raise BadInput(f"Sizes are MIN:MAX in pixels, e.g. 120:480; found {text!r}.") from None


class _Progress:
    """One line that is written over on a terminal, or a line now and then in a log."""

    def __init__(self, console: Console, count: int | None) -> None:
        self._console, self._count = console, count
        self._status = console.status("Starting") if console.is_terminal else None
        self._told = time.monotonic()

    def __call__(self, report: Report) -> None:
        self.tell(report.count, report.seconds)

    def tell(self, pictures: int, seconds: float) -> None:
        """Show how many there are by now."""
        of = f" of {self._count}" if self._count else ""
        line = f"{pictures}{of} pictures, {pictures / max(seconds, 1e-3):.1f}/s, Ctrl-C ends"
        if self._status:
            self._status.update(line)
        elif time.monotonic() - self._told > _PLAIN_INTERVAL:
            self._told = time.monotonic()
            self._console.print(line)

    def __enter__(self) -> _Progress:
        if self._status:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status:
            self._status.stop()


@contextmanager
def _stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    """Ctrl-C and a polite kill end the series after the picture that is being written."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _summary(report: Report) -> str:
    kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(report.kinds.items()))
    return f"{report.count} pictures written into {report.folder} in {report.seconds:.1f} s ({kinds or 'none'})."
