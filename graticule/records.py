"""The records of a job in the object store: the pending record that keeps it alive, and what it ends in.

Storage is the truth: a job exists as long as its pending record does, and is done when its result or failure is there.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from graticule.errors import NotFound
from graticule.jobs import PENDING_PREFIX, Job, PendingKey
from graticule.results import FAILURE_FILE, RESULT_FILE, Failure, Result, result_prefix
from graticule.store import Store

JSON = "application/json"
DEAD_PREFIX = "dead/"


class Records:
    """Reads and writes the job records of one store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def add_pending(self, job: Job) -> None:
        """Note that `job` waits for a worker."""
        self.store.put("jobs", job.pending_key, job.model_dump_json().encode(), JSON)

    def remove_pending(self, job: Job) -> None:
        """Note that this submission of `job` needs no worker any more."""
        self.store.remove("jobs", job.pending_key)

    def remove_all_pending(self, jobs: Sequence[Job]) -> None:
        """Note that these submissions need no worker any more."""
        self.store.remove_many("jobs", [job.pending_key for job in jobs])

    def oldest_pending(self, limit: int = 1000) -> list[PendingKey]:
        """The oldest pending records, oldest first."""
        keys = self.store.keys("jobs", PENDING_PREFIX, limit=limit)
        return [parsed for key in keys if (parsed := PendingKey.parse(key))]

    def read_pending(self, key: str) -> Job:
        """The job of a pending record. Raises NotFound when it is done already."""
        return Job.model_validate_json(self.store.get("jobs", key))

    def outcome(self, job_id: str) -> Result | Failure | None:
        """What the job ended in; None while it is under way. A result outranks a failure of an earlier try."""
        for name, kind in ((RESULT_FILE, Result), (FAILURE_FILE, Failure)):
            try:
                return kind.model_validate_json(self.store.get("results", result_prefix(job_id) + name))
            except NotFound:
                continue
        return None

    def outcome_of(self, job: Job) -> Result | Failure | None:
        """What this submission ended in; a failure of an earlier one does not count."""
        outcome = self.outcome(job.job_id)
        return None if isinstance(outcome, Failure) and not _answers(outcome, job) else outcome

    def labels(self, result: Result) -> NDArray[Any]:
        """The mask of a result: height x width, each pixel the id of its object, 0 = background."""
        data = self.store.get("results", result.artifacts["mask"].key)
        return np.asarray(Image.open(io.BytesIO(data)))

    def is_finished(self, job: Job) -> bool:
        """Whether this submission has ended.

        A failure counts only for the submission that it answers: sending a failed job again is a request to try again.
        """
        keys = self.store.keys("results", result_prefix(job.job_id))
        names = {key.rpartition("/")[2] for key in keys}
        if RESULT_FILE in names or FAILURE_FILE not in names:
            return RESULT_FILE in names
        try:
            failure = Failure.model_validate_json(self.store.get("results", result_prefix(job.job_id) + FAILURE_FILE))
        except NotFound:
            return False
        return _answers(failure, job)

    def commit(self, result: Result) -> bool:
        """Write `result.json`, once; tell whether this call was the one that wrote it."""
        prefix = result_prefix(result.job.job_id)
        return self.store.put_if_absent("results", prefix + RESULT_FILE, result.model_dump_json().encode(), JSON)

    def fail(self, failure: Failure) -> None:
        """Write `failure.json`."""
        prefix = result_prefix(failure.job.job_id)
        self.store.put("results", prefix + FAILURE_FILE, failure.model_dump_json().encode(), JSON)

    def keep_undecodable(self, message: bytes) -> str:
        """Keep a message that is not a job, so that nothing vanishes; the key where it lies."""
        key = f"{DEAD_PREFIX}{hashlib.sha256(message).hexdigest()[:32]}.bin"
        self.store.put("jobs", key, message, "application/octet-stream")
        return key


def _answers(failure: Failure, job: Job) -> bool:
    """Whether the failure is that of this submission or of a later one: sending again is a request to try again."""
    return failure.job.submitted_at >= job.submitted_at
