"""`/api/v1/streams`: series of pictures, and their measurements over time."""

from __future__ import annotations

import csv
import io
from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response

from graticule.job_index import StreamInfo
from graticule_producers.gateway.api.jobs import Reading
from graticule_producers.gateway.core import Core, Gateway
from graticule_producers.gateway.problems import Problem, documented
from graticule_producers.gateway.views import Point, Series

router = APIRouter(prefix="/api/v1/streams", tags=["streams"])

Stream = Annotated[str, Query(min_length=1, max_length=500, description="Name of the stream.")]
Limit = Annotated[int, Query(ge=1, le=10_000, description="Newest pictures to take.")]
_CSV = {200: {"content": {"text/csv": {"schema": {"type": "string"}}}}}
_COLUMNS = tuple(Point.model_fields)


@router.get("", responses=documented(401, 403, 429, 503))
def list_streams(core: Core, _: Reading) -> list[StreamInfo]:
    """Every stream, the one with the newest picture first."""
    return core.index.streams()


@router.get(
    "/series",
    response_model=Series,
    responses={**_CSV, **documented(401, 403, 404, 422, 429, 503)},
)
def get_series(
    core: Core,
    _: Reading,
    stream: Stream,
    limit: Limit = 1000,
    format: Annotated[Literal["json", "csv"], Query()] = "json",
) -> Response | Series:
    """Count, area fraction and mean radius of the newest pictures of a stream, the first picture first."""
    points = _points(core, stream, limit)
    if format == "json":
        return Series(stream=stream, points=points)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    writer.writerows([_cell(getattr(point, name)) for name in _COLUMNS] for point in points)
    return Response(text.getvalue(), media_type="text/csv; charset=utf-8")


def _points(core: Gateway, stream: str, limit: int) -> list[Point]:
    jobs = core.index.series(stream, limit)
    if not jobs:
        raise Problem(404, f"There is no stream {stream!r} with a picture that is done.", error="NotFound")
    return [Point.model_validate(job.model_dump()) for job in jobs]


def _cell(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else "" if value is None else value
