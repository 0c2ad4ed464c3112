"""The models that this worker holds, each loaded once."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from functools import partial

import numpy as np

from graticule.errors import InvalidManifest, UnfitImage
from graticule.jobs import model_name
from graticule.manifest import Manifest, Task
from graticule.registry import Registry
from graticule.results import ModelRef
from graticule.settings import Settings
from graticule_workers.engine.batcher import Array, Batcher
from graticule_workers.engine.session import load_session, run_session

log = logging.getLogger(__name__)

PIPELINES = (Task.SEMANTIC_SEGMENTATION,)
"""Tasks that this worker knows what to do with."""
POINTER_LIFETIME = 2.0
"""Seconds for which the version in production is remembered before the registry is asked again."""


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run."""

    manifest: Manifest
    provider: str
    batcher: Batcher

    @property
    def ref(self) -> ModelRef:
        """What results say about the model."""
        return ModelRef(name=self.manifest.name, version=self.manifest.version, sha256=self.manifest.model.sha256)

    def infer(self, tensor: Array, timeout: float) -> Array:
        """Run one picture, channels x height x width. Raises UnfitImage, InferenceFailed."""
        channels = self.manifest.inputs[0].shape[1]
        if isinstance(channels, int) and tensor.shape[0] != channels:
            raise UnfitImage(f"{self.manifest.reference} takes {channels} channels, found {tensor.shape[0]}.")
        return self.batcher.infer(tensor, timeout)


class ModelPool:
    """Loads models from the registry on demand. Thread-safe."""

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self._registry = registry
        self._settings = settings
        self._lock = threading.Lock()
        self._loading: dict[str, threading.Lock] = {}
        self._loaded: dict[str, LoadedModel] = {}
        self._resolved: dict[str, tuple[float, Manifest]] = {}

    def get(self, reference: str) -> LoadedModel:
        """The model that `name` or `name@version` stands for now, loaded and warm.

        Raises UnknownModel, InvalidManifest, StoreUnavailable.
        """
        manifest = self._resolve(reference)
        with self._lock:
            if model := self._loaded.get(manifest.reference):
                return model
            lock = self._loading.setdefault(manifest.reference, threading.Lock())
        with lock:
            with self._lock:
                if model := self._loaded.get(manifest.reference):
                    return model
            model = self._load(manifest)
            with self._lock:
                self._loaded[manifest.reference] = model
            return model

    def models(self) -> list[LoadedModel]:
        """The models that are loaded."""
        with self._lock:
            return list(self._loaded.values())

    def close(self) -> None:
        """Stop every engine after its last picture."""
        with self._lock:
            models, self._loaded = list(self._loaded.values()), {}
        for model in models:
            model.batcher.close()

    def _resolve(self, reference: str) -> Manifest:
        now = time.monotonic()
        with self._lock:
            found = self._resolved.get(reference)
        pinned = reference != model_name(reference)
        if found and (pinned or now - found[0] < POINTER_LIFETIME):
            return found[1]
        manifest = self._registry.resolve(reference)
        with self._lock:
            self._resolved[reference] = (now, manifest)
        return manifest

    def _load(self, manifest: Manifest) -> LoadedModel:
        if manifest.task not in PIPELINES:
            raise InvalidManifest(
                f"{manifest.reference} is a {manifest.task} model; this worker runs {', '.join(PIPELINES)}."
            )
        started = time.monotonic()
        session = load_session(manifest, self._registry.load(manifest), self._settings)
        run = partial(run_session, session, manifest)
        channels = manifest.inputs[0].shape[1]
        for height, width in manifest.warm_up.shapes:
            run(np.zeros((1, int(channels), height, width), np.float32))
        provider = session.get_providers()[0]
        log.info("loaded %s on %s in %.2f s", manifest.reference, provider, time.monotonic() - started)
        return LoadedModel(manifest, provider, Batcher(manifest.reference, run, manifest.batch.maximum))
