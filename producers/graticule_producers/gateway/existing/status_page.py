"""`/api/status`, `/api/data`, `/api/image|mask|overlay/<n>`: the old status page (real-time TEM) over one stream.

Pictures are numbered from 0 in the order in which they were taken; negative numbers count from the newest, -1.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import AwareDatetime, BaseModel, Field

from graticule.job_index import Summary
from graticule.results import Result
from graticule_producers.defect_record import DefectRecord
from graticule_producers.gateway.api.jobs import Reading
from graticule_producers.gateway.core import Core, Gateway
from graticule_producers.gateway.problems import Problem, documented
from graticule_producers.gateway.serving import ASK_AGAIN, serve
from graticule_producers.gateway.views import links_of

router = APIRouter(prefix="/api", tags=["existing clients"])

Stream = Annotated[str, Query(max_length=500, description="Stream to show; without it the one of the settings.")]
Number = Annotated[int, Path(ge=-10_000, lt=10_000, description="Which picture; -1 is the newest.")]

_MOST = 10_000
_READERS = 8
_PNG = {200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}, "description": "PNG."}}
_REFUSALS = documented(401, 403, 404, 422, 429, 503)


class Status(BaseModel):
    """The state of the stream."""

    stream: str
    model: str
    images: int = Field(description="Pictures that are done.")
    newest: int = Field(description="Number of the newest one; -1: there is none.")
    detect_time: AwareDatetime | None = Field(description="When the newest one was submitted.")
    completed_time: AwareDatetime | None


@router.get("/status", responses=documented(401, 403, 422, 429, 503))
def status(core: Core, _: Reading, stream: Stream = "") -> Status:
    """What the stream is doing."""
    name = _stream(core, stream)
    done = _done(core, name)
    newest = done[-1] if done else None
    return Status(
        stream=name,
        model=newest.model if newest else "",
        images=len(done),
        newest=len(done) - 1,
        detect_time=newest.submitted_at if newest else None,
        completed_time=newest.completed_at if newest else None,
    )


@router.get("/data", responses=documented(401, 403, 422, 429, 503), response_model_by_alias=True)
def data(
    core: Core,
    _: Reading,
    stream: Stream = "",
    limit: Annotated[int, Query(ge=1, le=_MOST, description="Newest pictures to take.")] = 1000,
) -> list[DefectRecord]:
    """One record a picture, the first picture first."""
    jobs = _done(core, _stream(core, stream))[-limit:]
    with ThreadPoolExecutor(_READERS) as readers:
        outcomes = readers.map(lambda job: core.records.outcome(job.job_id), jobs)
    return [_record(outcome) for outcome in outcomes if isinstance(outcome, Result)]


@router.get("/image/{number}", response_class=Response, responses={**_PNG, **_REFUSALS})
async def image(request: Request, core: Core, _: Reading, number: Number, stream: Stream = "") -> Response:
    """A picture as PNG."""
    result = await asyncio.to_thread(_numbered, core, stream, number)
    return await _png(request, "image", result, lambda: core.renderings.picture_png(result.job))


@router.get("/mask/{number}", response_class=Response, responses={**_PNG, **_REFUSALS})
async def mask(request: Request, core: Core, _: Reading, number: Number, stream: Stream = "") -> Response:
    """A mask as PNG: 0 background, 255 defect."""
    result = await asyncio.to_thread(_numbered, core, stream, number)
    return await _png(request, "mask", result, lambda: core.renderings.binary_png(result))


@router.get("/overlay/{number}", response_class=Response, responses={**_PNG, **_REFUSALS})
async def overlay(request: Request, core: Core, _: Reading, number: Number, stream: Stream = "") -> Response:
    """A picture with its defects drawn in, as PNG."""
    result = await asyncio.to_thread(_numbered, core, stream, number)
    return await _png(request, "overlay", result, lambda: core.renderings.overlay_png(result))


async def _png(request: Request, kind: str, result: Result, make: Callable[[], bytes]) -> Response:
    # The same number may be another picture tomorrow.
    tag = f"{kind}:{result.job.job_id}:{result.completed_at.isoformat()}"
    return await serve(request, make, tag=tag, media_type="image/png", cache=ASK_AGAIN)


def _record(result: Result) -> DefectRecord:
    job = result.job
    mask = links_of(job, succeeded=True)["mask.png"]
    return DefectRecord.of(result, job.source.path or job.image.filename, mask)


def _stream(core: Gateway, named: str) -> str:
    """The stream that is meant: that of the request, of the settings, or the one with the newest picture."""
    if chosen := named or core.settings.gateway_status_stream:
        return chosen
    streams = core.index.streams()
    return streams[0].name if streams else ""


def _done(core: Gateway, stream: str) -> list[Summary]:
    return [job for job in core.index.series(stream, _MOST) if job.status == "succeeded"] if stream else []


def _numbered(core: Gateway, stream: str, number: int) -> Result:
    name = _stream(core, stream)
    done = _done(core, name)
    if not -len(done) <= number < len(done):
        raise Problem(404, f"The stream {name!r} has {len(done)} pictures; there is no number {number}.")
    outcome = core.records.outcome(done[number].job_id)
    if not isinstance(outcome, Result):
        raise Problem(404, f"The result of picture {number} was removed.")
    return outcome
