"""The registered models, remembered for a moment: every upload asks for one."""

from __future__ import annotations

import threading
import time

from graticule.jobs import model_name
from graticule.manifest import Manifest
from graticule.registry import Registry

_REMEMBERED = 5.0
"""Seconds."""


class Models:
    """Looks models up. Thread-safe."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, Manifest]] = {}

    def resolve(self, reference: str) -> Manifest:
        """The manifest behind `name` or `name@version`. Raises UnknownModel, StoreUnavailable."""
        now = time.monotonic()
        with self._lock:
            asked, manifest = self._known.get(reference, (0.0, None))
        if manifest is None or now - asked > _REMEMBERED:
            manifest = self.registry.resolve(reference)
            with self._lock:
                self._known[reference] = (now, manifest)
        return manifest

    def remembered(self, reference: str) -> Manifest | None:
        """The manifest if it need not be asked for."""
        asked, manifest = self._known.get(reference, (0.0, None))
        return manifest if time.monotonic() - asked <= _REMEMBERED else None

    def in_production(self) -> list[Manifest]:
        """Every model that has a version in production, by name."""
        return [self.resolve(name) for name in sorted(self.registry.names())]

    def versions(self, reference: str) -> list[str]:
        """Published versions of a model."""
        return self.registry.versions(model_name(reference))
