"""What `graticule provision`, `backup`, `restore`, `reindex` and `gateway --check` do."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import typer

from graticule import backup
from graticule.job_index import JobIndex, rebuild
from graticule.provision import provision
from graticule.records import Records
from graticule.settings import Settings
from graticule.store import Store


def make_ready(settings: Settings, secrets: Path | None, *, minio: bool, models: bool) -> int:
    """Make the store ready for a cluster; the exit code."""
    for sentence in provision(settings, secrets=secrets, minio=minio, models=models):
        typer.echo(sentence)
    return 0


def back_up(settings: Settings, folder: Path) -> int:
    """Copy every bucket into a folder; the exit code."""
    report = backup.back_up(Store(settings), folder)
    typer.echo(f"{report.objects} objects are in the backup {backup.listings(folder)[-1]}; {_copied(report)}.")
    if report.left_out:
        names = f"{len(report.left_out)} objects, such as {report.left_out[0]!r},"
        typer.echo(f"{names} have names that graticule never makes, and were left out.", err=True)
    return 0


def restore(settings: Settings, folder: Path, name: str) -> int:
    """Bring a backup back into the buckets; the exit code."""
    report = backup.restore(Store(settings), folder, name)
    typer.echo(f"{report.objects} objects of the backup are in the store; {_copied(report)}. Now: graticule reindex")
    return 0


def reindex(settings: Settings) -> int:
    """Rebuild Redis' index of jobs from the results; the exit code."""
    typer.echo(f"{rebuild(JobIndex(settings), Records(Store(settings)))} jobs are in the index.")
    return 0


def _copied(report: backup.Report) -> str:
    return f"{report.copied} were copied ({report.copied_bytes / 1e6:.1f} MB)"


def ask(url: str) -> int:
    """Ask a server on this machine whether it is ready, and repeat what it said; 0 when it is."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 (loopback)
            typer.echo(answer.read().decode())
            return 0
    except urllib.error.HTTPError as refusal:
        typer.echo(refusal.read().decode(errors="replace"), err=True)
    except OSError as error:
        typer.echo(f"{url} does not answer ({getattr(error, 'reason', error)}).", err=True)
    return 1
