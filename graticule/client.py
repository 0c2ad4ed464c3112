"""The public client: submit pictures from Python and get their results.

>>> from graticule import Client
>>> result = Client().submit("x.png", model="tile-defects").result()  # doctest: +SKIP
>>> result.measurements.count  # doctest: +SKIP
3
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from graticule import formats
from graticule.broker import connect_redis
from graticule.endings import EndedJobs
from graticule.errors import JobFailed, ResultTimeout
from graticule.formats.reader import Pixels
from graticule.jobs import Job, Lane
from graticule.records import Records
from graticule.registry import Registry
from graticule.results import Failure, Result
from graticule.settings import Settings, load_settings
from graticule.store import Store
from graticule.submit import Submitter

_MODEL_KNOWN_FOR = 5.0
"""Seconds for which a model that was found counts as known: asking costs two requests."""


class Client:
    """Submits pictures to a cluster and waits for results. Thread-safe."""

    def __init__(self, settings: Settings | None = None, *, producer: str = "client") -> None:
        """Without `settings` they come from the environment or from the embedded cluster that runs on this machine."""
        self.settings = settings or load_settings()
        self.store = Store(self.settings)
        self.records = Records(self.store)
        self.registry = Registry(self.store)
        self._submitter = Submitter(self.settings, producer=producer, store=self.store)
        self._redis = connect_redis(self.settings)
        self._known_until: dict[str, float] = {}

    def submit(
        self,
        picture: str | Path | bytes | Pixels,
        model: str,
        *,
        filename: str = "",
        parameters: dict[str, Any] | None = None,
        stream: str = "",
        lane: Lane = Lane.INTERACTIVE,
    ) -> JobHandle:
        """Submit a file, an image file's bytes, or an array (height x width, or height x width x 3; stored as TIFF).

        Raises UnknownModel (with the names that are known), SourceUnreadable, ImageTooLarge, StoreUnavailable.
        """
        self._check_model(model)
        if isinstance(picture, (str, Path)):
            job = self._submitter.submit_file(Path(picture), model, parameters=parameters, stream=stream, lane=lane)
        else:
            data, default = (picture, "picture") if isinstance(picture, bytes) else (_as_tiff(picture), "array.tif")
            job = self._submitter.submit_bytes(
                data, filename or default, model, parameters=parameters, stream=stream, lane=lane
            )
        return JobHandle(self, job)

    def _check_model(self, model: str) -> None:
        """Raise UnknownModel; a model that was known a moment ago still is."""
        if time.monotonic() >= self._known_until.get(model, 0.0):
            self.registry.resolve(model)
            self._known_until[model] = time.monotonic() + _MODEL_KNOWN_FOR

    def outcome(self, job_id: str) -> Result | Failure | None:
        """What a job ended in; None while it is under way."""
        return self.records.outcome(job_id)

    def as_completed(
        self, handles: Iterable[JobHandle], *, timeout: float | None = None
    ) -> Iterator[tuple[JobHandle, Result | Failure]]:
        """Each job with what it ended in, as they end. Raises ResultTimeout after `timeout` seconds."""
        waiting = {handle.job.job_id: handle for handle in handles}
        ended = EndedJobs(self.settings, self._redis)
        deadline = None if timeout is None else time.monotonic() + timeout
        candidates = list(waiting)
        while waiting:
            for job_id in candidates:
                if outcome := self.records.outcome_of(waiting[job_id].job):
                    yield waiting.pop(job_id), outcome
            if not waiting:
                return
            if deadline is not None and time.monotonic() > deadline:
                raise ResultTimeout(
                    f"{len(waiting)} job(s) are not finished after {timeout:g} s.",
                    data="They go on; ask again later.",
                    advice="Is a worker running? See: graticule status",
                )
            candidates = ended.next(waiting)

    def mask(self, result: Result) -> Pixels:
        """The mask of a result: height x width, each pixel the id of its object, 0 = background."""
        return self.records.labels(result)

    def picture(self, result: Result) -> Pixels:
        """The pixels of the picture that a result is about."""
        image = result.job.image
        data = self.store.get_image(image)
        return formats.decode(data, image.filename, frame=image.frame, max_pixels=self.settings.max_pixels).pixels


class JobHandle:
    """A submitted job."""

    def __init__(self, client: Client, job: Job) -> None:
        self.client = client
        self.job = job

    @property
    def job_id(self) -> str:
        """The job's identity."""
        return self.job.job_id

    def result(self, timeout: float | None = 300) -> Result:
        """Wait for the result. Raises JobFailed with the reason, or ResultTimeout."""
        ((_, outcome),) = self.client.as_completed([self], timeout=timeout)
        if isinstance(outcome, Failure):
            raise JobFailed(f"{outcome.error} in {outcome.stage}: {outcome.message}")
        return outcome


def _as_tiff(array: Pixels) -> bytes:
    import tifffile

    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.asarray(array))
    return buffer.getvalue()
