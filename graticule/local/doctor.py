"""`graticule doctor`: everything that this machine lacks, found at once."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import psutil
import redis

from graticule.broker import connect_redis
from graticule.errors import GraticuleError
from graticule.local import binaries
from graticule.local.cluster import running_cluster
from graticule.settings import Settings
from graticule.store import Store

Verdict = Literal["ok", "warning", "problem"]

PACKAGES = {
    "onnxruntime": "worker",
    "cv2": "worker",
    "imagecodecs": "worker",
    "watchfiles": "watcher",
    "flower": "local",
    "pyarrow": "local",
}
ENOUGH_DISK_GB, LITTLE_DISK_GB = 2.0, 0.2
ENOUGH_FILES = 1024
ENOUGH_MEMORY_GB = 2.0
ENOUGH_WATCHES = 8192
OLDEST_REDIS = (6, 2)
MOST_SKEW = 5.0
"""Seconds between two machines' clocks: S3 refuses requests that are minutes off, and times in results mislead."""


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    subject: str
    verdict: Verdict
    found: str
    advice: str = ""


def examine(settings: Settings) -> list[Finding]:
    """Check everything. A check that breaks is a finding too."""
    findings: list[Finding] = []
    for check in CHECKS:
        try:
            findings += check(settings)
        except Exception as error:  # a doctor who faints is of no use
            findings.append(Finding(check.__name__.strip("_"), "warning", f"could not be checked: {error}"))
    return findings


def _python(_: Settings) -> Iterator[Finding]:
    yield Finding("Python", "ok", f"{platform.python_version()}, {platform.system()} {platform.machine()}")


def _servers(_: Settings) -> Iterator[Finding]:
    for name, find, arguments in (
        ("Redis server", binaries.redis_server, ["--version"]),
        ("S3 server", binaries.weed, ["version"]),
    ):
        try:
            path = find()
            answer = subprocess.run([str(path), *arguments], capture_output=True, text=True, timeout=20, check=True)
        except GraticuleError as error:
            yield Finding(name, "problem", error.summary, error.advice)
        except (OSError, subprocess.SubprocessError) as error:
            yield Finding(name, "problem", f"does not run: {error}", "Install it again.")
        else:
            yield _version_finding(name, answer.stdout.strip().splitlines()[0][:60])


def _version_finding(name: str, found: str) -> Finding:
    version = re.search(r"v=(\d+)\.(\d+)", found)
    if name == "Redis server" and version and (int(version[1]), int(version[2])) < OLDEST_REDIS:
        needed = ".".join(map(str, OLDEST_REDIS))
        return Finding(name, "problem", found, f"Install Redis {needed} or newer.")
    return Finding(name, "ok", found)


def _packages(_: Settings) -> Iterator[Finding]:
    for package, extra in PACKAGES.items():
        if importlib.util.find_spec(package):
            yield Finding(f"package {package}", "ok", "installed")
        else:
            advice = f'pip install "graticule[{extra}]"'
            yield Finding(f"package {package}", "problem", "missing", advice)


def _data_folder(settings: Settings) -> Iterator[Finding]:
    folder = settings.data_dir
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not os.access(existing, os.W_OK) or not existing.is_dir():
        advice = "Choose another one with GRATICULE_DATA_DIR."
        yield Finding("data folder", "problem", f"{folder} cannot be written", advice)
        return
    free = shutil.disk_usage(existing).free / 1e9
    verdict: Verdict = "ok" if free > ENOUGH_DISK_GB else "warning" if free > LITTLE_DISK_GB else "problem"
    advice = "" if verdict == "ok" else "Free some space: images and results are kept there."
    yield Finding("data folder", verdict, f"{folder}, {free:.1f} GB free", advice)


def _limits(_: Settings) -> Iterator[Finding]:
    memory = psutil.virtual_memory().available / 1e9
    yield Finding(
        "memory",
        "ok" if memory > ENOUGH_MEMORY_GB else "warning",
        f"{memory:.1f} GB available, {psutil.cpu_count()} cores",
        "" if memory > ENOUGH_MEMORY_GB else "An idle cluster takes about 0.5 GB; large images need more.",
    )
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    good = files >= ENOUGH_FILES
    yield Finding("open files", "ok" if good else "warning", f"limit {files}", "" if good else "ulimit -n 4096")


def _watches(_: Settings) -> Iterator[Finding]:
    limit = Path("/proc/sys/fs/inotify/max_user_watches")
    if not limit.exists():
        return
    watches = int(limit.read_text())
    good = watches >= ENOUGH_WATCHES
    advice = "" if good else "sysctl fs.inotify.max_user_watches=65536, or graticule watch --polling"
    yield Finding("watched folders", "ok" if good else "warning", f"limit {watches}", advice)


def _cluster(settings: Settings) -> Iterator[Finding]:
    info = running_cluster(settings)
    stated = "GRATICULE_REDIS_URL" in os.environ or "GRATICULE_S3_URL" in os.environ
    if not info and not stated:
        yield Finding("cluster", "ok", "none is running", "Start one with: graticule up")
        return
    where = f"{info.folder} (process {info.pid})" if info else "as the environment says"
    yield Finding("cluster", "ok", where)
    yield from _redis_answers(settings)
    yield from _store_answers(settings)


def _redis_answers(settings: Settings) -> Iterator[Finding]:
    try:
        with connect_redis(settings) as client:
            seconds, micro = cast("tuple[int, int]", client.time())
    except redis.RedisError as error:
        yield Finding("Redis", "problem", str(error), "Is it running? Is GRATICULE_REDIS_URL right?")
        return
    skew = abs(time.time() - seconds - micro / 1e6)
    good = skew < MOST_SKEW
    advice = "" if good else "Set both machines' clocks (NTP)."
    yield Finding("Redis", "ok" if good else "problem", f"answers; clocks differ by {skew:.1f} s", advice)


def _store_answers(settings: Settings) -> Iterator[Finding]:
    try:
        Store(settings, retries=0).keys("images", limit=1)
    except GraticuleError as error:
        yield Finding("object storage", "problem", error.summary, "Is it running? Are the GRATICULE_S3_* right?")
    else:
        yield Finding("object storage", "ok", f"{settings.s3_url} answers")


CHECKS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
    _python,
    _servers,
    _packages,
    _data_folder,
    _limits,
    _watches,
    _cluster,
)
