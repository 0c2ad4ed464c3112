"""The Idempotency-Key: a request that is repeated after a lost answer gives the same jobs, and sends nothing twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import cast

from graticule.broker import connect_redis, translated_redis_errors
from graticule.settings import Settings
from graticule_producers.gateway.jobs import Order
from graticule_producers.gateway.problems import Problem
from graticule_producers.gateway.uploads import UploadedFile

LONGEST_KEY = 200

_REMEMBERED = 24 * 3600
_AT_WORK = 120
"""Seconds after which a request that never ended counts as lost."""


class Repeats:
    """Remembers what requests with a key led to, for a day."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._redis = connect_redis(settings)

    def begin(self, caller: str, key: str, fingerprint: str) -> list[str] | None:
        """The jobs that the same request led to before; None: it is new, `end` or `abandon` must follow.

        Raises Problem: the key was used for another request (422), or the first one is not done yet (409).
        """
        if len(key) > LONGEST_KEY:
            raise Problem(422, f"An Idempotency-Key may have {LONGEST_KEY} characters.")
        name, note = self._name(caller, key), json.dumps({"fingerprint": fingerprint, "jobs": None})
        with translated_redis_errors(self.settings):
            if self._redis.set(name, note, nx=True, ex=_AT_WORK):
                return None
            raw = cast("str | None", self._redis.get(name))
        known = json.loads(raw) if raw else {"fingerprint": fingerprint, "jobs": None}
        if known["fingerprint"] != fingerprint:
            raise Problem(422, "This Idempotency-Key was used for another request. Use a new key.")
        if known["jobs"] is None:
            raise Problem(409, "The first request with this Idempotency-Key is not done yet.", retry_after=1)
        return known["jobs"]

    def end(self, caller: str, key: str, fingerprint: str, jobs: list[str]) -> None:
        """The request led to these jobs."""
        with translated_redis_errors(self.settings):
            note = json.dumps({"fingerprint": fingerprint, "jobs": jobs})
            self._redis.set(self._name(caller, key), note, ex=_REMEMBERED)

    def abandon(self, caller: str, key: str) -> None:
        """The request failed: it may be repeated at once."""
        with translated_redis_errors(self.settings):
            self._redis.delete(self._name(caller, key))

    def _name(self, caller: str, key: str) -> str:
        hashed = hashlib.sha256(f"{caller}\n{key}".encode("utf-8", "replace")).hexdigest()
        return f"{self.settings.key_prefix}graticule:repeat:{hashed}"


def fingerprint_of(order: Order, files: Iterable[UploadedFile]) -> str:
    """What makes two requests the same: the order, and the names and bytes of the pictures."""
    digest = hashlib.sha256(order.model_dump_json().encode())
    for received in files:
        received.file.seek(0)
        content = hashlib.file_digest(received.file, "sha256").hexdigest()  # pyright: ignore[reportArgumentType]
        digest.update(f"\n{received.filename}\n{content}".encode("utf-8", "replace"))
    return digest.hexdigest()
