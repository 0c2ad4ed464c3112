"""Who asks, and what they may: bearer tokens for programs, a session cookie for browsers, a limit for each."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import cast

from fastapi import Request, Security
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer

from graticule.broker import connect_redis, translated_redis_errors
from graticule.jobs import utc_now
from graticule.settings import Settings
from graticule.tokens import Scope, Token, TokenStore, token_id
from graticule_producers.gateway.problems import LoginNeeded, Problem

COOKIE = "graticule_session"
CSRF_HEADER = "X-CSRF-Token"

_BELIEVED = 10.0
"""Seconds for which a token counts as good, or worthless, without asking the store."""
_MOST_BELIEVED = 1000
_WRONG_TRIES = 30
"""Worthless tokens that one address may show in a minute."""
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True)
class Caller:
    """Somebody who was let in."""

    name: str
    token: Token | None
    """None: the gateway wants no tokens."""
    csrf: str = ""
    """What a browser has to send along with every change."""

    def may(self, scope: Scope) -> bool:
        """Whether the caller's token is good for `scope`."""
        return self.token is None or self.token.allows(scope)


class Access:
    """Lets callers in."""

    def __init__(self, settings: Settings, tokens: TokenStore, *, required: bool) -> None:
        """`required`: whether a token is wanted at all."""
        self.settings = settings
        self.tokens = tokens
        self.required = required
        self.sessions = Sessions(settings)
        self._by_text: OrderedDict[str, tuple[float, Token | None]] = OrderedDict()
        self._by_id: OrderedDict[str, tuple[float, Token | None]] = OrderedDict()
        self._requests = Rate(settings.gateway_requests_per_minute)
        self._wrong = Rate(_WRONG_TRIES)

    async def caller(self, request: Request, bearer: str, cookie: str) -> Caller | None:
        """Who sends this request; None: nobody who is known. Raises Problem when there were too many requests."""
        if not self.required:
            return Caller("everybody", None)
        if bearer:
            token = await self.token(request, bearer)
            return self._admitted(Caller(token.name, token)) if token else None
        if cookie:
            return await self._browser(request, cookie)
        return None

    async def token(self, request: Request, text: str) -> Token | None:
        """The good token that a text stands for. Raises Problem after too many worthless ones."""
        address = request.client.host if request.client else ""
        self._wrong.check(address, "Too many worthless tokens came from this address.")
        key = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
        token = await _remembered(self._by_text, key, lambda: asyncio.to_thread(self.tokens.verify, text))
        if token is None or token.is_expired(utc_now()):
            self._wrong.count(address)
            return None
        return token

    async def log_in(self, request: Request, text: str) -> str | None:
        """Begin a browser's session with a token; the cookie's value, or None when the token is worthless."""
        token = await self.token(request, text)
        return await asyncio.to_thread(self.sessions.begin, token_id(text)) if token else None

    async def log_out(self, cookie: str) -> None:
        """End a browser's session."""
        await asyncio.to_thread(self.sessions.end, cookie)

    async def _browser(self, request: Request, cookie: str) -> Caller | None:
        session = await asyncio.to_thread(self.sessions.find, cookie)
        if session is None:
            return None
        token = await _remembered(
            self._by_id, session.token_id, lambda: asyncio.to_thread(self.tokens.get, session.token_id)
        )
        if token is None or token.is_expired(utc_now()):
            return None
        if request.method not in _SAFE_METHODS:
            given = request.headers.get(CSRF_HEADER, "")
            if not hmac.compare_digest(given.encode("utf-8", "replace"), session.csrf.encode()):
                raise Problem(403, f"A browser has to send the page's {CSRF_HEADER} along. Load the page again.")
        return self._admitted(Caller(token.name, token, session.csrf))

    def _admitted(self, caller: Caller) -> Caller:
        assert caller.token is not None
        self._requests.check(caller.token.id, "Too many requests (GRATICULE_GATEWAY_REQUESTS_PER_MINUTE).")
        self._requests.count(caller.token.id)
        return caller


@dataclass(frozen=True)
class Session:
    """A browser that logged in."""

    token_id: str
    csrf: str


