"""`/api/v1/jobs`: send pictures, look jobs up, cancel them, try them again."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import StringConstraints, ValidationError

from graticule.job_index import Filter, Status, Summary
from graticule.jobs import JOB_ID_PATTERN, Job, Lane, model_name
from graticule.tokens import Scope
from graticule_producers.gateway.access import Caller, require
from graticule_producers.gateway.core import Core, Gateway
from graticule_producers.gateway.idempotency import fingerprint_of
from graticule_producers.gateway.jobs import Found, Order
from graticule_producers.gateway.problems import Problem, documented, mistakes_of
from graticule_producers.gateway.uploads import FILE, Upload, check_picture, form_body, read_upload
from graticule_producers.gateway.views import JOBS, JobPage, JobView, Submission

router = APIRouter(prefix=JOBS, tags=["jobs"])

KnownId = Annotated[str, StringConstraints(pattern=JOB_ID_PATTERN)]
JobId = Annotated[str, Path(pattern=JOB_ID_PATTERN, description="The job's identity, 32 hexadecimal digits.")]
Submitting = Annotated[Caller, Depends(require(Scope.SUBMIT))]
Reading = Annotated[Caller, Depends(require(Scope.READ))]

_FILE_FIELDS = frozenset({"file", "files"})
_FIELDS = {
    "model": {"type": "string", "description": "Model: name, or name@version."},
    "parameters": {"type": "string", "description": 'JSON object, e.g. {"threshold": 0.4}.'},
    "stream": {"type": "string", "description": "Name that groups a series."},
    "lane": {"type": "string", "enum": [lane.value for lane in Lane]},
    "wait": {"type": "string", "description": "Seconds to wait for the results."},
}
_BODY = form_body(
    {**_FIELDS, "file": {"type": "array", "items": FILE}},
    required=["file"],
    other_types={"application/octet-stream": {"schema": FILE}, "image/*": {"schema": FILE}},
)
_REFUSALS = documented(400, 401, 403, 408, 409, 413, 415, 422, 429, 503)


@router.post(
    "",
    status_code=202,
    response_model=Submission,
    responses={200: {"model": Submission, "description": "Every job has ended."}, **_REFUSALS},
    openapi_extra=_BODY,
)
async def submit(
    request: Request,
    core: Core,
    caller: Submitting,
    model: Annotated[
        str, Query(description="Model: name, or name@version. Here, a full queue is told before the body is read.")
    ] = "",
    parameters: Annotated[str, Query(description="Overrides of the model's post-processing, as a JSON object.")] = "",
    stream: Annotated[str, Query(description="Name that groups a series.")] = "",
    lane: Annotated[str, Query(description="interactive goes before bulk.")] = "",
    wait: Annotated[str, Query(description="Seconds to wait for the results.")] = "",
    filename: Annotated[str, Query(description="Name of the picture when it is the whole body.")] = "",
    idempotency_key: Annotated[str, Header(description="The same key and request again sends nothing twice.")] = "",
) -> Response:
    """Send one picture (as the body, or in a form) or several (in a form). All are taken, or none.

    Each of the fields may stand in the form, or in the query; the query goes first. Answers 200 when every job has
    ended within `wait` seconds, else 202 with `Location`.
    """
    given = {"model": model, "parameters": parameters, "stream": stream, "lane": lane, "wait": wait}
    given = {name: value for name, value in given.items() if value}
    if model:
        await core.queues.admit(model, Lane.INTERACTIVE if not lane else _lane(lane))
    upload = await read_upload(request, core.settings, _FILE_FIELDS, lambda fields: _early_look(core, fields | given))
    with upload:
        order, seconds = read_order(upload.fields | given)
        await core.queues.admit(order.model, order.lane)
        await asyncio.to_thread(_check, core, upload, order)
        if idempotency_key:
            found = await asyncio.to_thread(_once, core, caller, idempotency_key, upload, order)
        else:
            found = await asyncio.to_thread(_send, core, upload, order)
    return await _answer(core, found, seconds)


@router.get("", responses=documented(401, 403, 422, 429, 503))
def list_jobs(
    core: Core,
    _: Reading,
    model: Annotated[str, Query(description="Name of a model.")] = "",
    stream: Annotated[str, Query(description="Name of a stream.")] = "",
    status: Annotated[Status | None, Query(description="waiting, succeeded or failed.")] = None,
    text: Annotated[str, Query(max_length=255, description="Part of the file's name.")] = "",
    job_id: Annotated[
        list[KnownId] | None, Query(max_length=100, description="These jobs; nothing else counts.")
    ] = None,
    cursor: Annotated[
        str, Query(max_length=100, pattern=r"^[0-9TZ.a-f~]*$", description="`next` of the page before.")
    ] = "",
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> JobPage:
    """List jobs, the newest change first. `status=waiting` lists the oldest that wait, whoever sent them."""
    if job_id:
        return JobPage(jobs=[known for known in map(core.index.get, job_id) if known], next="")
    if status == "waiting":
        jobs = (Summary.of_job(job) for job in core.jobs.waiting(limit))
        wanted = Filter(model_name=model_name(model), stream=stream, text=text)
        return JobPage(jobs=[summary for summary in jobs if wanted.takes(summary)], next="")
    wanted = Filter(model_name=model_name(model), stream=stream, status=status, text=text)
    jobs, following = core.index.page(wanted, cursor=cursor, limit=limit)
    return JobPage(jobs=jobs, next=following)


@router.get("/{job_id}", responses=documented(401, 403, 404, 422, 429, 503))
async def get_job(
    core: Core,
    _: Reading,
    job_id: JobId,
    wait: Annotated[float, Query(ge=0, le=3600, description="Seconds to wait for its end.")] = 0,
) -> JobView:
    """A job, and what it ended in."""
    found = await asyncio.to_thread(core.jobs.find, job_id)
    if found.outcome is None and wait:
        outcomes = await core.jobs.outcomes([found.job], wait)
        found = Found(found.job, outcomes.get(job_id))
    return JobView.of(found)


@router.post("/{job_id}/cancel", responses=documented(401, 403, 404, 409, 422, 429, 503))
def cancel_job(core: Core, _: Submitting, job_id: JobId) -> JobView:
    """End a job that waits. A worker that is busy with it already may still finish it: then its result counts."""
    return JobView.of(core.jobs.cancel(job_id))


@router.post("/{job_id}/retry", status_code=202, responses=documented(401, 403, 404, 409, 422, 429, 503))
def retry_job(core: Core, _: Submitting, job_id: JobId) -> JobView:
    """Try a job that failed again."""
    return JobView.of(core.jobs.retry(job_id))


def read_order(fields: dict[str, str]) -> tuple[Order, float]:
    """What the fields of a request ask for, and the seconds to wait. Raises Problem (422)."""
    if not fields.get("model"):
        raise Problem(422, "The field `model` is missing: expected the name of a model.")
    try:
        seconds = float(fields.get("wait", 0) or 0)
        if not 0 <= seconds <= 3600:
            raise ValueError
    except ValueError:
        raise Problem(422, f"wait: expected seconds from 0 to 3600, found {fields['wait'][:80]!r}.") from None
    values: dict[str, Any] = {name: fields[name] for name in ("model", "stream", "lane") if fields.get(name)}
    values["parameters"] = _parameters(fields.get("parameters", ""))
    try:
        return Order.model_validate(values), seconds
    except ValidationError as error:
        raise Problem(422, mistakes_of(error)) from None


def _parameters(text: str) -> dict[str, Any]:
    if not text:
        return {}
    try:
        value = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise Problem(422, f"parameters: expected a JSON object, found {text[:80]!r}.")
    return value


def _no_number(text: str) -> float:
    raise ValueError(text)  # NaN and Infinity are no JSON


def _lane(text: str) -> Lane:
    try:
        return Lane(text)
    except ValueError:
        raise Problem(422, f"lane: expected one of {', '.join(Lane)}, found {text[:80]!r}.") from None


def _early_look(core: Gateway, fields: dict[str, str]) -> None:
    """Refuse a form for a full queue before its pictures are read, if its model stands before them."""
    if model := fields.get("model"):
        core.queues.admit_remembered(model, _lane(fields.get("lane") or Lane.INTERACTIVE))


def _check(core: Gateway, upload: Upload, order: Order) -> None:
    """Everything that can be found wrong before anything is stored."""
    if not upload.files:
        raise Problem(422, "There is no picture: expected a file in the form's field `file`, or as the body.")
    core.models.resolve(order.model)
    for received in upload.files:
        check_picture(received, core.settings)


def _send(core: Gateway, upload: Upload, order: Order) -> list[Job]:
    return [core.jobs.submit(received, order) for received in upload.files]


def _once(core: Gateway, caller: Caller, key: str, upload: Upload, order: Order) -> list[Job]:
    """Send what was not sent before under this key."""
    who, fingerprint = caller.token.id if caller.token else "", fingerprint_of(order, upload.files)
    if (known := core.repeats.begin(who, key, fingerprint)) is not None:
        return [core.jobs.find(job_id).job for job_id in known]
    try:
        jobs = _send(core, upload, order)
    except BaseException:
        core.repeats.abandon(who, key)
        raise
    core.repeats.end(who, key, fingerprint, [job.job_id for job in jobs])
    return jobs


async def _answer(core: Gateway, jobs: list[Job], seconds: float) -> Response:
    outcomes = await core.jobs.outcomes(jobs, seconds) if seconds else {}
    views = [JobView.of(Found(job, outcomes.get(job.job_id))) for job in jobs]
    query = "&".join(f"job_id={job.job_id}" for job in jobs)
    location = f"{JOBS}/{jobs[0].job_id}" if len(jobs) == 1 else f"{JOBS}?{query}"
    body = Submission(jobs=views).model_dump(mode="json")
    if len(outcomes) == len({job.job_id for job in jobs}):
        return JSONResponse(body, 200)
    return JSONResponse(body, 202, {"Location": location})
