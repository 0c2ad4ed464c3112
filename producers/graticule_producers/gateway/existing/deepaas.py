"""`/v2/models`: the DEEPaaS V2 interface (thermal anomalies)."""

from __future__ import annotations

import asyncio
from typing import Annotated, NoReturn

from fastapi import APIRouter, Header, Path, Query, Request, Response
from pydantic import BaseModel, Field

from graticule.errors import UnknownModel
from graticule.jobs import MODEL_PATTERN, Lane
from graticule.manifest import Manifest
from graticule.results import DetectedObject
from graticule_producers.gateway.api.jobs import Reading, Submitting
from graticule_producers.gateway.core import Core, Gateway
from graticule_producers.gateway.existing.asking import measured, the_picture
from graticule_producers.gateway.problems import Problem, documented
from graticule_producers.gateway.uploads import FILE, form_body, read_upload
from graticule_producers.gateway.views import links_of

router = APIRouter(prefix="/v2/models", tags=["existing clients"])

Name = Annotated[str, Path(pattern=rf"^{MODEL_PATTERN}$", description="Name of a model.")]
TrainingId = Annotated[str, Path(max_length=100, description="Identity of a training.")]

_PNG = "image/png"
_BODY = form_body(
    {"input_file": FILE, "threshold": {"type": "number", "minimum": 0, "maximum": 1}}, required=["input_file"]
)


class Link(BaseModel):
    """Where something is described."""

    rel: str
    href: str


class DeepaasModel(BaseModel):
    """A model and its metadata."""

    id: str
    name: str
    links: list[Link]
    description: str
    license: str
    version: str
    url: str = Field(description="Where the model came from; empty: it does not say.")
    author: str = Field(description="Who made the model; empty: it does not say.")


class DeepaasModels(BaseModel):
    """Every model."""

    models: list[DeepaasModel]


class Predictions(BaseModel):
    """What was found in the picture."""

    job_id: str
    count: int
    area_fraction: float
    mean_radius: float | None
    objects: list[DetectedObject]
    links: dict[str, str]


class Answer(BaseModel):
    """A prediction."""

    status: str
    predictions: Predictions


@router.get("/", responses=documented(401, 403, 429, 503))
def models(core: Core, _: Reading) -> DeepaasModels:
    """The models in production."""
    return DeepaasModels(models=[_described(manifest) for manifest in core.models.in_production()])


@router.get("/{name}/", responses=documented(401, 403, 404, 422, 429, 503))
def model(core: Core, _: Reading, name: Name) -> DeepaasModel:
    """One model."""
    return _described(_known(core, name))


@router.post(
    "/{name}/predict/",
    response_model=Answer,
    responses={
        200: {"content": {_PNG: {"schema": {"type": "string", "format": "binary"}}}},
        **documented(400, 401, 403, 404, 408, 413, 415, 422, 429, 503),
    },
    openapi_extra=_BODY,
)
async def predict(
    request: Request,
    core: Core,
    _: Submitting,
    name: Name,
    threshold: Annotated[float | None, Query(ge=0, le=1, description="Probability above which a pixel counts.")] = None,
    accept: Annotated[str, Header(description="application/json, or image/png for the mask.")] = "",
) -> Response | Answer:
    """Segment a picture: numbers as JSON, or with `Accept: image/png` the mask (0 and 255)."""
    await asyncio.to_thread(_known, core, name)
    await core.queues.admit(name, Lane.INTERACTIVE)
    with await read_upload(request, core.settings, frozenset({"input_file"})) as upload:
        in_form = _number(upload.fields.get("threshold", ""))
        chosen = in_form if threshold is None else threshold
        parameters = {} if chosen is None else {"threshold": chosen}
        result = await measured(core, the_picture(upload, "input_file"), name, parameters)
    if _PNG in accept and "application/json" not in accept:
        return Response(await asyncio.to_thread(core.renderings.binary_png, result), media_type=_PNG)
    found = result.segmentation
    predictions = Predictions(
        job_id=result.job.job_id,
        count=found.count,
        area_fraction=found.area_fraction,
        mean_radius=found.mean_radius,
        objects=list(found.objects),
        links=links_of(result.job, succeeded=True),
    )
    return Answer(status="OK", predictions=predictions)


@router.get("/{name}/train/", response_model=None, responses=documented(401, 403, 422, 429, 501))
def trainings(_: Reading, name: Name) -> NoReturn:
    """Trainings do not exist yet."""
    raise _no_trainings()


@router.post("/{name}/train/", response_model=None, responses=documented(401, 403, 422, 429, 501))
def train(_: Submitting, name: Name) -> NoReturn:
    """Trainings do not exist yet."""
    raise _no_trainings()


@router.get("/{name}/train/{training_id}", response_model=None, responses=documented(401, 403, 422, 429, 501))
def training(_: Reading, name: Name, training_id: TrainingId) -> NoReturn:
    """Trainings do not exist yet."""
    raise _no_trainings()


@router.delete("/{name}/train/{training_id}", response_model=None, responses=documented(401, 403, 422, 429, 501))
def cancel_training(_: Submitting, name: Name, training_id: TrainingId) -> NoReturn:
    """Trainings do not exist yet."""
    raise _no_trainings()


def _no_trainings() -> Problem:
    return Problem(501, "This gateway cannot train models.", error="NotImplemented")


def _known(core: Gateway, name: str) -> Manifest:
    try:
        return core.models.resolve(name)
    except UnknownModel as error:
        raise Problem(404, str(error), error=error.kind) from error


def _described(manifest: Manifest) -> DeepaasModel:
    return DeepaasModel(
        id=manifest.name,
        name=manifest.title,
        links=[Link(rel="self", href=f"{router.prefix}/{manifest.name}/")],
        description=manifest.description,
        license=manifest.license,
        version=manifest.version,
        url="",
        author="",
    )


def _number(text: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
        if not 0 <= value <= 1:
            raise ValueError
    except ValueError:
        raise Problem(422, f"threshold: expected a number from 0 to 1, found {text[:80]!r}.") from None
    return value
