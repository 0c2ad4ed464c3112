"""`graticule dead-letters`: look at the jobs that were given up, try them again or drop them."""

from __future__ import annotations

import json

import typer
from rich.console import Console
from rich.table import Table

from graticule.dead_letters import DeadLetters
from graticule.errors import BrokerUnavailable, UnknownDeadLetter
from graticule.records import Records
from graticule.settings import Settings
from graticule.store import Store


def list_letters(settings: Settings, *, as_json: bool) -> int:
    """Show every dead letter; the exit code."""
    letters = _open(settings)
    found = [letters.read(job_id) for job_id in letters.ids()]
    others = letters.undecodable()
    if as_json:
        for letter in found:
            typer.echo(letter.model_dump_json())
        for key in others:
            typer.echo(json.dumps({"undecodable": key}))
        return 0
    if not found and not others:
        typer.echo("No dead letters.")
        return 0
    table = Table("Job", "Model", "File", "Deaths", "Given up", "Reason")
    for letter in sorted(found, key=lambda letter: letter.given_up_at):
        table.add_row(
            letter.job.job_id,
            letter.job.model,
            letter.job.image.filename,
            str(len(letter.deaths)),
            f"{letter.given_up_at:%Y-%m-%d %H:%M:%S} UTC",
            letter.message,
        )
    Console().print(table)
    for key in others:
        typer.echo(f"A message that is not a job was kept as jobs/{key}.")
    return 0


def show_letter(settings: Settings, job_id: str, *, as_json: bool) -> int:
    """Show one dead letter with its history; the exit code."""
    letter = _open(settings).read(job_id)
    if as_json:
        typer.echo(letter.model_dump_json(indent=2))
        return 0
    job = letter.job
    rows = {
        "job": job.job_id,
        "file": f"{job.image.filename} ({job.image.size:,} bytes, images/{job.image.key})",
        "sent by": f"{job.source.producer} on {job.source.host or '?'} {job.source.path}".rstrip(),
        "model": job.model,
        "parameters": json.dumps(job.parameters),
        "stream": job.stream,
        "submitted": f"{job.submitted_at:%Y-%m-%d %H:%M:%S} UTC",
        "given up": f"{letter.given_up_at:%Y-%m-%d %H:%M:%S} UTC",
        "reason": f"{letter.error} in {letter.stage}: {letter.message}",
    }
    for name, value in rows.items():
        typer.echo(f"{name:<11} {value}")
    for death in letter.deaths:
        typer.echo(f"{'death':<11} {death.at:%Y-%m-%d %H:%M:%S} UTC: {death.what} (noted by {death.noted_by})")
    return 0


def retry_letters(settings: Settings, job_ids: list[str], *, everyone: bool) -> int:
    """Submit dead letters again; the exit code."""
    letters = _open(settings)
    for job_id in _chosen(letters, job_ids, everyone):
        try:
            job = letters.retry(job_id)
            typer.echo(f"{job.job_id} {job.image.filename} was sent again.")
        except BrokerUnavailable as error:
            typer.echo(f"{job_id} is recorded and will be found by a worker. {error}", err=True)
    return 0


def drop_letters(settings: Settings, job_ids: list[str], *, everyone: bool) -> int:
    """Forget dead letters; the exit code."""
    letters = _open(settings)
    for job_id in _chosen(letters, job_ids, everyone):
        letters.drop(job_id)
        typer.echo(f"{job_id} was dropped; the job stays failed, its picture stays in the store.")
    return 0


def _open(settings: Settings) -> DeadLetters:
    return DeadLetters(settings, Records(Store(settings)))


def _chosen(letters: DeadLetters, job_ids: list[str], everyone: bool) -> list[str]:
    if everyone == bool(job_ids):
        raise UnknownDeadLetter("Name dead letters by the ids of their jobs, or give --all.")
    chosen = letters.ids() if everyone else job_ids
    for job_id in chosen:
        letters.read(job_id)
    return chosen
