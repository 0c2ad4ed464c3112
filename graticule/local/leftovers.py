"""Processes of an earlier start that nobody ended: the whole cluster was killed, the reaper as well."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil

from graticule.local.private import read_json

CHILDREN_FILE = "children.json"
MARK = "GRATICULE_EMBEDDED_IN"
"""Environment variable of every child: the data folder that it belongs to."""

_GRACE = 10.0
_SAME_PROCESS = 1.0
"""Largest difference of two looks at a process's creation time, seconds."""


def note(pids: Iterable[int]) -> dict[str, Any]:
    """What `children.json` says about running children."""
    noted = []
    for pid in pids:
        try:
            noted.append({"pid": pid, "created": psutil.Process(pid).create_time()})
        except psutil.Error:
            continue
    return {"children": noted}


def end_leftovers(folder: Path) -> int:
    """End whatever runs on behalf of this data folder; how many processes that were.

    The caller holds the folder's lock, so that none of them can have a living supervisor.
    """
    leftovers = list({process.pid: process for process in (*_noted(folder), *_marked(folder))}.values())
    for process in leftovers:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, stubborn = psutil.wait_procs(leftovers, timeout=_GRACE)
    for process in stubborn:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(stubborn, timeout=_GRACE)
    return len(leftovers)


def _noted(folder: Path) -> list[psutil.Process]:
    """Processes of `children.json`; their creation time is compared because process ids are used again by others."""
    found = []
    for noted in read_json(folder / CHILDREN_FILE).get("children", []):
        try:
            process = psutil.Process(noted["pid"])
            if abs(process.create_time() - noted["created"]) < _SAME_PROCESS and _runs(process):
                found.append(process)
        except (psutil.Error, KeyError, TypeError):
            continue
    return found


def _marked(folder: Path) -> list[psutil.Process]:
    """Processes that carry the mark, noted or not: the supervisor may have been killed before it wrote anything."""
    mine = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid not in mine and process.environ().get(MARK) == str(folder) and _runs(process):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def _runs(process: psutil.Process) -> bool:
    return process.status() != psutil.STATUS_ZOMBIE
