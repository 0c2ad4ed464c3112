"""Which version a job gets: the one that it names, or the one in production that is loaded and warm."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from graticule.errors import BadInput
from graticule.jobs import model_name
from graticule.manifest import Manifest
from graticule.registry import Registry
from graticule_workers.engine.pool import Engine

log = logging.getLogger(__name__)


class Catalogue:
    """Remembers manifests, so that a job costs no look into the registry. Thread-safe.

    `follow` is to be called every few seconds: it loads a version that was promoted beside the old one, and only then
    lets jobs have it.
    """

    def __init__(self, registry: Registry, engine: Engine, *, serves: Callable[[str], bool]) -> None:
        """`serves` tells whether this worker wants a model, by name."""
        self._registry = registry
        self._engine = engine
        self._serves = serves
        self._lock = threading.Lock()
        self._production: dict[str, Manifest] = {}
        self._pinned: dict[str, Manifest] = {}
        self._complaints: dict[str, str] = {}

    def resolve(self, reference: str) -> Manifest:
        """The manifest that `name` or `name@version` stands for now. Raises UnknownModel, StoreUnavailable."""
        with self._lock:
            found = self._production.get(reference) or self._pinned.get(reference)
        if found:
            return found
        manifest = self._registry.resolve(reference)
        known = self._production if reference == model_name(reference) else self._pinned
        with self._lock:
            return known.setdefault(reference, manifest)

    def follow(self) -> list[str]:
        """Load what was promoted since, forget what is gone; the names of all models to serve.

        A model that cannot be used is named too: its jobs have to end with the reason.
        """
        names = [name for name in self._registry.names() if self._serves(name)]
        for name in names:
            try:
                self._switch(name, self._registry.production(name))
            except BadInput as error:
                self._complain_once(name, error)
        with self._lock:
            for gone in set(self._production) - set(names):
                del self._production[gone]
            kept = {manifest.reference for manifest in self._production.values()}
        self._engine.keep(kept)
        return names

    def _switch(self, name: str, version: str | None) -> None:
        with self._lock:
            before = self._production.get(name)
        if version is None or (before and before.version == version):
            return
        manifest = self._registry.resolve(f"{name}@{version}")
        self._engine.load(manifest)
        with self._lock:
            self._production[name] = manifest
        if before:
            log.info("%s: version %s takes over from %s", name, version, before.version)

    def _complain_once(self, name: str, error: BadInput) -> None:
        if self._complaints.get(name) != str(error):
            self._complaints[name] = str(error)
            log.error("model %s cannot be used: %s", name, error)
