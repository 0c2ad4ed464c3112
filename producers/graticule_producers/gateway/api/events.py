"""`/api/v1/events`: what ends, as it ends (server-sent events), going on where a client lost the connection."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query
from fastapi.responses import StreamingResponse

from graticule.events import Event
from graticule_producers.gateway.api.jobs import Reading
from graticule_producers.gateway.core import Core
from graticule_producers.gateway.hub import Dismissed, Entry, EventHub, Listener, TooFarBehind, as_numbers
from graticule_producers.gateway.problems import documented

router = APIRouter(prefix="/api/v1", tags=["events"])

MEDIA_TYPE = "text/event-stream"
_HEARTBEAT = 15.0
"""Seconds: a line now and then keeps proxies from closing, and finds clients that are gone."""
_POSITION = r"^(\d{1,19}(-\d{1,19})?)?$"
_GREETING = "retry: 2000\n\n"
# Events between are lost: what the client shows is to be loaded again.
_RESET = "event: reset\ndata: {}\n\n"


@router.get(
    "/events",
    response_class=StreamingResponse,
    responses={200: {"content": {MEDIA_TYPE: {"schema": {"type": "string"}}}}, **documented(401, 403, 422, 429, 503)},
)
async def events(
    core: Core,
    _: Reading,
    stream: Annotated[str, Query(description="Only this stream.")] = "",
    model: Annotated[str, Query(description="Only this model.")] = "",
    last_event_id: Annotated[
        str, Header(pattern=_POSITION, description="Go on behind this event, as browsers do by themselves.")
    ] = "",
) -> StreamingResponse:
    """Each job that ends, as an event `job`. `reset`: events were lost, load again what you show."""
    chosen = _Chosen(stream, model)
    return StreamingResponse(_lines(core.hub, chosen, last_event_id), media_type=MEDIA_TYPE)


class _Chosen:
    """Which events a client wants."""

    def __init__(self, stream: str, model: str) -> None:
        self._stream, self._model = stream, model

    def __contains__(self, event: Event) -> bool:
        of_stream = not self._stream or event.stream == self._stream
        return of_stream and (not self._model or event.model.partition("@")[0] == self._model)


async def _lines(hub: EventHub, chosen: _Chosen, position: str) -> AsyncIterator[str]:
    yield _GREETING
    while True:
        try:
            async with hub.since(position) as (missed, listener):
                for entry in missed:
                    if entry[1] in chosen:
                        yield _line(entry)
                told = missed[-1][0] if missed else position or "0-0"
                async for line in _live(listener, chosen, told):
                    yield line
        except Dismissed:
            return
        except TooFarBehind:
            yield _RESET
            position = ""


async def _live(listener: Listener, chosen: _Chosen, told: str) -> AsyncIterator[str]:
    """What comes from now on, without what was told already."""
    last = as_numbers(told)
    while True:
        entry = await listener.next(_HEARTBEAT)
        if entry is None:
            yield ": still here\n\n"
        elif as_numbers(entry[0]) > last and entry[1] in chosen:
            yield _line(entry)


def _line(entry: Entry) -> str:
    position, event = entry
    return f"id: {position}\nevent: job\ndata: {json.dumps(event.model_dump(mode='json'))}\n\n"
