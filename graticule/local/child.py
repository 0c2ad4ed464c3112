"""One supervised child process."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from graticule.errors import ClusterError

LOG_LIMIT = 10 * 1024**2
"""Bytes after which a log becomes the old log; one old log is kept."""

_STEADY_AFTER = 60.0
"""Seconds after which a child that ran is no longer blamed for earlier deaths."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_LAST_LINES, _LAST_BYTES = 8, 8192


@dataclass(frozen=True)
class Part:
    """What a child is: how to start it and how to tell that it answers."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    is_ready: Callable[[int], bool] = lambda _: True
    """Given the process id: whether the part answers. Must not raise."""
    address: str = ""
    grace: float = 10.0
    """Seconds that it may take to stop."""
    stage: int = 0
    """Parts of a higher stage use those of the lower ones: they start later and stop first."""
    folder: Path | None = None
    """Working directory; None: that of this process."""


class Reaper:
    """The helper process that ends all children if this process is killed."""

    def __init__(self) -> None:
        self._groups: dict[int, int] = {}
        self._process = self._spawn()

    def started(self, group: int, stage: int) -> None:
        """A child was started."""
        self._groups[group] = stage
        self._tell(f"+ {group} {stage}")

    def ended(self, group: int) -> None:
        """A child ended."""
        if self._groups.pop(group, None) is not None:
            self._tell(f"- {group}")

    def close(self) -> None:
        """All children ended in order."""
        with contextlib.suppress(OSError):
            self._process.communicate()

    def _tell(self, line: str) -> None:
        try:
            self._write(line)
        except OSError:  # somebody killed it: the children need another one
            self.close()
            self._process = self._spawn()
            for group, stage in self._groups.items():
                self._write(f"+ {group} {stage}")

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())

    @staticmethod
    def _spawn() -> subprocess.Popen[bytes]:
        script = Path(__file__).with_name("reaper.py")
        return subprocess.Popen(
            [sys.executable, "-S", "-E", str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd="/",
            start_new_session=True,
        )


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
        self._log_begins = 0

    @property
    def pid(self) -> int | None:
        """Process id; None while it is down."""
        return self._process.pid if self._process and self._process.poll() is None else None

    @property
    def exit_code(self) -> int | None:
        """How the process ended; None while it runs, or before it was started."""
        return self._process.poll() if self._process else None

    def start(self) -> None:
        """Start the process. Its output goes to the log; signals of the terminal do not reach it."""
        self._rotate_log()
        descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "ab") as log:
            self._log_begins = os.fstat(log.fileno()).st_size
            self._process = subprocess.Popen(
                self.part.command,
                cwd=self.part.folder,
                env={**_inherited_environment(), **self.part.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                umask=0o077,
                start_new_session=True,
            )
        self._reaper.started(self._process.pid, self.part.stage)
        self._started = time.monotonic()

    def answers(self) -> bool:
        """Whether the part is ready. Raises ClusterError with the end of its log when it is not even running."""
        pid = self.pid
        if pid is None:
            raise ClusterError(f"{self.part.name} ended while it started.", advice=self.last_words())
        # Somebody else may have answered on its port while it died.
        return self.part.is_ready(pid) and self.pid == pid

    def wait_until_ready(self, timeout: float) -> None:
        """Poll until the part answers. Raises ClusterError with the end of its log."""
        deadline = time.monotonic() + timeout
        while not self.answers():
            if time.monotonic() > deadline:
                raise self.too_slow(timeout)
            time.sleep(0.05)

    def too_slow(self, timeout: float) -> ClusterError:
        """The error for a part that did not answer in time."""
        return ClusterError(f"{self.part.name} did not answer within {timeout:g} s.", advice=self.last_words())

    def keep_alive(self) -> str:
        """Start the process again if it died; what there is to say about it, or nothing."""
        process = self._process
        if process is None or process.poll() is None:
            return ""
        now = time.monotonic()
        if not self._next_start:
            self._clean_up(process)
            if now - self._started > _STEADY_AFTER:
                self._pause = _FIRST_PAUSE
            self._next_start = now + self._pause
            pause, self._pause = self._pause, min(_LONGEST_PAUSE, self._pause * 2)
            return f"{self.part.name} died ({_reason(process.returncode)}); starting it again in {pause:g} s"
        if now < self._next_start:
            return ""
        self._next_start = now + self._pause  # should starting fail, too
        self.restarts += 1
        self.start()
        self._next_start = 0.0
        return f"{self.part.name} was started again (restart {self.restarts})"

    def stop(self, is_urgent: Callable[[], bool] = lambda: False) -> None:
        """Tell the process to stop; kill it when it takes too long, or as soon as it is urgent."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
            deadline = time.monotonic() + self.part.grace
            while process.poll() is None and time.monotonic() < deadline and not is_urgent():
                time.sleep(0.05)
            if process.poll() is None:
                process.kill()
                process.wait()
        self._clean_up(process)

    def trim_log(self) -> None:
        """Begin the log anew when it has grown too large. The process goes on writing to the same file."""
        if self.log.exists() and self.log.stat().st_size > LOG_LIMIT:
            shutil.copyfile(self.log, self._old_log)
            os.truncate(self.log, 0)
            self._log_begins = 0

    def _clean_up(self, ended: subprocess.Popen[bytes]) -> None:
        """Whatever the process had started goes with it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(ended.pid, signal.SIGKILL)
        self._reaper.ended(ended.pid)

    @property
    def _old_log(self) -> Path:
        return self.log.with_suffix(".log.1")

    def _rotate_log(self) -> None:
        if self.log.exists() and self.log.stat().st_size > LOG_LIMIT:
            self.log.replace(self._old_log)

    def last_words(self) -> str:
        """The end of the log."""
        with self.log.open("rb") as log:
            size = os.fstat(log.fileno()).st_size
            log.seek(max(self._log_begins, size - _LAST_BYTES))
            lines = log.read().decode(errors="replace").splitlines()[-_LAST_LINES:]
        return f"The end of its log ({self.log}):\n" + "\n".join(f"  {line}" for line in lines)


def _inherited_environment() -> dict[str, str]:
    """This process's environment, without what would reconfigure an embedded SeaweedFS behind its command line."""
    return {name: value for name, value in os.environ.items() if not name.startswith("WEED_")}


def _reason(code: int) -> str:
    try:
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"
    except ValueError:
        return f"signal {-code}"
