"""`POST /inference/`: thickness and mistilt of a PACBED pattern. No system is known before its model is published."""

from __future__ import annotations

import asyncio
from typing import NoReturn

from fastapi import APIRouter, Request

from graticule.manifest import Task
from graticule_producers.gateway.api.jobs import Submitting
from graticule_producers.gateway.core import Core
from graticule_producers.gateway.problems import Problem, documented
from graticule_producers.gateway.uploads import FILE, form_body, read_upload

router = APIRouter(tags=["existing clients"])

_BODY = form_body(
    {"file": FILE, "parameters": {"type": "string", "description": "JSON: physical_params and file_params."}},
    required=["file", "parameters"],
)


@router.post(
    "/inference/",
    status_code=422,
    response_model=None,
    responses=documented(400, 401, 403, 408, 413, 422, 429, 503),
    openapi_extra=_BODY,
)
async def inference(request: Request, core: Core, _: Submitting) -> NoReturn:
    """Names the systems that are known; the models of this kind arrive later."""
    with await read_upload(request, core.settings, frozenset({"file"})):
        manifests = await asyncio.to_thread(core.models.in_production)
    systems = [manifest.name for manifest in manifests if manifest.task is Task.LABEL_DISTRIBUTION]
    known = f"published systems: {', '.join(systems)}" if systems else "no system is published yet"
    raise Problem(422, f"This gateway cannot answer for any system: {known}.", error="UnknownModel")
