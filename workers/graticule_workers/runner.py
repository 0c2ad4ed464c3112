"""Carries one job through its stages: fetch, decode, preprocess, infer, analyse, store.

Errors are sorted here and nowhere else: bad input ends the job at once; trouble around us is tried again until the
job's deadline and then given back to the queue; trouble that follows the job itself ends it after a few tries; a job
that processes die of goes to the dead letters.
"""

from __future__ import annotations

import logging
import os
import platform
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial

import onnxruntime

from graticule import __version__
from graticule.dead_letters import DeadLetter, DeadLetters, Death
from graticule.errors import (
    BadInput,
    BrokerUnavailable,
    EngineLost,
    GraticuleError,
    MissingPart,
    NotFound,
    PoisonJob,
    StoreUnavailable,
    Trouble,
)
from graticule.events import Event, Events
from graticule.jobs import Content, Job, Lane, utc_now
from graticule.manifest import Manifest
from graticule.records import Records
from graticule.results import Artifact, Failure, Measurements, ModelRef, Result, Timings, WorkerInfo
from graticule.settings import Settings
from graticule_workers.ended_records import EndedRecords
from graticule_workers.engine.catalogue import Catalogue
from graticule_workers.engine.pool import Engine
from graticule_workers.engine.turnstile import Turnstile
from graticule_workers.metrics import Metrics
from graticule_workers.pipelines.answer import File, Model, Pipeline
from graticule_workers.pipelines.segmentation import SegmentPicture
from graticule_workers.pipelines.tensors import RunTensors
from graticule_workers.suspects import MAX_DEATHS, Suspects

log = logging.getLogger(__name__)

MAX_TRIES = 3
"""Tries for trouble that may be the job's own (damaged bytes, a failing model)."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
_NATIVE_STEPS = frozenset({"decode", "preprocess", "analyse"})
"""Steps that only this job takes, in native code that a thread cannot be called back from."""


class DeadlineReached(Exception):
    """The job could not be finished in time through no fault of its own; it goes back to the queue."""


class Stopwatch:
    """Seconds spent in each stage, and the stage that is under way."""

    def __init__(self, job_id: str = "") -> None:
        self.job_id = job_id
        self.seconds: dict[str, float] = {}
        self.stage = "fetch"
        self.since = time.monotonic()
        """When the stage began, by `time.monotonic`."""

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Time a stage; what it takes is added to what it took before."""
        self.stage, self.since = stage, time.monotonic()
        started = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - started


