"""What every route of the gateway works with."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from graticule.dead_letters import DeadLetters
from graticule.job_index import JobIndex
from graticule.records import Records
from graticule.registry import Registry
from graticule.settings import Settings
from graticule.store import Store
from graticule.submit import Submitter
from graticule.tokens import TokenStore
from graticule.workers_index import WorkersIndex
from graticule_producers.gateway.access import Access
from graticule_producers.gateway.guard import LOOPBACK_NAMES
from graticule_producers.gateway.hub import EventHub
from graticule_producers.gateway.idempotency import Repeats
from graticule_producers.gateway.jobs import Jobs
from graticule_producers.gateway.models import Models
from graticule_producers.gateway.queues import Queues
from graticule_producers.gateway.renderings import Renderings

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class Gateway:
    """The parts of one gateway process, wired together."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = Store(settings)
        self.records = Records(self.store)
        self.dead_letters = DeadLetters(settings, self.records)
        self.models = Models(Registry(self.store))
        self.index = JobIndex(settings)
        self.queues = Queues(settings)
        self.workers = WorkersIndex(settings)
        self.repeats = Repeats(settings)
        self.hub = EventHub(settings, self.index, self.records)
        self.access = Access(settings, TokenStore(self.store), required=wants_tokens(settings))
        submitter = Submitter(settings, producer="gateway", store=self.store)
        self.jobs = Jobs(settings, submitter, self.index, self.hub)
        self.renderings = Renderings(self.store, self.models, settings)


def gateway_of(request: Request) -> Gateway:
    """The gateway that a request came to."""
    return request.app.state.gateway


Core = Annotated[Gateway, Depends(gateway_of)]


def is_loopback(settings: Settings) -> bool:
    """Whether nobody outside this machine can reach the gateway."""
    return settings.gateway_host in _LOOPBACK


def wants_tokens(settings: Settings) -> bool:
    """Whether callers need a token."""
    return settings.gateway_auth == "on" or (settings.gateway_auth == "auto" and not is_loopback(settings))


def allowed_hosts(settings: Settings) -> frozenset[str]:
    """Names by which the gateway may be called; empty: any."""
    named = listed(settings.gateway_hosts)
    return named | LOOPBACK_NAMES if named or is_loopback(settings) else frozenset()


def listed(text: str) -> frozenset[str]:
    """The items of a comma-separated setting."""
    return frozenset(item.strip().lower() for item in text.split(",") if item.strip())
