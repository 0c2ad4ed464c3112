"""What stands before every route: an id for each request, security headers, hosts and origins, slow clients, sizes.

Plain ASGI: nothing here holds a body in memory or stands between a stream and its reader.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from graticule_producers.gateway import metrics
from graticule_producers.gateway.problems import Problem, refusal, unexpected

log = logging.getLogger(__name__)

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
CONTENT_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "manifest-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_SLOWEST = 1024.0
"""Bytes a second that a client must send on average, once the time without a byte is over."""


class Guard:
    """Wraps the application."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: frozenset[str],
        origins: frozenset[str],
        max_body: int,
        body_timeout: float,
    ) -> None:
        """`hosts`: names by which the gateway may be called, empty for any; `origins`: those that CORS allows."""
        self.app = app
        self.hosts = hosts
        self.origins = origins
        self.max_body = max_body
        self.body_timeout = body_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer = _Answer(scope, send)
        scope.setdefault("state", {})["request_id"] = answer.request_id
        body = _Body(receive, self.max_body, self.body_timeout)
        try:
            self._admit(scope)
            await self.app(scope, body, answer)
        except Problem as problem:
            await _refuse(problem, scope, answer)
        except Exception as error:
            await self._fail(error, scope, answer)
        finally:
            answer.count()

    def _admit(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self.hosts and _without_port(host) not in self.hosts:
            # A page elsewhere whose name was bent to this address (DNS rebinding) must not reach the gateway.
            raise Problem(421, f"This gateway is not called {host!r}. GRATICULE_GATEWAY_HOSTS names its hosts.")
        if scope["method"] not in _SAFE_METHODS and self._is_foreign(headers, host):
            raise Problem(403, "This comes from a page of another origin. GRATICULE_GATEWAY_ORIGINS names some.")
        if (length := headers.get("content-length", "")).isdigit() and int(length) > self.max_body:
            raise too_large(self.max_body, f"found {int(length):,}")

    def _is_foreign(self, headers: Headers, host: str) -> bool:
        """Whether a browser says that another site's page sends this. Programs say nothing."""
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if site in ("same-origin", "none"):
            return False
        if origin is None:
            return site is not None
        return origin not in self.origins and urlsplit(origin).netloc != host

    async def _fail(self, error: Exception, scope: Scope, answer: _Answer) -> None:
        if answer.started:
            log.error("error %s: after the answer had begun", answer.request_id, exc_info=error)
            raise error
        await unexpected(answer.request_id, error, scope["path"])(scope, _nothing_more, answer)


def too_large(limit: int, found: str) -> Problem:
    """The answer to a body over the limit."""
    return Problem(
        413,
        f"The request is too large: at most {limit:,} bytes are accepted (GRATICULE_GATEWAY_MAX_BODY), {found}.",
        error="ImageTooLarge",
        close=True,
    )


class _Answer:
    """The way out: adds the headers that every answer has, and remembers the status."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.scope, self.send = scope, send
        self.request_id = secrets.token_hex(8)
        self.started = False
        self.status = 0
        self._began = time.perf_counter()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started, self.status = True, message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-ID"] = self.request_id
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
            headers.setdefault("Cache-Control", "no-store")
        await self.send(message)

    def count(self) -> None:
        """Put the request into the metrics, under its route's pattern: a path may hold anything."""
        route = getattr(self.scope.get("route"), "path", "") or "other"
        metrics.count_request(route, self.scope["method"], self.status, time.perf_counter() - self._began)


class _Body:
    """The way in: gives up clients that are too slow, and bodies that are too large although they did not say so."""

    def __init__(self, receive: Receive, limit: int, timeout: float) -> None:
        self._receive, self._limit, self._timeout = receive, limit, timeout
        self._received = 0
        self._complete = False
        self._began: float | None = None

    async def __call__(self) -> Message:
        if self._complete:  # waiting for the client to leave may take for ever
            return await self._receive()
        self._began = self._began or time.monotonic()
        try:
            message = await asyncio.wait_for(self._receive(), self._timeout)
        except TimeoutError:
            raise self._too_slow() from None
        if message["type"] == "http.request":
            self._received += len(message.get("body", b""))
            self._complete = not message.get("more_body", False)
            self._check()
        return message

    def _check(self) -> None:
        if self._received > self._limit:
            raise too_large(self._limit, "the body goes on")
        assert self._began is not None
        late = time.monotonic() - self._began - self._timeout
        if not self._complete and late > 0 and self._received < late * _SLOWEST:
            raise self._too_slow()

    def _too_slow(self) -> Problem:
        return Problem(408, f"The request came too slowly: {self._received:,} bytes so far.", close=True)


async def _refuse(problem: Problem, scope: Scope, answer: _Answer) -> None:
    """Answer before any route was reached."""
    await refusal(answer.request_id, problem, scope["path"])(scope, _nothing_more, answer)


async def _nothing_more() -> Message:
    return {"type": "http.disconnect"}


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower()
