"""How far a long piece of work is: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

_PLAIN_INTERVAL = 10.0
"""Seconds between two lines in a log."""


class Meter:
    """How far the run is: a bar on a terminal, a line now and then in a log."""

    def __init__(self, console: Console, total: int) -> None:
        self._console, self._total = console, total
        self._done = self._failed = 0
        self._began = self._told = time.monotonic()
        self._bar = _bar(console) if console.is_terminal else None
        self._task = TaskID(0)

    def count(self, succeeded: bool) -> None:
        """One more is done."""
        self._done += 1
        self._failed += not succeeded
        if self._bar:
            self._bar.update(self._task, advance=1, speed=self._speed, failed=self._failures)

    def tick(self) -> None:
        """A moment has passed."""
        if not self._bar and time.monotonic() - self._told > _PLAIN_INTERVAL:
            self._told = time.monotonic()
            self._console.print(f"{self._done} of {self._total} pictures, {self._speed}{self._failures}", markup=False)

    def __enter__(self) -> Meter:
        if self._bar:
            self._bar.start()
            self._task = self._bar.add_task("Analysing", total=self._total, speed="", failed="")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    @property
    def _speed(self) -> str:
        return f"{self._done / max(time.monotonic() - self._began, 1e-3):.1f} images/s"

    @property
    def _failures(self) -> str:
        return f", {self._failed} failed" if self._failed else ""


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
        TextColumn("[red]{task.fields[failed]}"),
        console=console,
    )
