"""The worker process: a Celery worker with the threads pool, and the threads that look after it."""

from __future__ import annotations

import logging
import os
import platform
import socket
import threading
import time
import warnings
from collections.abc import Callable, Collection
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
from graticule.errors import GraticuleError, Trouble
from graticule.events import Events
from graticule.jobs import Job, Lane, queue_name
from graticule.records import Records
from graticule.registry import Registry
from graticule.settings import Settings
from graticule.store import Store
from graticule.workers_index import WorkersIndex, WorkerStatus
from graticule_workers.engine.catalogue import Catalogue
from graticule_workers.engine.pool import Engine, ModelPool
from graticule_workers.health import Pulse
from graticule_workers.heart import HEARTBEAT, Heart
from graticule_workers.leases import Leases
from graticule_workers.metrics import Metrics
from graticule_workers.reconciler import Reconciler
from graticule_workers.replacement import replace_process
from graticule_workers.runner import DeadlineReached, Runner
from graticule_workers.suspects import ACCOUNTED, INNOCENT, Suspects
from graticule_workers.watchdog import Step, Watchdog, engine_steps

log = logging.getLogger(__name__)


def _quiet_celery() -> None:
    """The runner writes one line for each job; Celery's two say nothing more."""
    for name in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Celery warns of running as root because of pickle, which is not accepted here.
    warnings.filterwarnings("ignore", category=SecurityWarning)


class _Once:
    """Celery says that it is ready after every reconnection."""

    def __init__(self, *actions: Callable[[], None]) -> None:
        self._actions = list(actions)

    def __call__(self, **_: object) -> None:
        while self._actions:
            self._actions.pop(0)()


