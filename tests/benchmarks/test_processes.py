"""Processes that a measurement holds still."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from benchmarks.cpu import tree
from benchmarks.machine import ROOT
from benchmarks.processes import held, running
from graticule.errors import ClusterError
from graticule.local.child import Part

_PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)
"""


def test_a_process_is_held_with_all_that_it_started():
    parent = subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE)
    try:
        assert parent.stdout
        both = [psutil.Process(parent.pid), psutil.Process(int(parent.stdout.readline()))]
        with held(parent.pid):
            assert [process.status() for process in both] == [psutil.STATUS_STOPPED] * 2
        assert psutil.STATUS_STOPPED not in [process.status() for process in both]
    finally:
        for process in tree(parent.pid):
            process.kill()
        parent.communicate()


def test_parts_end_with_the_measurement_also_when_it_fails(tmp_path):
    part = Part(name="sleeper", command=[sys.executable, "-c", "import time; time.sleep(60)"], folder=ROOT)
    seen = {}

    with pytest.raises(ZeroDivisionError), running([part], tmp_path) as pids:
        seen.update(pids)
        assert psutil.pid_exists(pids["sleeper"])
        _ = 1 / 0

    assert not psutil.pid_exists(seen["sleeper"])


def test_a_part_that_does_not_start_says_why(tmp_path):
    part = Part(
        name="broken", command=[sys.executable, "-c", "raise SystemExit('no such port')"], is_ready=lambda _: False
    )
    with pytest.raises(ClusterError, match="no such port"), running([part], tmp_path):
        pass
