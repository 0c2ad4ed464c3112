"""The models that this process holds: loaded once, evicted when memory is short or nobody asks for them any more."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from graticule.errors import InvalidManifest
from graticule.manifest import Manifest, Task
from graticule.registry import Registry
from graticule.settings import Settings
from graticule.tensors import Tensors
from graticule_workers.engine.batcher import Request, Running, TensorRequest
from graticule_workers.engine.model import LoadedModel
from graticule_workers.engine.session import Array
from graticule_workers.engine.turnstile import Turnstile

log = logging.getLogger(__name__)

PIPELINES = (Task.SEMANTIC_SEGMENTATION,)
"""Tasks that this worker knows what to do with."""
IDLE_BEFORE_UNLOAD = 30.0
"""Seconds for which a version that is no longer in production is kept after its last picture."""


@dataclass(frozen=True)
class ModelState:
    """A loaded model, as others see it."""

    reference: str
    provider: str
    plan: str
    memory: int
    """Bytes, estimated."""


class Engine(Protocol):
    """Runs models, in this process or in another one."""

    def load(self, manifest: Manifest) -> ModelState:
        """Have a model loaded and warm. Raises InvalidManifest, DeviceUnavailable, StoreUnavailable."""
        ...

    def infer(
        self, manifest: Manifest, images: Array, *, job: str = "", alone: bool = False, urgent: bool = False
    ) -> Array:
        """Run a model on a batch; blocks. Loads the model where it was unloaded meanwhile.

        `job`: for the log; `alone`: with nothing else at work; `urgent`: before those that are not.
        """
        ...

    def run(
        self, manifest: Manifest, feed: Tensors, *, job: str = "", alone: bool = False, urgent: bool = False
    ) -> Tensors:
        """Run a model's graph on its inputs as they are, by themselves; blocks. Otherwise as `infer`."""
        ...

    def keep(self, references: Collection[str]) -> None:
        """Unload whatever is not among these versions and has been idle for a while."""
        ...

    def models(self) -> list[ModelState]:
        """The models that are loaded."""
        ...

    def close(self) -> None:
        """Finish what waits and let everything go."""
        ...


class ModelPool:
    """The engine in this process. Thread-safe."""

    def __init__(
        self,
        registry: Registry,
        settings: Settings,
        *,
        ran: Callable[[str, int, float], None] = lambda model, images, seconds: None,
    ) -> None:
        """`ran` is told after every run: name@version, pictures, seconds."""
        self._registry = registry
        self._settings = settings
        self._ran = ran
        self._turnstile = Turnstile()
        self._lock = threading.Lock()
        self._loading: dict[str, threading.Lock] = {}
        self._loaded: dict[str, LoadedModel] = {}

    def load(self, manifest: Manifest, *, started: Callable[[], None] = lambda: None) -> ModelState:
        """See `Engine.load`; `started` is called when loading begins, unless it is loaded already."""
        return _state(self._get(manifest, started))

    def infer(
        self,
        manifest: Manifest,
        images: Array,
        *,
        job: str = "",
        alone: bool = False,
        urgent: bool = False,
        started: Callable[[], None] = lambda: None,
    ) -> Array:
        """See `Engine.infer`; `started` is called when the run begins."""
        request = Request(images, job=job, alone=alone, urgent=urgent, started=started)
        with self._held(manifest) as model:
            return model.infer(request)

    def run(
        self,
        manifest: Manifest,
        feed: Tensors,
        *,
        job: str = "",
        alone: bool = False,
        urgent: bool = False,
        started: Callable[[], None] = lambda: None,
    ) -> Tensors:
        """See `Engine.run`; `started` is called when the run begins."""
        request = TensorRequest(feed, job=job, alone=alone, urgent=urgent, started=started)
        with self._held(manifest) as model:
            return model.run(request)

    def keep(self, references: Collection[str]) -> None:
        """See `Engine.keep`."""
        now = time.monotonic()
        with self._lock:
            idle = [
                model
                for model in self._loaded.values()
                if model.manifest.reference not in references and now - model.last_used > IDLE_BEFORE_UNLOAD
            ]
        for model in idle:
            self._unload(model)

    def models(self) -> list[ModelState]:
        """See `Engine.models`."""
        with self._lock:
            return [_state(model) for model in self._loaded.values()]

    def running(self) -> list[Running]:
        """The runs that are under way, of all models."""
        with self._lock:
            models = list(self._loaded.values())
        return [run for model in models for run in model.running()]

    def close(self) -> None:
        """See `Engine.close`."""
        with self._lock:
            models, self._loaded = list(self._loaded.values()), {}
        for model in models:
            model.close()

    @contextmanager
    def _held(self, manifest: Manifest) -> Iterator[LoadedModel]:
        """A model that is not unloaded meanwhile."""
        while True:
            model = self._get(manifest)
            with model.used():
                if self._loaded.get(_key(manifest)) is model:  # else it was evicted in between
                    yield model
                    return

    def _get(self, manifest: Manifest, started: Callable[[], None] = lambda: None) -> LoadedModel:
        key = _key(manifest)
        with self._lock:
            if model := self._loaded.get(key):
                return model
            lock = self._loading.setdefault(key, threading.Lock())
        with lock:
            with self._lock:
                if model := self._loaded.get(key):
                    return model
            started()
            model = self._load(manifest)
            with self._lock:
                self._loaded[key] = model
        self._make_room(model)
        return model

    def _load(self, manifest: Manifest) -> LoadedModel:
        if manifest.task not in PIPELINES:
            raise InvalidManifest(
                f"{manifest.reference} is a {manifest.task} model; this worker runs {', '.join(PIPELINES)}."
            )
        reference = manifest.reference
        return LoadedModel(
            manifest,
            self._registry.load(manifest),
            self._settings,
            self._turnstile,
            lambda images, seconds: self._ran(reference, images, seconds),
        )

    def _make_room(self, newest: LoadedModel) -> None:
        """Unload the models that were used least lately, until the rest fits into the budget."""
        budget = self._settings.model_memory * 1024**2
        if not budget:
            return
        with self._lock:
            by_use = sorted(self._loaded.values(), key=lambda model: model.last_used)
        excess = sum(model.memory for model in by_use) - budget
        for model in by_use:
            if excess <= 0:
                return
            if model is not newest and self._unload(model):
                excess -= model.memory

    def _unload(self, model: LoadedModel) -> bool:
        with self._lock:
            if model.in_use or self._loaded.pop(_key(model.manifest), None) is None:
                return False
        log.info("unloaded %s", model.manifest.reference)
        model.close()
        return True


def _key(manifest: Manifest) -> str:
    """A version that was removed and pushed again with other contents is another model."""
    return f"{manifest.reference} {manifest.model.sha256}"


def _state(model: LoadedModel) -> ModelState:
    return ModelState(model.manifest.reference, model.provider, str(model.plan), model.memory)
