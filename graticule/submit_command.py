"""`graticule submit`: send pictures and, if asked, wait for their results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from graticule.client import Client, JobHandle
from graticule.errors import GraticuleError, ResultTimeout
from graticule.jobs import Lane
from graticule.results import Failure, Result
from graticule.settings import Settings

console = Console(soft_wrap=True, markup=False, highlight=False)
errors = Console(stderr=True, soft_wrap=True, markup=False, highlight=False)


def submit(
    settings: Settings,
    files: list[Path],
    *,
    model: str,
    stream: str,
    lane: str,
    parameters: dict[str, Any],
    wait: bool,
    as_json: bool,
) -> int:
    """Submit each file; the exit code is 0 only if every one was sent and, with `wait`, succeeded."""
    client = Client(settings, producer="submit")
    client.registry.resolve(model)
    handles, refused = [], 0
    for path in files:
        try:
            handle = client.submit(path, model, stream=stream, lane=Lane(lane), parameters=parameters)
        except GraticuleError as error:
            errors.print(str(error), style="red")
            refused += 1
            continue
        handles.append(handle)
        if not wait:
            console.print(handle.job.model_dump_json() if as_json else f"{handle.job_id}  {path}")
    failed = _await(client, handles, as_json) if wait else 0
    return 1 if refused or failed else 0


def _await(client: Client, handles: list[JobHandle], as_json: bool) -> int:
    failed = 0
    try:
        for _, outcome in client.as_completed(handles):
            failed += isinstance(outcome, Failure)
            console.print(outcome.model_dump_json() if as_json else _line(outcome))
    except ResultTimeout as error:
        errors.print(str(error), style="red")
        return 1
    return failed


def _line(outcome: Result | Failure) -> str:
    name = outcome.job.image.filename
    if isinstance(outcome, Failure):
        return f"{outcome.job.job_id}  {name!r}: failed in {outcome.stage}: {outcome.message}"
    measured = outcome.segmentation
    return f"{outcome.job.job_id}  {name!r}: {measured.count} objects, {measured.area_fraction:.2%} of the area"
