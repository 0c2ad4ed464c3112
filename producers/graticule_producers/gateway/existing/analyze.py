"""`POST /analyze`: one photograph in, a mask as nested lists out (magnetic tiles)."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, Query, Request, Response
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, Field

from graticule.jobs import Lane
from graticule.manifest import Manifest
from graticule.results import Result
from graticule_producers.gateway.api.jobs import Submitting
from graticule_producers.gateway.core import Core, Gateway
from graticule_producers.gateway.existing.asking import measured, the_picture
from graticule_producers.gateway.problems import documented
from graticule_producers.gateway.uploads import FILE, form_body, read_upload

router = APIRouter(tags=["existing clients"])

_FORMER_SIDE = 224
"""Side of the square that the former service answered with, px, where the model has no size of its own."""
_BODY = form_body({"image": FILE}, required=["image"])


class Prediction(BaseModel):
    """What clients turn into an array."""

    pred: list[list[int]] = Field(description="Rows of 0 (background) and 1 (defect).")


@router.post(
    "/analyze",
    response_model=Prediction,
    responses=documented(400, 401, 403, 408, 413, 415, 422, 429, 503),
    openapi_extra=_BODY,
)
async def analyze(
    request: Request,
    core: Core,
    _: Submitting,
    crop: Annotated[
        Literal["", "center"], Query(description="center: the mask of the centre square, scaled, as formerly.")
    ] = "",
) -> Response:
    """Segment a photograph. The mask covers the whole picture, unless `crop=center` asks for the former square."""
    model = core.settings.gateway_analyze_model
    await core.queues.admit(model, Lane.INTERACTIVE)
    with await read_upload(request, core.settings, frozenset({"image"})) as upload:
        result = await measured(core, the_picture(upload, "image"), model, {})
    return Response(await asyncio.to_thread(_prediction, core, result, bool(crop)), media_type="application/json")


def _prediction(core: Gateway, result: Result, crop: bool) -> bytes:
    mask = core.renderings.labels(result) > 0
    if crop:
        mask = centre_square(mask, former_side(core.models.resolve(core.settings.gateway_analyze_model)))
    return json.dumps({"pred": mask.astype(int).tolist()}, separators=(",", ":")).encode()


def former_side(manifest: Manifest) -> int:
    """Side of the square that the former service would have answered with, px."""
    resize = manifest.preprocessing.resize
    return resize.short_side if resize else _FORMER_SIDE


def centre_square(mask: NDArray[np.bool_], side: int) -> NDArray[np.bool_]:
    """The mask scaled so that its short side has `side` pixels, and its centre square."""
    height, width = mask.shape
    scale = side / min(height, width)
    size = (max(side, round(width * scale)), max(side, round(height * scale)))
    scaled = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    top, left = (scaled.shape[0] - side) // 2, (scaled.shape[1] - side) // 2
    return scaled[top : top + side, left : left + side]
