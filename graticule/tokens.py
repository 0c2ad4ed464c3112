"""Tokens: who may ask the gateway for what. The store keeps only a hash of the secret.

A token reads `grt_<id>_<secret>`. The secret has 256 random bits, so that one round of SHA-256 is enough: there is
nothing to guess.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from datetime import datetime, timedelta
from enum import StrEnum

from pydantic import AwareDatetime, Field

from graticule.errors import BadInput, NotFound
from graticule.jobs import Message, Sha256, utc_now
from graticule.store import Store

PREFIX = "tokens/"
_TOKEN = re.compile(r"^grt_(?P<id>[0-9a-f]{12})_(?P<secret>[A-Za-z0-9_-]{43})$")
_ID = re.compile(r"^[0-9a-f]{12}$")


class Scope(StrEnum):
    """What a token is good for."""

    SUBMIT = "submit"
    READ = "read"
    ADMIN = "admin"


class Token(Message):
    """A token as it is kept."""

    id: str = Field(description="12 hexadecimal digits; not secret.")
    name: str = Field(description="Who or what it is for.")
    secret_sha256: Sha256
    scopes: frozenset[Scope]
    created_at: AwareDatetime
    expires_at: AwareDatetime | None = Field(default=None, description="None: never.")

    def allows(self, scope: Scope) -> bool:
        """Whether it is good for `scope`; admin is good for everything."""
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def is_expired(self, now: datetime) -> bool:
        """Whether its time is over."""
        return self.expires_at is not None and now >= self.expires_at


class TokenStore:
    """The tokens of one cluster, in the bucket `access`. Thread-safe. Every method raises StoreUnavailable."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def create(self, name: str, scopes: frozenset[Scope], lifetime: timedelta | None) -> tuple[Token, str]:
        """Make a token; the token and its text, which cannot be had again."""
        identity, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        now = utc_now()
        token = Token(
            id=identity,
            name=name,
            secret_sha256=_hashed(secret),
            scopes=scopes,
            created_at=now,
            expires_at=now + lifetime if lifetime else None,
        )
        self.store.create_buckets()  # a store made by an earlier version has no such bucket
        self.store.put("access", _key(identity), token.model_dump_json().encode(), "application/json")
        return token, f"grt_{identity}_{secret}"

    def adopt(self, name: str, scopes: frozenset[Scope], text: str) -> Token:
        """Make a text that somebody else drew at random a token without an end. Raises BadInput: it is none."""
        match = _TOKEN.match(text)
        if match is None:
            raise BadInput(
                f"What should become the token {name!r} does not read grt_<12 hexadecimal digits>_<43 characters>.",
                data="No token was made of it.",
            )
        token = Token(
            id=match["id"], name=name, secret_sha256=_hashed(match["secret"]), scopes=scopes, created_at=utc_now()
        )
        self.store.put("access", _key(token.id), token.model_dump_json().encode(), "application/json")
        return token

    def list(self) -> list[Token]:
        """Every token, the oldest first."""
        try:
            keys = self.store.keys("access", PREFIX)
        except NotFound:
            return []
        tokens = (self.get(key.removeprefix(PREFIX).removesuffix(".json")) for key in keys)
        return sorted((token for token in tokens if token), key=lambda token: token.created_at)

    def get(self, identity: str) -> Token | None:
        """The token of that id; None: there is none."""
        if not _ID.match(identity):
            return None
        try:
            return Token.model_validate_json(self.store.get("access", _key(identity)))
        except NotFound:
            return None

    def revoke(self, identity: str) -> Token:
        """Make a token worthless. Raises BadInput when there is none of that id."""
        token = self.get(identity)
        if token is None:
            raise BadInput(f"There is no token {identity!r}.", advice="See: graticule tokens list")
        self.store.remove("access", _key(identity))
        return token

    def verify(self, text: str) -> Token | None:
        """The token that a text stands for, whether or not it has expired; None: it is worthless."""
        match = _TOKEN.match(text)
        token = self.get(match["id"]) if match else None
        if match is None or token is None:
            return None
        return token if hmac.compare_digest(token.secret_sha256, _hashed(match["secret"])) else None


def token_id(text: str) -> str:
    """The id within a token's text, unchecked; empty: it is none."""
    match = _TOKEN.match(text)
    return match["id"] if match else ""


def _key(identity: str) -> str:
    return f"{PREFIX}{identity}.json"


def _hashed(secret: str) -> str:
    return hashlib.sha256(secret.encode("ascii")).hexdigest()
