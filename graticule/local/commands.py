"""`graticule up`, `down`, `status` and `doctor`: plain functions that print and give an exit code."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from graticule.jobs import utc_now
from graticule.local.cluster import EmbeddedCluster, ask_to_stop, running_cluster
from graticule.local.doctor import examine
from graticule.local.parts import CREDENTIALS_FILE, FLOWER_USER
from graticule.local.status import collect_status, render_status
from graticule.settings import Settings, env_name

console = Console(soft_wrap=True)

_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}


def up(settings: Settings, *, worker: bool, flower: bool, gateway: bool) -> int:
    """Start the cluster and keep it running until Ctrl-C."""
    if gateway and not importlib.util.find_spec("fastapi"):
        _say('there is no web page: pip install "graticule[gateway]" brings it')
        gateway = False
    cluster = EmbeddedCluster(settings, worker=worker, flower=flower, gateway=gateway, on_message=_say)
    with _terminated_like_interrupted():
        running = cluster.start()
    for name in _overriding_environment():
        _say(f"beware: {name} is set and leads other commands elsewhere, not to this cluster")
    console.print(_welcome(running), soft_wrap=False)
    cluster.run_forever()
    _say("stopped; the data stay in " + str(cluster.folder))
    return 0


def down(settings: Settings) -> int:
    """Stop the cluster of the data folder."""
    info = running_cluster(settings)
    if info is None:
        console.print(f"No cluster is running in {settings.data_dir}.", markup=False)
        return 0
    if ask_to_stop(info):
        console.print("Stopped. The data stay.")
        return 0
    console.print(f"The cluster (process {info.pid}) did not stop within a minute.", style="red")
    return 1


def status(settings: Settings, *, as_json: bool) -> int:
    """Show what the cluster is doing; 0 if every part answers and a worker is there."""
    found = collect_status(settings)
    if as_json:
        console.print_json(json.dumps(found.as_json()))
    else:
        if not found.folder:
            console.print(f"No cluster is running in {settings.data_dir}; asking where the settings point to.")
        render_status(found, console)
    return 1 if found.problems else 0


def doctor(settings: Settings) -> int:
    """Check this machine; 0 unless something is missing."""
    findings = examine(settings)
    table = Table("Check", "", "Found", "What to do")
    for finding in findings:
        table.add_row(finding.subject, finding.verdict, finding.found, finding.advice, style=_STYLES[finding.verdict])
    Console().print(table)
    problems = sum(finding.verdict == "problem" for finding in findings)
    console.print(f"{problems} problem(s)." if problems else "This machine is ready.")
    return 1 if problems else 0


def _say(line: str) -> None:
    console.print(f"{utc_now().astimezone():%H:%M:%S} {line}", markup=False, highlight=False)


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM end the start as Ctrl-C does: in order."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _overriding_environment() -> list[str]:
    """Environment variables that are stronger than what a running cluster says about itself."""
    fields = ("redis_url", "s3_url", "s3_access_key", "s3_secret_key")
    return [env_name(field) for field in fields if env_name(field) in os.environ]


def _welcome(settings: Settings) -> Panel:
    info = running_cluster(settings)
    lines = [f"page      {info.gateway_url}", ""] if info and info.gateway_url else []
    lines += [
        f"data      {settings.data_dir}",
        f"logs      {settings.data_dir / 'logs'}",
        f"storage   {settings.s3_url}",
    ]
    if info and info.flower_url:
        password = settings.data_dir / CREDENTIALS_FILE
        lines += [
            f"Flower    {info.flower_url}",
            f"          user {FLOWER_USER}, password: 'flower' in {password}",
        ]
    lines += [
        "",
        "graticule submit picture.png --model tile-defects --wait",
        "graticule watch FOLDER --model tile-defects",
        "graticule status",
        "",
        "Ctrl-C stops the cluster; the data stay.",
    ]
    return Panel("\n".join(lines), title="graticule is running", expand=False)