class WorkerService:
    """One worker process."""

    def __init__(
        self,
        settings: Settings,
        *,
        models: Collection[str] = (),
        lanes: Collection[Lane] = tuple(Lane),
        engine: Engine | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        """`models`: names of the models to serve; none: every model in the registry, also those published later.

        `engine`: what runs the models; default: sessions in this process.
        """
        cv2.setNumThreads(1)  # the task threads are the parallelism
        self.settings = settings
        self.only = frozenset(models)
        self.lanes = tuple(lanes)
        self.metrics = metrics or Metrics()
        self.redis = connect_redis(settings)
        self.records = Records(Store(settings))
        self.registry = Registry(self.records.store)
        self._pool = None if engine else ModelPool(self.registry, settings, ran=self.metrics.ran)
        self.engine: Engine = engine or self._pool  # pyright: ignore[reportAttributeAccessIssue]
        self.catalogue = Catalogue(self.registry, self.engine, serves=lambda name: not self.only or name in self.only)
        self.suspects = Suspects(settings, self.redis)
        events = Events(settings, self.redis)
        self.runner = Runner(settings, self.records, self.catalogue, self.engine, events, self.suspects, self.metrics)
        self.app = make_celery(settings)
        self.app.conf.worker_consumer = "graticule_workers.consumer:Consumer"
        self.name = f"{socket.gethostname()}-{os.getpid()}"
        self.leases = Leases(settings, self.redis)
        self.pulse = Pulse()
        self._started = time.time()
        self._queues: list[str] = []
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
        if self.settings.metrics_port:
            self.metrics.serve(self.settings.metrics_host, self.settings.metrics_port)
        heart, watchdog = self._heart(), Watchdog(self.settings, self._steps, self._replace_stuck)
        housekeeping = threading.Thread(target=self._keep_house, args=(worker,), name="housekeeping", daemon=True)
        signals.worker_ready.connect(_Once(heart.start, watchdog.start, housekeeping.start), weak=False)
        signals.worker_shutting_down.connect(lambda **_: self._stopping.set(), weak=False)
        signals.heartbeat_sent.connect(lambda **_: self.pulse.loop_turned(), weak=False)
        worker.start()
        if not self._stopping.is_set():
            # Celery gives up on errors of its own, for example when Redis goes while a message is being answered.
            time.sleep(HEARTBEAT)
            replace_process("Celery's worker ended although nobody told it to.")
        self._stopping.set()
        heart.stop()
        watchdog.stop()
        self._quietly(lambda: WorkersIndex(self.settings, self.redis).leave(self.name))
        self.runner.close()
        self.engine.close()
        return int(worker.exitcode or 0)

    # -- tasks -----------------------------------------------------------------------------------------------

    def _register_task(self) -> None:
        @self.app.task(name=ANALYSE_TASK, bind=True, acks_late=True, ignore_result=True)
        def analyse(task: Task, *args: Any) -> None:  # noqa: ANN401 (whatever a message holds)
            self._analyse(task, args)

    def _analyse(self, task: Task, args: tuple[Any, ...]) -> None:
        """Run the job of a message; whatever happens, the message is either answered for or back in its queue."""
        self.pulse.took_job()
        try:
            job = Job.model_validate(args[0] if args else None)
        except ValidationError as error:
            key = self.records.keep_undecodable(repr(args).encode())
            log.error("a message is not a job and was kept as jobs/%s: %s", key, error)
            return
        request = task.request
        redelivered = bool((request.delivery_info or {}).get("redelivered"))
        with self.leases.held(request.properties["delivery_tag"], job.job_id):
            try:
                self.runner.run(job, redelivered=redelivered)
            except DeadlineReached as error:
                log.warning("job %s goes back to its queue: %s", job.job_id, error)
                self._quietly(lambda: self.suspects.judge(job.job_id, INNOCENT))
                raise Reject(str(error), requeue=True) from error

    # -- looking after the process -------------------------------------------------------------------------------

    def _heart(self) -> Heart:
        return Heart(
            self.settings,
            self.redis,
            leases=self.leases,
            pulse=self.pulse,
            metrics=self.metrics,
            queues=lambda: list(self._queues),
            describe=self._describe,
            replace=replace_process,
        )

    def _describe(self, state: str) -> WorkerStatus:
        loaded = self.engine.models()
        self.metrics.loaded(loaded)
        return WorkerStatus(
            name=self.name,
            host=socket.gethostname(),
            process=os.getpid(),
            supervisor=os.getppid() if self._pool is None else os.getpid(),
            state=state,
            seen=time.time(),
            started=self._started,
            models=tuple(sorted(model.reference for model in loaded)),
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

    def _steps(self) -> list[Step]:
        steps = [Step(f"{stage} of job {job}", (job,), since) for job, stage, since in self.runner.native_steps()]
        return steps + (engine_steps(self._pool) if self._pool else [])

    def _replace_stuck(self, step: Step, why: str) -> None:
        """Replace this process; only the jobs of the step that is stuck are suspects."""
        for job in self.leases.jobs():
            self._quietly(lambda job=job: self._judge(job, step, why))
        replace_process(why)

    def _judge(self, job: str, step: Step, why: str) -> None:
        if job in step.jobs:
            self.suspects.note(job, why)
        self.suspects.judge(job, ACCOUNTED if job in step.jobs else INNOCENT)

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

    def _queues_once_store_answers(self) -> list[str]:
        """Load the first models. Without a store there is nothing to do but to wait for it."""
        while not self._stopping.is_set():
            try:
                return self._queues_of(self.catalogue.follow())
            except Trouble as error:
                log.warning("%s Waiting.", error)
                self._stopping.wait(HEARTBEAT)
        return []

    def _queues_of(self, models: Collection[str]) -> list[str]:
        return [queue_name(model, lane) for model in models for lane in self.lanes]

    def _follow_registry(self, worker: WorkController) -> None:
        """Serve models that were published since, and load versions that were promoted before a job asks for them."""
        for queue in self._queues_of(self.catalogue.follow()):
            if queue not in self._queues:
                self._queues.append(queue)
                # Through the remote control, because the consumer belongs to another thread.
                self.app.control.add_consumer(queue, destination=[worker.hostname])
                log.info("now serving %s", queue)
