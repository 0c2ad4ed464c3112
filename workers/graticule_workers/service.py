"""The worker process: a Celery worker with the threads pool, its engine, and its housekeeping thread."""

from __future__ import annotations

import logging
import os
import platform
import socket
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import celery
import cv2
import onnxruntime
from celery import Task, signals
from celery.exceptions import Reject, SecurityWarning
from celery.worker import WorkController
from pydantic import ValidationError

from graticule import __version__
from graticule.broker import ANALYSE_TASK, Bell, connect_redis, make_celery
from graticule.errors import BadInput, GraticuleError, Trouble
from graticule.events import Events
from graticule.jobs import Job, Lane, queue_name
from graticule.records import Records
from graticule.registry import Registry
from graticule.settings import Settings
from graticule.store import Store
from graticule.workers_index import WorkersIndex, WorkerStatus
from graticule_workers.engine.pool import ModelPool
from graticule_workers.reconciler import Reconciler
from graticule_workers.runner import DeadlineReached, Runner

log = logging.getLogger(__name__)

HEARTBEAT = 2.0
"""Seconds between two signs of life; new models are noticed as often."""


def _quiet_celery() -> None:
    """The runner writes one line for each job; Celery's two say nothing more."""
    for name in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Celery warns of running as root because of pickle, which is not accepted here.
    warnings.filterwarnings("ignore", category=SecurityWarning)


class WorkerService:
    """One worker process."""

    def __init__(self, settings: Settings, models: Sequence[str] = ()) -> None:
        """`models`: names of the models to serve; none: every model in the registry, also those published later."""
        cv2.setNumThreads(1)  # the task threads are the parallelism
        self.settings = settings
        self.only = frozenset(models)
        self.store = Store(settings)
        self.records = Records(self.store)
        self.registry = Registry(self.store)
        self.pool = ModelPool(self.registry, settings)
        self.redis = connect_redis(settings)
        self.index = WorkersIndex(settings, self.redis)
        self.runner = Runner(settings, self.records, self.pool, Events(settings, self.redis))
        self.app = make_celery(settings)
        self.name = f"{socket.gethostname()}-{os.getpid()}"
        self._started = time.time()
        self._queues: list[str] = []
        self._complaints: dict[str, str] = {}
        self._stopping = threading.Event()
        self._register_task()

    def serve(self) -> int:
        """Load the models and work until told to stop; the process's exit code."""
        self._queues = self._queues_once_store_answers()
        worker = self.app.Worker(
            pool="threads",
            concurrency=self.settings.worker_threads,
            queues=self._queues or [self.app.conf.task_default_queue],
            hostname=f"graticule@{self.name}",
            task_events=True,
            without_gossip=True,
            without_mingle=True,
            loglevel=self.settings.log_level.upper(),
            redirect_stdouts=False,
            quiet=True,
        )
        _quiet_celery()
        housekeeping = threading.Thread(target=self._keep_house, args=(worker,), name="housekeeping", daemon=True)
        signals.worker_ready.connect(lambda **_: housekeeping.start(), weak=False)
        signals.worker_shutting_down.connect(lambda **_: self._stopping.set(), weak=False)
        worker.start()
        self._stopping.set()
        self._quietly(lambda: self.index.leave(self.name))
        self.pool.close()
        return int(worker.exitcode or 0)

    # -- tasks -----------------------------------------------------------------------------------------------

    def _register_task(self) -> None:
        @self.app.task(name=ANALYSE_TASK, bind=True, acks_late=True, ignore_result=True)
        def analyse(task: Task, *args: Any) -> None:  # noqa: ANN401 (whatever a message holds)
            self._analyse(args)

    def _analyse(self, args: tuple[Any, ...]) -> None:
        """Run the job of a message; whatever happens, the message is either answered for or back in its queue."""
        try:
            job = Job.model_validate(args[0] if args else None)
        except ValidationError as error:
            key = self.records.keep_undecodable(repr(args).encode())
            log.error("a message is not a job and was kept as jobs/%s: %s", key, error)
            return
        try:
            self.runner.run(job)
        except DeadlineReached as error:
            log.warning("job %s goes back to its queue: %s", job.job_id, error)
            raise Reject(str(error), requeue=True) from error

    # -- housekeeping ------------------------------------------------------------------------------------------

    def _keep_house(self, worker: WorkController) -> None:
        reconciler = Reconciler(
            self.settings,
            self.records,
            Bell(self.settings),
            self.redis,
            known_models=self.registry.names,
            end_job=self.runner.fail,
        )
        next_sweep = time.monotonic()
        while not self._stopping.is_set():
            self._quietly(self._announce)
            self._quietly(lambda: self._follow_registry(worker))
            if time.monotonic() >= next_sweep:
                self._quietly(reconciler.sweep)
                next_sweep = time.monotonic() + self.settings.reconcile_interval
            self._stopping.wait(HEARTBEAT)

    def _quietly(self, action: Callable[[], object]) -> None:
        """Housekeeping goes on whatever happens; what went wrong is tried again at the next turn."""
        try:
            action()
        except GraticuleError as error:
            log.warning("%s", error)
        except Exception:
            log.exception("housekeeping failed")

    def _announce(self) -> None:
        loaded = self.pool.models()
        self.index.announce(
            WorkerStatus(
                name=self.name,
                host=socket.gethostname(),
                process=os.getpid(),
                state="ready",
                seen=time.time(),
                started=self._started,
                models=tuple(sorted(model.manifest.reference for model in loaded)),
                queues=tuple(self._queues),
                provider=loaded[0].provider if loaded else "",
                threads=self.settings.worker_threads,
                versions={
                    "graticule": __version__,
                    "python": platform.python_version(),
                    "onnxruntime": onnxruntime.__version__,
                    "celery": celery.__version__,
                },
            )
        )

    def _queues_once_store_answers(self) -> list[str]:
        """Load the first models. Without a store there is nothing to do but to wait for it."""
        while not self._stopping.is_set():
            try:
                return self._load_models()
            except Trouble as error:
                log.warning("%s Waiting.", error)
                self._stopping.wait(HEARTBEAT)
        return []

    def _load_models(self) -> list[str]:
        """Load what is to be served; the queues to listen to.

        A model that cannot be loaded keeps its queue, so that its jobs end with the reason instead of waiting.
        """
        queues = []
        for name in self._wanted():
            try:
                self.pool.get(name)
            except BadInput as error:
                self._complain_once(name, error)
            queues += [queue_name(name, lane) for lane in Lane]
        return queues

    def _complain_once(self, name: str, error: GraticuleError) -> None:
        if self._complaints.get(name) != str(error):
            self._complaints[name] = str(error)
            log.error("model %s cannot be used: %s", name, error)

    def _wanted(self) -> list[str]:
        names = self.registry.names()
        return [name for name in names if name in self.only] if self.only else names

    def _follow_registry(self, worker: WorkController) -> None:
        """Serve models that were published since, and load versions that were promoted before a job asks for them."""
        for queue in self._load_models():
            if queue not in self._queues:
                self._queues.append(queue)
                # Through the remote control, because the consumer belongs to another thread.
                self.app.control.add_consumer(queue, destination=[worker.hostname])
                log.info("now serving %s", queue)
