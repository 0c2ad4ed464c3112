"""One supervised child: its death, its last words, its pauses."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from graticule.errors import ClusterError
from graticule.local.child import Child, Part, Reaper


@pytest.fixture
def reaper() -> Iterator[Reaper]:
    made = Reaper()
    yield made
    made.close()


def child(reaper: Reaper, folder: Path, program: str, **options: object) -> Child:
    part = Part("thing", [sys.executable, "-c", program], **options)  # type: ignore[arg-type]
    return Child(part, folder / "thing.log", reaper)


def test_one_that_ends_while_it_starts_is_quoted(reaper, tmp_path):
    made = child(reaper, tmp_path, "print('no port for me'); raise SystemExit(3)", is_ready=lambda _: False)
    made.start()
    with pytest.raises(ClusterError, match=r"(?s)thing ended while it started.*no port for me"):
        made.wait_until_ready(30)
    assert made.exit_code == 3


def test_one_that_never_answers_is_an_error(reaper, tmp_path):
    made = child(reaper, tmp_path, "import time; time.sleep(60)", is_ready=lambda _: False)
    made.start()
    with pytest.raises(ClusterError, match=r"did not answer within 0.2 s"):
        made.wait_until_ready(0.2)
    made.stop()
    assert made.pid is None


def test_one_that_does_not_stop_is_killed(reaper, tmp_path):
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    made = child(reaper, tmp_path, stubborn, grace=0.3, is_ready=lambda _: "up" in (tmp_path / "thing.log").read_text())
    made.start()
    made.wait_until_ready(30)
    made.stop()
    assert made.exit_code == -9


def test_one_that_keeps_dying_is_started_again_after_longer_and_longer_pauses(reaper, tmp_path):
    made = child(reaper, tmp_path, "raise SystemExit(1)")
    made.start()
    said: list[str] = []
    deadline = time.monotonic() + 30
    while made.restarts < 2 and time.monotonic() < deadline:
        if line := made.keep_alive():
            said.append(line)
        time.sleep(0.01)
    assert said[0] == "thing died (exit code 1); starting it again in 0.5 s"
    assert said[1] == "thing was started again (restart 1)"
    assert said[2] == "thing died (exit code 1); starting it again in 1 s"
    made.stop()


def test_a_long_log_is_put_aside(reaper, tmp_path, monkeypatch):
    monkeypatch.setattr("graticule.local.child.LOG_LIMIT", 10)
    (tmp_path / "thing.log").write_text("a long earlier log")
    made = child(reaper, tmp_path, "print('new')", is_ready=lambda _: False)
    made.start()
    with pytest.raises(ClusterError):
        made.wait_until_ready(30)
    assert (tmp_path / "thing.log.1").read_text() == "a long earlier log"
    assert (tmp_path / "thing.log").read_text().strip() == "new"
    made.stop()