class Runner:
    """Runs jobs for one worker process. Thread-safe."""

    def __init__(
        self,
        settings: Settings,
        records: Records,
        catalogue: Catalogue,
        engine: Engine,
        events: Events,
        suspects: Suspects,
        metrics: Metrics,
    ) -> None:
        self.settings = settings
        self.records = records
        self.catalogue = catalogue
        self.engine = engine
        self.events = events
        self.suspects = suspects
        self.metrics = metrics
        self.dead_letters = DeadLetters(settings, records)
        self._ended = EndedRecords(records)
        self._turnstile = Turnstile()
        self._lock = threading.Lock()
        self._watches: set[Stopwatch] = set()

    def run(self, job: Job, *, redelivered: bool = False) -> None:
        """Bring a job to its end and have its pending record removed. A job that has ended already is left as it is.

        `redelivered`: a worker had it and did not answer for it; it may have died of it.
        Raises DeadlineReached when the job has to go back to the queue.
        """
        deaths = self._run(job, self._deaths_of(job) if redelivered else (), look_first=redelivered)
        if deaths:
            self._tell(self.suspects.clear, job)

    def close(self) -> None:
        """Remove the pending records that are still to be removed."""
        self._ended.close()

    def native_steps(self) -> list[tuple[str, str, float]]:
        """Steps under way that nothing can interrupt: (job, stage, since, by `time.monotonic`)."""
        with self._lock:
            watches = list(self._watches)
        return [(watch.job_id, watch.stage, watch.since) for watch in watches if watch.stage in _NATIVE_STEPS]

    def fail(self, job: Job, error: Exception, stage: str, tries: int, deaths: tuple[Death, ...] = ()) -> None:
        """End a job that cannot succeed. Raises StoreUnavailable."""
        failure = _failure(job, error, stage, tries)
        if not isinstance(error, (BadInput, NotFound, MissingPart)):
            self.dead_letters.keep(DeadLetter.of(failure, deaths))
        self.records.fail(failure)
        self._publish(failure)
        self._ended.add(job)
        self.metrics.job_ended(job, failure.status)
        log.warning("job %s %r failed in %s: %s", job.job_id, job.image.filename, stage, failure.message)

    # -- tries -------------------------------------------------------------------------------------------------

    def _run(self, job: Job, deaths: tuple[Death, ...], *, look_first: bool) -> tuple[Death, ...]:
        """Try until the job has ended; the deaths that it has seen by then."""
        deadline = time.monotonic() + self.settings.task_deadline
        pauses, tries, died_in = _pauses(), 0, "route"
        while True:
            watch = Stopwatch(job.job_id)
            tries += 1
            try:
                if len(deaths) >= MAX_DEATHS:
                    self._give_up(job, deaths, died_in)
                    return deaths
                self._try(job, watch, alone=bool(deaths), look_first=look_first or tries > 1)
                return deaths
            except (StoreUnavailable, BrokerUnavailable) as error:
                trouble = error
            except EngineLost as error:
                deaths = self._note_death(job, str(error)) or deaths if error.started else deaths
                trouble, died_in = error, watch.stage
            except Exception as error:
                if not isinstance(error, Trouble) or tries == MAX_TRIES:
                    self._fail_patiently(job, error, watch.stage, tries)
                    return deaths
                trouble = error
            _wait(next(pauses), deadline, trouble)

    def _try(self, job: Job, watch: Stopwatch, *, alone: bool, look_first: bool) -> None:
        if alone:
            self._tell(self.suspects.waits, job)
        with self._turnstile.passing(alone=alone):
            if alone:
                self._tell(self.suspects.runs, job)
            with self._lock:
                self._watches.add(watch)
            try:
                if not ((look_first or self._may_have_ended(job)) and self._finished_before(job)):
                    self._run_once(job, watch, alone=alone)
            finally:
                with self._lock:
                    self._watches.discard(watch)

    def _fail_patiently(
        self, job: Job, error: Exception, stage: str, tries: int, deaths: tuple[Death, ...] = ()
    ) -> None:
        if not isinstance(error, GraticuleError):
            log.error("job %s: unexpected error in %s", job.job_id, stage, exc_info=error)
        deadline = time.monotonic() + self.settings.task_deadline
        for pause in _pauses():
            try:
                self.fail(job, error, stage, tries, deaths)
                return
            except StoreUnavailable as trouble:
                _wait(pause, deadline, trouble)

    # -- suspects ----------------------------------------------------------------------------------------------

    def _deaths_of(self, job: Job) -> tuple[Death, ...]:
        """Deaths that the job has seen; without Redis nobody knows, and the job is tried."""
        try:
            return tuple(self.suspects.taken_up_again(job.job_id))
        except BrokerUnavailable as error:
            log.warning("job %s came again; whether a worker died of it is not known: %s", job.job_id, error)
            return ()

    def _note_death(self, job: Job, what: str) -> tuple[Death, ...]:
        try:
            return tuple(self.suspects.note(job.job_id, what))
        except BrokerUnavailable as error:
            log.warning("job %s: a death could not be noted: %s", job.job_id, error)
            return ()

    def _give_up(self, job: Job, deaths: tuple[Death, ...], stage: str) -> None:
        if self._finished_before(job):
            return
        error = PoisonJob(
            f"{len(deaths)} processes died while they held this job, the last ones with nothing else at work.",
            data="The image is in the store.",
            advice="Look at it, then: graticule dead-letters retry " + job.job_id,
        )
        self._fail_patiently(job, error, stage, len(deaths), deaths)

    def _tell(self, what: Callable[[str], None], job: Job) -> None:
        """Tell the record of suspects; without Redis the job goes on all the same."""
        try:
            what(job.job_id)
        except BrokerUnavailable as error:
            log.warning("job %s: the record of its deaths is not up to date: %s", job.job_id, error)

    # -- one try -------------------------------------------------------------------------------------------------

    def _run_once(self, job: Job, watch: Stopwatch, *, alone: bool) -> None:
        result = self._process(job, watch, alone=alone)
        if self.records.commit(result):
            self._publish(result)
            self.metrics.job_ended(job, result.status, result.timings)
            self._ended.add(job)
            log.info("%s", _line(result))
        else:
            self._finished_before(job)

    def _may_have_ended(self, job: Job) -> bool:
        """Whether Redis remembers an end, or nobody knows. Asking it costs far less than a listing in the store."""
        try:
            return self.events.told(job)
        except BrokerUnavailable:
            return True

    def _finished_before(self, job: Job) -> bool:
        """Whether the job had ended; then its pending record goes.

        The worker that finished it may have been killed before it told of it; telling twice does nothing.
        """
        if not self.records.is_finished(job):
            return False
        log.info("job %s was finished already", job.job_id)
        if outcome := self.records.outcome(job.job_id):
            self._publish(outcome)
        self._ended.add(job)
        self.metrics.duplicate()
        return True

    def _process(self, job: Job, watch: Stopwatch, *, alone: bool) -> Result:
        queued = (utc_now() - job.submitted_at).total_seconds()
        with watch.time("route"):
            manifest = self.catalogue.resolve(job.model)
            provider = self.engine.load(manifest).provider
            pipeline = self._pipeline(job, manifest)
        with watch.time("fetch"):
            data = self.records.store.get_image(job.image)
        answer = pipeline(data, self._model(job, manifest, alone=alone), watch.time)
        with watch.time("store"):
            artifacts = {name: self._stored(file) for name, file in answer.files.items()}
        return Result(
            job=job,
            model=ModelRef(name=manifest.name, version=manifest.version, sha256=manifest.model.sha256),
            image=answer.image,
            parameters=answer.parameters,
            measurements=answer.measurements,
            calibration=answer.calibration,
            confidence=answer.confidence,
            flags=answer.flags,
            timings=_timings(queued, watch),
            provenance=_worker_info(provider),
            artifacts=artifacts,
            completed_at=utc_now(),
        )

    def _pipeline(self, job: Job, manifest: Manifest) -> Pipeline:
        """What is to be done with the job. Raises InvalidParameters."""
        if job.content is Content.TENSORS:
            return RunTensors(job, manifest)
        return SegmentPicture(job, manifest, self.settings.max_pixels)

    def _model(self, job: Job, manifest: Manifest, *, alone: bool) -> Model:
        how = {"job": job.job_id, "alone": alone, "urgent": job.lane is Lane.INTERACTIVE}
        return Model(partial(self.engine.infer, manifest, **how), partial(self.engine.run, manifest, **how))

    def _stored(self, file: File) -> Artifact:
        self.records.store.put("results", file.key, file.data, file.media_type)
        return Artifact(
            key=file.key,
            media_type=file.media_type,
            size=len(file.data),
            sha256=file.sha256,
            description=file.description,
        )

    def _publish(self, outcome: Result | Failure) -> None:
        """Events are an index: without Redis the job is done all the same."""
        try:
            self.events.publish(Event.of(outcome))
        except BrokerUnavailable as error:
            log.warning("job %s is done but nobody was told: %s", outcome.job.job_id, error)


