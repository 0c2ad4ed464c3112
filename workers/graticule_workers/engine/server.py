"""The engine process: holds the models and runs them for the task processes of its worker."""

from __future__ import annotations

import logging
import os
import socket
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from graticule.errors import GraticuleError, InvalidManifest
from graticule.manifest import Manifest
from graticule.registry import Registry
from graticule.tensors import Tensors, decode, encode
from graticule_workers.engine.channel import Channel, Segment, bytes_of
from graticule_workers.engine.pool import ModelPool
from graticule_workers.engine.session import Array

log = logging.getLogger(__name__)


class EngineServer:
    """Answers on a Unix socket; one thread for each connection, which is one thread of a task process."""

    def __init__(self, pool: ModelPool, registry: Registry, path: Path) -> None:
        self._pool = pool
        self._registry = registry
        self._path = path
        self._manifests: dict[str, Manifest] = {}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._visits: set[threading.Thread] = set()

    def serve(self) -> None:
        """Answer until `close` is called and the last visitor has hung up."""
        self._accept()
        for visit in list(self._visits):
            visit.join()

    def _accept(self) -> None:
        self._path.unlink(missing_ok=True)
        self._socket.bind(str(self._path))
        os.chmod(self._path, 0o600)  # noqa: PTH101 (a socket)
        self._socket.listen(1024)
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # closed
                return
            visit = threading.Thread(target=self._receive, args=(Channel(connection),), name="visitor", daemon=True)
            self._visits.add(visit)
            visit.start()

    def _receive(self, channel: Channel) -> None:
        _Visitor(self, channel).serve()
        self._visits.discard(threading.current_thread())

    def close(self) -> None:
        """Accept nobody any more."""
        # Closing alone would not wake the thread that accepts.
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def load(self, reference: str, sha256: str, visitor: _Visitor) -> dict[str, Any]:
        """Have a model loaded; its state."""
        return asdict(self._pool.load(self._manifest(reference, sha256), started=visitor.tell_start))

    def infer(self, images: Array, question: dict[str, Any], visitor: _Visitor) -> Array:
        """Run a model."""
        manifest = self._manifest(question["model"], question["sha256"])
        return self._pool.infer(manifest, images, **_how(question), started=visitor.tell_start)

    def run(self, feed: Tensors, question: dict[str, Any], visitor: _Visitor) -> Tensors:
        """Run a model's graph on its inputs."""
        manifest = self._manifest(question["model"], question["sha256"])
        return self._pool.run(manifest, feed, **_how(question), started=visitor.tell_start)

    def keep(self, references: list[str]) -> None:
        """Unload the rest."""
        self._pool.keep(references)

    def models(self) -> list[dict[str, Any]]:
        """The models that are loaded."""
        return [asdict(state) for state in self._pool.models()]

    def _manifest(self, reference: str, sha256: str) -> Manifest:
        """The manifest of a version; what the task process has read and what is read here must be the same model."""
        key = f"{reference} {sha256}"
        if key not in self._manifests:
            manifest = self._registry.resolve(reference)
            if manifest.model.sha256 != sha256:
                raise InvalidManifest(f"{reference} was replaced in the registry while a job used it.")
            self._manifests[key] = manifest
        return self._manifests[key]


class _Visitor:
    """One thread of a task process, as the engine process sees it."""

    def __init__(self, server: EngineServer, channel: Channel) -> None:
        self.channel = channel
        self._server = server
        self._segment: Segment | None = None
        self._output: Array | bytes = b""

    def serve(self) -> None:
        """Answer its questions until it hangs up."""
        try:
            while True:
                question, descriptor = self.channel.receive()
                self.channel.send(self._answer(question, descriptor))
        except (EOFError, OSError):
            self.channel.close()

    def tell_start(self) -> None:
        """What was asked for begins: should this process die from now on, it may have died of it."""
        self.channel.send({"started": True})

    def _answer(self, question: dict[str, Any], descriptor: int | None) -> dict[str, Any]:
        try:
            return {"answer": getattr(self, "_do_" + question["do"])(question, descriptor)}
        except GraticuleError as error:
            return {"error": error.kind, "message": str(error)}
        except OSError:
            raise
        except Exception as error:
            log.exception("the engine could not answer %s", question)
            return {"error": "InferenceFailed", "message": f"Unexpected {type(error).__name__}: {error}."}

    def _do_load(self, question: dict[str, Any], _: int | None) -> dict[str, Any]:
        return self._server.load(question["model"], question["sha256"], self)

    def _do_keep(self, question: dict[str, Any], _: int | None) -> None:
        self._server.keep(question["references"])

    def _do_models(self, _: dict[str, Any], __: int | None) -> list[dict[str, Any]]:
        return self._server.models()

    def _do_segment(self, question: dict[str, Any], descriptor: int | None) -> None:
        assert descriptor is not None, "a segment comes with its descriptor"
        self._segment = Segment(descriptor, question["size"])
        os.close(descriptor)

    def _do_infer(self, question: dict[str, Any], _: int | None) -> dict[str, Any]:
        assert self._segment is not None, "a segment comes before its images"
        output = self._server.infer(self._segment.array(question["shape"]), question, self)
        return {"shape": list(output.shape), "placed": self._place_if_it_fits(output)}

    def _do_run(self, question: dict[str, Any], _: int | None) -> dict[str, Any]:
        assert self._segment is not None, "a segment comes before its tensors"
        output = encode(self._server.run(decode(self._segment.view(question["size"])), question, self))
        return {"size": len(output), "placed": self._place_if_it_fits(output)}

    def _do_place(self, _: dict[str, Any], __: int | None) -> None:
        """The output did not fit; meanwhile there is a larger segment."""
        self._place_output()

    def _place_if_it_fits(self, output: Array | bytes) -> bool:
        assert self._segment is not None
        self._output = output
        fits = _bytes_in(output) <= self._segment.size
        if fits:
            self._place_output()
        return fits

    def _place_output(self) -> None:
        assert self._segment is not None
        assert _bytes_in(self._output) <= self._segment.size
        if isinstance(self._output, bytes):
            self._segment.view(len(self._output))[:] = self._output
        else:
            np.copyto(self._segment.array(self._output.shape), self._output)


def _bytes_in(output: Array | bytes) -> int:
    return len(output) if isinstance(output, bytes) else bytes_of(output.shape)


def _how(question: dict[str, Any]) -> dict[str, Any]:
    return {name: question[name] for name in ("job", "alone", "urgent")}
