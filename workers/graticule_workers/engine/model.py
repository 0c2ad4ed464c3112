"""A model that is loaded and warm."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from graticule.manifest import Manifest
from graticule.settings import Settings
from graticule.tensors import Tensors
from graticule_workers.engine.batcher import Batcher, Ran, Request, TensorRequest, name_native_thread
from graticule_workers.engine.session import CPU, Array, Session, chosen_provider, load_session, usable_cores
from graticule_workers.engine.streams import Plan, candidates, example, fastest, warm_up_shapes
from graticule_workers.engine.turnstile import Turnstile

log = logging.getLogger(__name__)

_BATCHES_PAY_BELOW = 0.005
"""Seconds of a run from which on larger batches, which cost memory, bring a CPU nothing: one picture keeps it busy."""


class LoadedModel:
    """A model in its sessions, with the threads that run it."""

    def __init__(self, manifest: Manifest, model: bytes, settings: Settings, turnstile: Turnstile, ran: Ran) -> None:
        """Load, measure, warm up. Raises InvalidManifest, DeviceUnavailable, OutOfMemory, InferenceFailed."""
        began, before = time.monotonic(), _resident_bytes()
        sessions = _Sessions(manifest, model, settings)
        self.manifest = manifest
        self.plan = _plan(sessions)
        lone, crowd = sessions.lone(self.plan), sessions.of(self.plan)
        for session in dict.fromkeys((lone, *crowd)):
            for shape in warm_up_shapes(manifest):
                session.run(example(manifest, shape))
        self.provider = lone.provider
        self.memory = max(_resident_bytes() - before, len(model))
        """Bytes that loading took: an estimate for the memory budget."""
        self.last_used = time.monotonic()
        self._users = 0
        self._lock = threading.Lock()
        self._batcher = Batcher(
            manifest.reference,
            lone.run,
            [session.run for session in crowd],
            self.plan.batch,
            tensors=lone.run_tensors,
            limit=manifest.batch_limit,
            turnstile=turnstile,
            ran=ran,
        )
        self.running = self._batcher.running
        log.info(
            "loaded %s on %s in %.2f s: %s", manifest.reference, self.provider, time.monotonic() - began, self.plan
        )

    @property
    def in_use(self) -> bool:
        """Whether a request is under way."""
        return self._users > 0

    @contextmanager
    def used(self) -> Iterator[None]:
        """Keep the model from being unloaded meanwhile."""
        with self._lock:
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
            self.last_used = time.monotonic()

    def infer(self, request: Request) -> Array:
        """Run the model on a request's pictures; blocks."""
        return self._batcher.infer(request)

    def run(self, request: TensorRequest) -> Tensors:
        """Run the model on tensors; blocks."""
        return self._batcher.run(request)

    def close(self) -> None:
        """Finish what waits and let the sessions go."""
        self._batcher.close()


class _Sessions:
    """Makes the sessions that plans ask for, each once."""

    def __init__(self, manifest: Manifest, model: bytes, settings: Settings) -> None:
        self.manifest = manifest
        self.settings = settings
        self.on_cpu = chosen_provider(settings) == CPU
        self._load = partial(load_session, manifest, model, settings)
        self._made: dict[int, list[Session]] = {}

    def of(self, plan: Plan) -> list[Session]:
        """One session for each stream. A session of one thread runs in its callers' threads: streams can share it."""
        made = self._made.setdefault(plan.threads, [])
        wanted = 1 if plan.threads == 1 else plan.streams
        while len(made) < wanted:
            made.append(self._load_named(plan.threads))
        return made[:1] * plan.streams if plan.threads == 1 else made[: plan.streams]

    def lone(self, plan: Plan) -> Session:
        """The session for a picture that has the machine to itself: all cores, on a CPU."""
        alone = Plan(1, max(plan.threads, usable_cores() if self._free_choice() else plan.threads))
        return self.of(alone)[0]

    def images(self, plan: Plan) -> Array:
        """A batch to measure a plan with."""
        return example(self.manifest, warm_up_shapes(self.manifest)[0], plan.batch)

    def _load_named(self, threads: int) -> Session:
        """The session's own threads take the name of the thread that makes it."""
        with ThreadPoolExecutor(1, initializer=name_native_thread, initargs=("engine",)) as maker:
            return maker.submit(self._load, threads).result()

    def _free_choice(self) -> bool:
        return self.on_cpu and not self.settings.inference_threads


def _plan(sessions: _Sessions) -> Plan:
    settings, maximum = sessions.settings, sessions.manifest.batch.maximum
    if not sessions.on_cpu:
        return Plan(settings.inference_streams or 1, settings.inference_threads or 1, maximum)
    options = candidates(usable_cores(), settings.inference_streams, settings.inference_threads)
    plan = fastest(options, sessions.of, sessions.images)
    if maximum == 1 or _seconds_of_a_run(sessions, plan) > _BATCHES_PAY_BELOW:
        return plan
    return fastest([plan, Plan(plan.streams, plan.threads, maximum)], sessions.of, sessions.images)


def _seconds_of_a_run(sessions: _Sessions, plan: Plan) -> float:
    session, images = sessions.of(plan)[0], sessions.images(plan)
    session.run(images)
    began = time.perf_counter()
    session.run(images)
    return time.perf_counter() - began


def _resident_bytes() -> int:
    """Resident memory of this process; 0 where the system does not tell."""
    if sys.platform != "linux":
        return 0
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096