def _line(result: Result) -> str:
    stages = ", ".join(f"{stage} {seconds * 1000:.0f}" for stage, seconds in result.timings.model_dump().items())
    found = result.measurements
    if isinstance(found, Measurements):
        text = f"{found.count} objects, {found.area_fraction:.2%} of the area"
    else:
        text = f"{len(found.outputs)} output(s)"
    return f"job {result.job.job_id} {result.job.image.filename!r}: {text} (ms: {stages})"


def _wait(pause: float, deadline: float, error: Trouble) -> None:
    if time.monotonic() + pause > deadline:
        raise DeadlineReached(str(error)) from error
    log.warning("%s Next try in %.1f s.", error, pause)
    time.sleep(pause)


def _pauses() -> Iterator[float]:
    pause = _FIRST_PAUSE
    while True:
        yield pause * random.uniform(0.5, 1.0)
        pause = min(_LONGEST_PAUSE, pause * 2)


def _timings(queued: float, watch: Stopwatch) -> Timings:
    stages = ("fetch", "decode", "preprocess", "infer", "analyse", "store")
    return Timings(queued=max(0.0, queued), **{stage: watch.seconds.get(stage, 0.0) for stage in stages})


def _failure(job: Job, error: Exception, stage: str, tries: int) -> Failure:
    known = isinstance(error, GraticuleError)
    return Failure(
        job=job,
        error=error.kind if known else type(error).__name__,
        message=str(error)
        if known
        else f"Unexpected {type(error).__name__}: {error}. The worker's log has the details.",
        stage=stage,
        tries=tries,
        completed_at=utc_now(),
    )


@cache
def _worker_info(provider: str) -> WorkerInfo:
    return WorkerInfo(
        graticule=__version__,
        python=platform.python_version(),
        onnxruntime=onnxruntime.__version__,
        execution_provider=provider,
        host=socket.gethostname(),
        process=os.getpid(),
    )
