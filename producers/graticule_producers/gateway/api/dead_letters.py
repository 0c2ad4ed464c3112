"""`/api/v1/dead-letters`: jobs that were given up although their picture may be good."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends

from graticule.dead_letters import DeadLetter
from graticule.errors import UnknownDeadLetter
from graticule.job_index import Summary
from graticule.tokens import Scope
from graticule_producers.gateway.access import Caller, require
from graticule_producers.gateway.api.jobs import JobId, Reading, Submitting
from graticule_producers.gateway.core import Core, Gateway
from graticule_producers.gateway.jobs import Found
from graticule_producers.gateway.problems import Problem, documented
from graticule_producers.gateway.views import JobView

router = APIRouter(prefix="/api/v1/dead-letters", tags=["dead letters"])

Administering = Annotated[Caller, Depends(require(Scope.ADMIN))]


@router.get("", responses=documented(401, 403, 429, 503))
def list_dead_letters(core: Core, _: Reading) -> list[DeadLetter]:
    """Every dead letter, the newest first."""
    return letters(core)


@router.post("/{job_id}/retry", status_code=202, responses=documented(401, 403, 404, 422, 429, 503))
def retry_dead_letter(core: Core, _: Submitting, job_id: JobId) -> JobView:
    """Submit the job again and forget the dead letter."""
    try:
        job = core.dead_letters.retry(job_id)
    except UnknownDeadLetter as error:
        raise Problem(404, str(error), error=error.kind) from error
    core.index.add([Summary.of_job(job)])
    return JobView.of(Found(job, None))


@router.delete("/{job_id}", status_code=204, responses=documented(401, 403, 404, 422, 429, 503))
def drop_dead_letter(core: Core, _: Administering, job_id: JobId) -> None:
    """Forget a dead letter. The job stays failed, its picture stays in the store."""
    try:
        core.dead_letters.drop(job_id)
    except UnknownDeadLetter as error:
        raise Problem(404, str(error), error=error.kind) from error


def letters(core: Gateway) -> list[DeadLetter]:
    """Every dead letter, the newest first."""
    found = []
    for job_id in core.dead_letters.ids():
        try:
            found.append(core.dead_letters.read(job_id))
        except UnknownDeadLetter:  # retried or dropped meanwhile
            continue
    return sorted(found, key=lambda letter: letter.given_up_at, reverse=True)
