"""Carries one job through its stages: fetch, decode, preprocess, infer, analyse, store.

Errors are sorted here and nowhere else: bad input ends the job at once; trouble around us is tried again until the
job's deadline and then given back to the queue; trouble that follows the job itself ends it after a few tries.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import random
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import onnxruntime

from graticule import __version__, formats
from graticule.errors import (
    BadInput,
    BrokerUnavailable,
    GraticuleError,
    MissingPart,
    NotFound,
    StoreUnavailable,
    Trouble,
)
from graticule.events import Event, Events
from graticule.jobs import Job, utc_now
from graticule.records import Records
from graticule.results import (
    MASK_FILE,
    Artifact,
    Failure,
    Result,
    Timings,
    WorkerInfo,
    result_prefix,
)
from graticule.settings import Settings
from graticule_workers.analysis.instances import analyse
from graticule_workers.engine.pool import ModelPool
from graticule_workers.pipelines.preprocess import prepare
from graticule_workers.pipelines.segmentation import adjusted, applied, encode_mask

log = logging.getLogger(__name__)

MAX_TRIES = 3
"""Tries for trouble that may be the job's own (damaged bytes, a failing model)."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0


class DeadlineReached(Exception):
    """The job could not be finished in time through no fault of its own; it goes back to the queue."""


class Stopwatch:
    """Seconds spent in each stage, and the stage that is under way."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.stage = "fetch"

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Time a stage."""
        self.stage = stage
        started = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - started


class Runner:
    """Runs jobs for one worker process. Thread-safe."""

    def __init__(self, settings: Settings, records: Records, pool: ModelPool, events: Events) -> None:
        self.settings = settings
        self.records = records
        self.pool = pool
        self.events = events

    def run(self, job: Job) -> None:
        """Bring a job to its end and remove its pending record. A job that has ended already is left as it is.

        Raises DeadlineReached when the job has to go back to the queue.
        """
        deadline = time.monotonic() + self.settings.task_deadline
        pauses, tries = _pauses(), 0
        while True:
            watch = Stopwatch()
            tries += 1
            try:
                self._run_once(job, watch)
                return
            except (BadInput, NotFound, MissingPart) as error:
                ending = error
            except (StoreUnavailable, BrokerUnavailable) as error:
                _wait(next(pauses), deadline, error)
                continue
            except Trouble as error:
                if tries < MAX_TRIES:
                    _wait(next(pauses), deadline, error)
                    continue
                ending = error
            except Exception as error:
                log.exception("job %s: unexpected error in %s", job.job_id, watch.stage)
                ending = error
            self._fail_patiently(job, ending, watch.stage, tries, deadline)
            return

    def fail(self, job: Job, error: Exception, stage: str, tries: int) -> None:
        """End a job that cannot succeed. Raises StoreUnavailable."""
        failure = _failure(job, error, stage, tries)
        self.records.fail(failure)
        self._publish(failure)
        self.records.remove_pending(job)
        log.warning("job %s %r failed in %s: %s", job.job_id, job.image.filename, stage, failure.message)

    def _fail_patiently(self, job: Job, error: Exception, stage: str, tries: int, deadline: float) -> None:
        for pause in _pauses():
            try:
                self.fail(job, error, stage, tries)
                return
            except StoreUnavailable as trouble:
                _wait(pause, deadline, trouble)

    def _run_once(self, job: Job, watch: Stopwatch) -> None:
        if self.records.is_finished(job):
            self._tell_again(job)
        else:
            result = self._process(job, watch)
            if self.records.commit(result):
                self._publish(result)
            log.info("%s", _line(result))
        self.records.remove_pending(job)

    def _process(self, job: Job, watch: Stopwatch) -> Result:
        queued = (utc_now() - job.submitted_at).total_seconds()
        with watch.time("route"):
            model = self.pool.get(job.model)
            spec = adjusted(model.manifest.postprocessing, job.parameters)
        with watch.time("fetch"):
            data = self.records.store.get_image(job.image)
        with watch.time("decode"):
            picture = formats.decode(
                data, job.image.filename, frame=job.image.frame, max_pixels=self.settings.max_pixels
            )
        with watch.time("preprocess"):
            prepared = prepare(picture.pixels, model.manifest.preprocessing)
        with watch.time("infer"):
            output = model.infer(prepared.tensor, self.settings.task_deadline)
        with watch.time("analyse"):
            analysis = analyse(prepared.restore(output), spec)
        with watch.time("store"):
            mask = self._store_mask(job, encode_mask(analysis.labels))
        objects = analysis.measurements.objects
        return Result(
            job=job,
            model=model.ref,
            image=picture.info,
            parameters=applied(spec),
            measurements=analysis.measurements,
            calibration=picture.calibration,
            confidence=sum(o.confidence for o in objects) / len(objects) if objects else None,
            flags=prepared.flags,
            timings=_timings(queued, watch),
            provenance=_worker_info(model.provider),
            artifacts={"mask": mask},
            completed_at=utc_now(),
        )

    def _store_mask(self, job: Job, data: bytes) -> Artifact:
        key = result_prefix(job.job_id) + MASK_FILE
        self.records.store.put("results", key, data, "image/png")
        return Artifact(
            key=key,
            media_type="image/png",
            size=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            description="Each pixel holds the id of its object; 0 is background.",
        )

    def _tell_again(self, job: Job) -> None:
        """The worker that finished the job may have been killed before it told of it; telling twice does nothing."""
        log.info("job %s was finished already", job.job_id)
        if outcome := self.records.outcome(job.job_id):
            self._publish(outcome)

    def _publish(self, outcome: Result | Failure) -> None:
        """Events are an index: without Redis the job is done all the same."""
        try:
            self.events.publish(Event.of(outcome))
        except BrokerUnavailable as error:
            log.warning("job %s is done but nobody was told: %s", outcome.job.job_id, error)


def _line(result: Result) -> str:
    stages = ", ".join(f"{stage} {seconds * 1000:.0f}" for stage, seconds in result.timings.model_dump().items())
    measured = result.measurements
    return (
        f"job {result.job.job_id} {result.job.image.filename!r}: {measured.count} objects,"
        f" {measured.area_fraction:.2%} of the area (ms: {stages})"
    )


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
    return Timings(queued=max(0.0, queued), **{stage: watch.seconds[stage] for stage in stages})


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
