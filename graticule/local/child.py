"""One supervised child process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from graticule.errors import ClusterError

LOG_LIMIT = 10 * 1024**2
_STEADY_AFTER = 60.0
"""Seconds after which a child that ran is no longer blamed for earlier deaths."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0


@dataclass(frozen=True)
class Part:
    """What a child is: how to start it and how to tell that it answers."""

    name: str
    command: Sequence[str]
    is_ready: Callable[[int], bool]
    """Given the process id: whether the part answers. Must not raise."""
    environment: Mapping[str, str] = field(default_factory=dict)
    address: str = ""
    grace: float = 10.0
    """Seconds that it may take to stop."""


class Reaper:
    """The helper process that ends all children if this process is killed."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("reaper.py")
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-E", str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def tell(self, sign: str, group: int) -> None:
        """`+`: a child was started; `-`: it ended."""
        if self._process.stdin is not None:
            self._process.stdin.write(f"{sign} {group}\n".encode())
            self._process.stdin.flush()

    def close(self) -> None:
        """All children ended in order."""
        self._process.communicate()


class Child:
    """A part as a running process, started again whenever it dies."""

    def __init__(self, part: Part, log: Path, reaper: Reaper) -> None:
        self.part = part
        self.log = log
        self.restarts = 0
        self._reaper = reaper
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._pause = _FIRST_PAUSE
        self._next_start = 0.0
        self._lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        """Process id; None while it is down."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> None:
        """Start the process. Its output goes to the log; signals of the terminal do not reach it."""
        with self._lock:
            self._rotate_log()
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    self.part.command,
                    env={**os.environ, **self.part.environment},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            self._reaper.tell("+", self._process.pid)
            self._started = time.monotonic()

    def wait_until_ready(self, timeout: float) -> None:
        """Poll until the part answers. Raises ClusterError with the end of its log."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            pid = self.pid
            if pid is None:
                raise ClusterError(f"{self.part.name} ended while it started.", advice=self._last_words())
            if self.part.is_ready(pid):
                return
            time.sleep(0.05)
        raise ClusterError(f"{self.part.name} did not answer within {timeout:g} s.", advice=self._last_words())

    def keep_alive(self) -> str:
        """Start the process again if it died; what there is to say about it, or nothing."""
        process = self._process
        if process is None or process.poll() is None:
            return ""
        now = time.monotonic()
        if not self._next_start:
            self._reaper.tell("-", process.pid)
            if now - self._started > _STEADY_AFTER:
                self._pause = _FIRST_PAUSE
            self._next_start = now + self._pause
            pause, self._pause = self._pause, min(_LONGEST_PAUSE, self._pause * 2)
            return f"{self.part.name} died ({_reason(process.returncode)}); starting it again in {pause:g} s"
        if now < self._next_start:
            return ""
        self._next_start = 0.0
        self.restarts += 1
        self.start()
        return f"{self.part.name} was started again (restart {self.restarts})"

    def stop(self, *, at_once: bool = False) -> None:
        """Tell the process to stop, and kill it if it does not."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGKILL if at_once else signal.SIGTERM)
            try:
                process.wait(self.part.grace)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._reaper.tell("-", process.pid)

    def _rotate_log(self) -> None:
        if self.log.exists() and self.log.stat().st_size > LOG_LIMIT:
            self.log.replace(self.log.with_suffix(".log.1"))

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-8:]
        return "The end of its log (" + str(self.log) + "):\n" + "\n".join(f"  {line}" for line in lines)


def _reason(code: int) -> str:
    if code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"
