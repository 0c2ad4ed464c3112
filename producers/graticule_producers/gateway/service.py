"""`graticule gateway`: the application in a server process."""

from __future__ import annotations

import logging
from asyncio import TimerHandle, Transport
from socket import socket
from typing import cast

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from graticule.settings import Settings
from graticule_producers.gateway.app import create_app
from graticule_producers.gateway.core import is_loopback

log = logging.getLogger(__name__)

_KEEP_ALIVE = 30
_GRACE = 5
"""Seconds that open requests get when the gateway stops."""
_BACKLOG = 2048


def serve(settings: Settings) -> int:
    """Serve until told to stop; the process's exit code."""
    if settings.gateway_auth == "off" and not is_loopback(settings):
        log.warning("the gateway wants no tokens: everybody who reaches %s may use it", settings.gateway_host)
    server = _Server(create_app(settings), settings)
    server.run()
    return 0 if server.started else 1


def configuration(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """How uvicorn runs the application."""
    return uvicorn.Config(
        app,
        host=settings.gateway_host,
        port=settings.gateway_port,
        http=_protocol(settings.gateway_body_timeout),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=_GRACE,
        backlog=_BACKLOG,
        # Who may say that a request came from elsewhere is for a proxy in front to configure, not for clients.
        proxy_headers=False,
    )


class _Server(uvicorn.Server):
    """Says where it listens once it does (port 0 takes any free one), and lets listeners go when it stops."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        super().__init__(configuration(app, settings))
        self._app = app

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        # Listeners never end by themselves.
        self._app.state.gateway.hub.dismiss()
        await super().shutdown(sockets)

    async def startup(self, sockets: list[socket] | None = None) -> None:
        await super().startup(sockets)
        for server in self.servers:
            for listener in server.sockets:
                host, port = listener.getsockname()[:2]
                log.info("the gateway answers on http://%s:%d", host, port)


def _protocol(timeout: float) -> type[H11Protocol]:
    """HTTP/1.1 that hangs up on clients which do not finish their request's head in time."""

    class Patient(H11Protocol):
        _head: TimerHandle | None = None

        def connection_made(self, transport: Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
            super().connection_made(transport)
            self._head = self.loop.call_later(timeout, self._hang_up_without_head)

        def connection_lost(self, exc: Exception | None) -> None:
            if self._head is not None:
                self._head.cancel()
            super().connection_lost(exc)

        def _hang_up_without_head(self) -> None:
            if self.cycle is None and not self.transport.is_closing():
                cast("Transport", self.transport).close()

    return Patient
