"""One picture, one answer: what the older interfaces have in common."""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic import ValidationError

from graticule.jobs import Job
from graticule.results import Failure, Result
from graticule_producers.gateway.core import Gateway
from graticule_producers.gateway.jobs import Order
from graticule_producers.gateway.problems import Problem, mistakes_of
from graticule_producers.gateway.uploads import Upload, UploadedFile, check_picture

_RETRY_AFTER = 5


def the_picture(upload: Upload, field: str) -> UploadedFile:
    """The one picture of a form. Raises Problem (422)."""
    if len(upload.files) != 1:
        raise Problem(422, f"Expected one file in the form's field `{field}`, found {len(upload.files)}.")
    return upload.files[0]


async def measured(core: Gateway, received: UploadedFile, model: str, parameters: dict[str, Any]) -> Result:
    """Send a picture and wait for its result. Raises Problem: it cannot be measured (422), or not in time (503)."""
    order = order_of(model, parameters)
    await asyncio.to_thread(core.models.resolve, model)
    await asyncio.to_thread(check_picture, received, core.settings)
    return await ended(core, await asyncio.to_thread(core.jobs.submit, received, order))


async def ended(core: Gateway, job: Job) -> Result:
    """Wait for the result of a job. Raises Problem: it failed (422), or is not done in time (503)."""
    outcomes = await core.jobs.outcomes([job], core.settings.gateway_max_wait)
    outcome = outcomes.get(job.job_id)
    if isinstance(outcome, Failure):
        raise Problem(422, outcome.message, error=outcome.error)
    if outcome is None:
        text = f"The job {job.job_id} is not done after {core.settings.gateway_max_wait:g} s. It goes on; ask again."
        raise Problem(503, text, error="ResultTimeout", retry_after=_RETRY_AFTER)
    return outcome


def order_of(model: str, parameters: dict[str, Any]) -> Order:
    """The order for one picture. Raises Problem (422)."""
    try:
        return Order(model=model, parameters=parameters)
    except ValidationError as error:
        raise Problem(422, mistakes_of(error)) from None
