"""The version of a model that is in production, and those that were before: the contents of `production.json`.

One object, replaced as a whole: whoever reads it finds one version with its history, never a half of each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import AwareDatetime, ConfigDict, Field, StringConstraints

from graticule.jobs import VERSION_PATTERN, Message, utc_now

LONGEST_HISTORY = 20
"""Earlier versions that are remembered."""


class Promotion(Message):
    """A version that went into production."""

    # A newer graticule may write more into the file than this one knows.
    model_config = ConfigDict(frozen=True, extra="ignore")

    version: Annotated[str, StringConstraints(pattern=rf"^{VERSION_PATTERN}$")]
    since: AwareDatetime | None = Field(default=None, description="When it went into production; none: not recorded.")


class Production(Promotion):
    """The version in production."""

    history: tuple[Promotion, ...] = Field(default=(), description="What was in production before, newest first.")


def promoted(now: Production | None, version: str) -> Production:
    """What holds after `version` was promoted. It changes nothing to promote the version that is in production."""
    if now is None:
        return Production(version=version, since=utc_now())
    if now.version == version:
        return now
    history = (Promotion(version=now.version, since=now.since), *now.history)
    return Production(version=version, since=utc_now(), history=history[:LONGEST_HISTORY])


def rolled_back(now: Production, is_published: Callable[[str], bool]) -> Production | None:
    """What holds after a rollback: the latest other version that is still published. None: there is none."""
    for place, earlier in enumerate(now.history):
        if earlier.version != now.version and is_published(earlier.version):
            return Production(version=earlier.version, since=utc_now(), history=now.history[place + 1 :])
    return None
