"""The engine as a task process sees it: the models live in another process, the pixels in memory that both share."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from graticule import errors
from graticule.errors import EngineLost, GraticuleError, InferenceFailed, InvalidManifest
from graticule.manifest import Manifest
from graticule.tensors import Tensors, decode, encode
from graticule_workers.engine.channel import Channel, Segment, bytes_of
from graticule_workers.engine.pool import ModelState
from graticule_workers.engine.session import Array

log = logging.getLogger(__name__)

_LOAD_DEATHS = 3
"""Engine processes that may die of loading a model before it counts as unusable."""


class RemoteEngine:
    """Speaks to the engine process. Each thread has a connection and a segment of its own. See `Engine`."""

    def __init__(self, path: Path) -> None:
        """`path`: the engine's Unix socket; nobody has to listen yet."""
        self._path = path
        self._mine = threading.local()
        self._lock = threading.Lock()
        self._states: dict[str, ModelState] = {}
        self._load_deaths: dict[str, int] = {}

    def load(self, manifest: Manifest) -> ModelState:
        """See `Engine.load`."""
        key = f"{manifest.reference} {manifest.model.sha256}"
        if state := self._states.get(key):  # the engine loads it again by itself where need be
            return state
        if self._load_deaths.get(key, 0) >= _LOAD_DEATHS:
            raise InvalidManifest(f"The engine process died {_LOAD_DEATHS} times while it loaded {manifest.reference}.")
        try:
            answer = self._ask({"do": "load", **_name(manifest)})
        except EngineLost as error:
            if error.started:
                self._note_load_death(key)
            raise EngineLost(error.summary) from error  # that is the model's fault, not the job's
        self._states[key] = ModelState(**answer)
        return self._states[key]

    def infer(
        self, manifest: Manifest, images: Array, *, job: str = "", alone: bool = False, urgent: bool = False
    ) -> Array:
        """See `Engine.infer`. The answer lies in shared memory: it is good until this thread's next call."""
        self._make_room(images.nbytes)
        segment = self._segment()
        np.copyto(segment.array(images.shape), images)
        how = {"job": job, "alone": alone, "urgent": urgent}
        answer = self._ask({"do": "infer", **_name(manifest), "shape": list(images.shape), **how})
        if not answer["placed"]:
            self._make_room(bytes_of(answer["shape"]))
            self._ask({"do": "place"})
        return self._segment().array(answer["shape"])

    def run(
        self, manifest: Manifest, feed: Tensors, *, job: str = "", alone: bool = False, urgent: bool = False
    ) -> Tensors:
        """See `Engine.run`. Tensors travel as the bytes of their file."""
        data = encode(feed)
        self._make_room(len(data))
        self._segment().view(len(data))[:] = data
        how = {"job": job, "alone": alone, "urgent": urgent}
        answer = self._ask({"do": "run", **_name(manifest), "size": len(data), **how})
        if not answer["placed"]:
            self._make_room(answer["size"])
            self._ask({"do": "place"})
        return decode(bytes(self._segment().view(answer["size"])))

    def keep(self, references: Collection[str]) -> None:
        """See `Engine.keep`."""
        self._ask({"do": "keep", "references": sorted(references)})

    def models(self) -> list[ModelState]:
        """See `Engine.models`."""
        return [ModelState(**state) for state in self._ask({"do": "models"})]

    def close(self) -> None:
        """Nothing to do: the connections go with their threads."""

    def _note_load_death(self, key: str) -> None:
        with self._lock:
            self._load_deaths[key] = self._load_deaths.get(key, 0) + 1

    def _segment(self) -> Segment:
        return self._mine.segment

    def _make_room(self, size: int) -> None:
        """Have a segment of at least `size` bytes, which the engine knows."""
        channel = self._channel()
        segment: Segment | None = getattr(self._mine, "segment", None)
        if segment is not None and segment.size >= size:
            return
        segment, descriptor = Segment.create(size)
        try:
            self._exchange(channel, {"do": "segment", "size": size}, descriptor)
        finally:
            os.close(descriptor)
        self._mine.segment = segment

    def _ask(self, question: dict[str, Any]) -> Any:  # noqa: ANN401 (JSON)
        return self._exchange(self._channel(), question, None)

    def _exchange(self, channel: Channel, question: dict[str, Any], descriptor: int | None) -> Any:  # noqa: ANN401
        """Ask and wait for the answer. Raises what the engine raised, or EngineLost."""
        started = False
        try:
            channel.send(question, descriptor)
            while True:
                answer, _ = channel.receive()
                if "started" not in answer:
                    break
                started = True
        except (EOFError, OSError) as error:
            self._hang_up()
            raise EngineLost(
                "The engine process died while it was at this." if started else "The engine process is starting.",
                started=started,
            ) from error
        if "error" in answer:
            raise _as_raised(answer["error"], answer["message"])
        return answer["answer"]

    def _channel(self) -> Channel:
        channel: Channel | None = getattr(self._mine, "channel", None)
        if channel is None:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.connect(str(self._path))
            except OSError as error:
                connection.close()
                raise EngineLost("The engine process is starting.") from error
            channel = self._mine.channel = Channel(connection)
        return channel

    def _hang_up(self) -> None:
        """Forget connection and segment: the next engine process knows neither."""
        self._mine.channel.close()
        self._mine.channel = None
        self._mine.segment = None
        self._states.clear()


def _name(manifest: Manifest) -> dict[str, str]:
    return {"model": manifest.reference, "sha256": manifest.model.sha256}


def _as_raised(kind: str, message: str) -> GraticuleError:
    """The error that the engine process raised."""
    found = getattr(errors, kind, None)
    if isinstance(found, type) and issubclass(found, GraticuleError):
        return found(message)
    return InferenceFailed(message)
