"""What a job's result looks like: masks, overlays, tables. With entity tags and ranges."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response

from graticule.jobs import Content
from graticule.results import RESULT_FILE, Failure, Measurements, Result, result_prefix
from graticule.tensors import MEDIA_TYPE
from graticule_producers.gateway.api.jobs import JobId, Reading
from graticule_producers.gateway.core import Core, Gateway
from graticule_producers.gateway.problems import Problem, documented
from graticule_producers.gateway.serving import serve
from graticule_producers.gateway.views import JOBS

router = APIRouter(prefix=JOBS, tags=["artifacts"])

Width = Annotated[int | None, Query(ge=16, le=8192, description="Make it at most so wide, px.")]
_MEDIA_TYPES = {
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
    "geojson": "application/geo+json",
}


def _answers(media_type: str) -> dict[int | str, dict[str, Any]]:
    """The documented answers of a route that gives bytes."""
    schema = {"type": "object"} if "json" in media_type else {"type": "string", "format": "binary"}
    content: dict[str, Any] = {media_type: {"schema": schema}}
    return {
        200: {"description": "All of it.", "content": content},
        206: {"description": "The range that was asked for.", "content": content},
        304: {"description": "What the client has is still right."},
        416: {"description": "There is no such range."},
        **documented(401, 403, 404, 409, 413, 422, 429, 501, 503),
    }


@router.get("/{job_id}/result.json", response_class=Response, responses=_answers("application/json"))
async def result_json(request: Request, core: Core, _: Reading, job_id: JobId) -> Response:
    """The result as it is stored."""
    result = await _result(core, job_id)
    key = result_prefix(job_id) + RESULT_FILE
    tag = f"result:{job_id}:{result.completed_at.isoformat()}"
    return await serve(request, lambda: core.store.get("results", key), tag=tag, media_type="application/json")


@router.get("/{job_id}/mask.png", response_class=Response, responses=_answers("image/png"))
async def mask_png(request: Request, core: Core, _: Reading, job_id: JobId) -> Response:
    """The mask as it is stored: each pixel holds the id of its object, 0 is background."""
    result = await _segmented(core, job_id)
    tag = f"mask:{result.artifacts['mask'].sha256}"
    return await serve(request, lambda: core.renderings.mask(result), tag=tag, media_type="image/png")


@router.get("/{job_id}/layer.png", response_class=Response, responses=_answers("image/png"))
async def layer_png(request: Request, core: Core, _: Reading, job_id: JobId, width: Width = None) -> Response:
    """The objects in the colours of their classes, on transparent ground: to lay over `image.png`."""
    result = await _segmented(core, job_id)
    tag = f"layer:{result.artifacts['mask'].sha256}:{result.model.sha256}:{width}"
    return await serve(request, lambda: core.renderings.layer_png(result, width), tag=tag, media_type="image/png")


@router.get("/{job_id}/overlay.webp", response_class=Response, responses=_answers("image/webp"))
async def overlay_webp(
    request: Request,
    core: Core,
    _: Reading,
    job_id: JobId,
    opacity: Annotated[float, Query(ge=0, le=1, description="0: the picture alone; 1: the full drawing.")] = 1.0,
    width: Width = None,
) -> Response:
    """The picture with its objects outlined, lightly filled and numbered."""
    result = await _segmented(core, job_id)
    tag = f"overlay:{result.artifacts['mask'].sha256}:{result.job.image.sha256}:{opacity}:{width}"
    return await serve(
        request,
        lambda: core.renderings.overlay_webp(result, opacity, width),
        tag=tag,
        media_type="image/webp",
    )


@router.get("/{job_id}/image.png", response_class=Response, responses=_answers("image/png"))
async def image_png(request: Request, core: Core, _: Reading, job_id: JobId, width: Width = None) -> Response:
    """The picture, whatever its format, as one that every browser shows: 8 bits, stretched where it had more."""
    job = (await asyncio.to_thread(core.jobs.find, job_id)).job
    if job.content is not Content.PICTURE:
        raise Problem(404, f"The job {job_id} carried {job.content}, no picture.", error="NotFound")
    tag = f"picture:{job.image.sha256}:{job.image.frame}:{width}"
    return await serve(request, lambda: core.renderings.picture_png(job, width), tag=tag, media_type="image/png")


@router.get("/{job_id}/objects.csv", response_class=Response, responses=_answers("text/csv"))
async def objects_csv(request: Request, core: Core, _: Reading, job_id: JobId) -> Response:
    """One row an object, for Excel and pandas."""
    return await _table(request, core, job_id, "csv")


@router.get("/{job_id}/objects.parquet", response_class=Response, responses=_answers(_MEDIA_TYPES["parquet"]))
async def objects_parquet(request: Request, core: Core, _: Reading, job_id: JobId) -> Response:
    """One row an object, with types."""
    return await _table(request, core, job_id, "parquet")


@router.get("/{job_id}/objects.geojson", response_class=Response, responses=_answers("application/geo+json"))
async def objects_geojson(request: Request, core: Core, _: Reading, job_id: JobId) -> Response:
    """One feature an object, its outline along the pixels' edges; x to the right, y down, px."""
    return await _table(request, core, job_id, "geojson")


@router.get("/{job_id}/outputs.safetensors", response_class=Response, responses=_answers(MEDIA_TYPE))
async def outputs(request: Request, core: Core, _: Reading, job_id: JobId) -> Response:
    """The outputs of a job for tensors, in the safetensors layout."""
    result = await _result(core, job_id)
    if "outputs" not in result.artifacts:
        raise Problem(404, f"The job {job_id} carried no tensors.", error="NotFound")
    stored = result.artifacts["outputs"]
    tag = f"outputs:{stored.sha256}"
    return await serve(request, lambda: core.store.get("results", stored.key), tag=tag, media_type=MEDIA_TYPE)


async def _table(request: Request, core: Gateway, job_id: str, kind: Literal["csv", "parquet", "geojson"]) -> Response:
    result = await _segmented(core, job_id)
    return await serve(
        request,
        lambda: core.renderings.objects(result, kind),
        tag=f"objects:{kind}:{job_id}:{result.completed_at.isoformat()}",
        media_type=_MEDIA_TYPES[kind],
        filename=f"{job_id}.{kind}",
    )


async def _segmented(core: Gateway, job_id: str) -> Result:
    """As `_result`. Raises Problem (404) as well where nothing was segmented: there is no such artifact."""
    result = await _result(core, job_id)
    if not isinstance(result.measurements, Measurements):
        text = f"The job {job_id} is of the kind {result.measurements.kind!r}: it has no objects and no mask."
        raise Problem(404, text, error="NotFound")
    return result


async def _result(core: Gateway, job_id: str) -> Result:
    """The result of a job. Raises Problem: there is no such job (404), or it has no result (409)."""
    outcome = (await asyncio.to_thread(core.jobs.find, job_id)).outcome
    if outcome is None:
        raise Problem(409, f"The job {job_id} has not ended yet.", error="Waiting", retry_after=1)
    if isinstance(outcome, Failure):
        raise Problem(409, f"The job {job_id} failed: {outcome.message}", error=outcome.error)
    return outcome