class Sessions:
    """Sessions of browsers, in Redis under a hash of the cookie. Losing them means to log in again, no more."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._redis = connect_redis(settings)
        self.seconds = int(settings.gateway_session_hours * 3600)

    def begin(self, token_id: str) -> str:
        """A new session; the cookie's value. Raises BrokerUnavailable."""
        cookie, session = secrets.token_urlsafe(32), {"token_id": token_id, "csrf": secrets.token_urlsafe(32)}
        with translated_redis_errors(self.settings):
            self._redis.set(self._key(cookie), json.dumps(session), ex=self.seconds)
        return cookie

    def find(self, cookie: str) -> Session | None:
        """The session of a cookie; None: there is none, or no more. Raises BrokerUnavailable."""
        with translated_redis_errors(self.settings):
            raw = cast("str | None", self._redis.get(self._key(cookie)))
        return Session(**json.loads(raw)) if raw else None

    def end(self, cookie: str) -> None:
        """Forget a session. Raises BrokerUnavailable."""
        with translated_redis_errors(self.settings):
            self._redis.delete(self._key(cookie))

    def _key(self, cookie: str) -> str:
        hashed = hashlib.sha256(cookie.encode("utf-8", "surrogateescape")).hexdigest()
        return f"{self.settings.key_prefix}graticule:session:{hashed}"


class Rate:
    """Counts what each of many does, and tells who does too much: a bucket that refills evenly over a minute."""

    def __init__(self, per_minute: int) -> None:
        """`per_minute`: 0 allows any number."""
        self._per_minute = per_minute
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def check(self, who: str, sentence: str) -> None:
        """Raise Problem (429) when `who` has nothing left."""
        level = self._level(who)
        if self._per_minute and level < 1:
            raise Problem(429, sentence, error="TooManyRequests", retry_after=(1 - level) * 60 / self._per_minute)

    def count(self, who: str) -> None:
        """`who` did it once more."""
        self._levels[who] = (time.monotonic(), self._level(who) - 1)
        self._levels.move_to_end(who)
        while len(self._levels) > _MOST_BELIEVED:
            self._levels.popitem(last=False)

    def _level(self, who: str) -> float:
        now = time.monotonic()
        then, level = self._levels.get(who, (now, float(self._per_minute)))
        return min(self._per_minute, level + (now - then) * self._per_minute / 60)


_bearer = HTTPBearer(auto_error=False, description="A token made by `graticule tokens create`.")
_cookie = APIKeyCookie(name=COOKIE, auto_error=False, description="A browser's session, made by /login.")
Guarded = Callable[..., Awaitable[Caller]]


def require(scope: Scope) -> Guarded:
    """A dependency that lets in who may do `scope`, and answers 401 or 403 to others."""

    async def admitted(
        request: Request,
        bearer: HTTPAuthorizationCredentials | None = Security(_bearer),  # noqa: B008 (how FastAPI wants it)
        cookie: str | None = Security(_cookie),
    ) -> Caller:
        access: Access = request.app.state.gateway.access
        caller = await access.caller(request, bearer.credentials if bearer else "", cookie or "")
        if caller is None:
            raise Problem(401, "This needs a token (Authorization: Bearer ...), and none that is good was sent.")
        if not caller.may(scope):
            raise Problem(403, f"This needs a token with the scope {scope.value!r}.")
        return caller

    return admitted


def require_login(scope: Scope) -> Guarded:
    """A dependency of pages: who is not logged in is sent to the login page."""

    async def admitted(request: Request, cookie: str | None = Security(_cookie)) -> Caller:
        access: Access = request.app.state.gateway.access
        caller = await access.caller(request, "", cookie or "")
        if caller is None:
            raise LoginNeeded
        if not caller.may(scope):
            raise Problem(403, f"This page needs a token with the scope {scope.value!r}.")
        return caller

    return admitted


async def _remembered(
    memory: OrderedDict[str, tuple[float, Token | None]], key: str, ask: Callable[[], Awaitable[Token | None]]
) -> Token | None:
    """What was found out about a token a moment ago, or is now."""
    asked, token = memory.get(key, (0.0, None))
    if not asked or time.monotonic() - asked > _BELIEVED:
        token = await ask()
        memory[key] = (time.monotonic(), token)
        memory.move_to_end(key)
        while len(memory) > _MOST_BELIEVED:
            memory.popitem(last=False)
    return token
