"""Health, figures and the state of the cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from graticule.errors import GraticuleError
from graticule.local.private import read_json
from graticule.settings import CLUSTER_FILE
from graticule_producers.gateway import metrics
from graticule_producers.gateway.api.jobs import Reading
from graticule_producers.gateway.core import Core, Gateway
from graticule_producers.gateway.problems import documented
from graticule_producers.gateway.views import Health, QueueStatus

router = APIRouter(tags=["system"])

_PATIENCE = 3.0
"""Seconds within which a part must answer to count as ready."""


@router.get("/healthz")
async def healthz() -> Health:
    """Whether the process answers. Needs no token."""
    return Health(status="ok")


@router.get("/readyz", response_model=Health, responses={503: {"model": Health, "description": "Not ready."}})
async def readyz(core: Core) -> JSONResponse:
    """Whether storage and Redis answer. Needs no token, tells no addresses."""
    checks = {"storage": lambda: core.store.keys("models", limit=1), "redis": core.hub.events.last_id}
    answers = await asyncio.gather(*(_answers(check) for check in checks.values()))
    problems = [f"{name} does not answer" for name, good in zip(checks, answers, strict=True) if not good]
    health = Health(status="not ready" if problems else "ok", problems=problems)
    return JSONResponse(health.model_dump(), 503 if problems else 200)


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **documented(401, 403, 429, 503)},
)
def get_metrics(core: Core, _: Reading) -> Response:
    """Figures for Prometheus."""
    status = cluster_status(core)
    ended = {"succeeded": status.succeeded, "failed": status.failed}
    return Response(metrics.exposition(status.queues, ended, len(status.workers)), media_type=metrics.MEDIA_TYPE)


@router.get("/api/v1/cluster", responses=documented(401, 403, 429, 503))
def get_cluster(core: Core, _: Reading) -> QueueStatus:
    """Workers, queues, and how many jobs ended."""
    return cluster_status(core)


def cluster_status(core: Gateway) -> QueueStatus:
    """Ask Redis about the cluster. Raises BrokerUnavailable, StoreUnavailable."""
    counts = core.hub.events.counts()
    flower = read_json(core.settings.data_dir / CLUSTER_FILE).get("flower_url", "")
    return QueueStatus(
        workers=[worker.model_dump(mode="json") for worker in core.workers.alive()],
        queues=core.queues.lengths([manifest.name for manifest in core.models.in_production()]),
        at_work=core.queues.at_work(),
        succeeded=counts["succeeded"],
        failed=counts["failed"],
        flower_url=flower if isinstance(flower, str) else "",
    )


async def _answers(check: Callable[[], object]) -> bool:
    try:
        await asyncio.wait_for(asyncio.to_thread(check), _PATIENCE)
    except (GraticuleError, TimeoutError):
        return False
    return True
