"""The application: every interface of the gateway behind one guard."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from graticule import __version__
from graticule.settings import Settings
from graticule_producers.gateway import problems
from graticule_producers.gateway.api import artifacts, dead_letters, events, jobs, models, streams, system
from graticule_producers.gateway.core import Gateway, allowed_hosts, listed
from graticule_producers.gateway.existing import analyze, deepaas, inference, oip, status_page
from graticule_producers.gateway.guard import Guard
from graticule_producers.gateway.page import routes as page
from graticule_producers.gateway.problems import ProblemDocument

DESCRIPTION = "Send pictures, get measurements. Errors are problem documents (RFC 9457)."

NATIVE = (artifacts, jobs, dead_letters, streams, models, events, system)
EXISTING = (analyze, inference, deepaas, status_page, oip)


def create_app(settings: Settings) -> FastAPI:
    """The application for these settings. Nothing is asked of the cluster before the first request."""

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        gateway: Gateway = app.state.gateway
        gateway.hub.start()
        try:
            yield
        finally:
            gateway.hub.stop()

    # FastAPI's own pages of documentation load their scripts from elsewhere.
    app = FastAPI(
        title="graticule",
        version=__version__,
        description=DESCRIPTION,
        lifespan=running,
        docs_url=None,
        redoc_url=None,
        responses={500: {"model": ProblemDocument, "description": "Something went wrong in the gateway."}},
    )
    app.state.gateway = Gateway(settings)
    interfaces = [part.router for part in (*NATIVE, *EXISTING)]
    problems.install(app, [route for router in interfaces for route in router.routes])
    for router in interfaces:
        app.include_router(router)
    page.install(app)
    _protect(app, settings)
    return app


def _protect(app: FastAPI, settings: Settings) -> None:
    origins = listed(settings.gateway_origins)
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=sorted(origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID"],
            expose_headers=["Location", "Retry-After", "X-Request-ID"],
        )
    app.add_middleware(
        Guard,
        hosts=allowed_hosts(settings),
        origins=origins,
        max_body=settings.gateway_max_body,
        body_timeout=settings.gateway_body_timeout,
    )
