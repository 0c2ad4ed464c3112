"""Dead letters: jobs that were given up although their picture may be good, kept with what happened to them.

A job comes here when it killed its worker again and again, or when it met an error that nobody foresaw. Bad input does
not: trying it again would be of no use. Beside jobs there are messages that are no jobs at all.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import AwareDatetime, Field

from graticule.broker import Bell
from graticule.errors import NotFound, UnknownDeadLetter
from graticule.jobs import JOB_ID_PATTERN, Job, Message, utc_now
from graticule.records import DEAD_PREFIX, JSON, Records
from graticule.results import Failure
from graticule.settings import Settings

_ID = re.compile(JOB_ID_PATTERN)


class Death(Message):
    """One process that died while it held a job."""

    at: AwareDatetime
    what: str = Field(description="What is known of it.")
    noted_by: str = Field(description="Host and process id of the worker that noticed.")


class DeadLetter(Message):
    """A job that was given up."""

    schema_version: Literal[1] = 1
    job: Job
    error: str = Field(description="Class of the error, as in `failure.json`.")
    message: str = Field(description="A sentence for people.")
    stage: str
    deaths: tuple[Death, ...] = Field(default=(), description="Oldest first; empty where no process died.")
    given_up_at: AwareDatetime

    @classmethod
    def of(cls, failure: Failure, deaths: tuple[Death, ...] = ()) -> DeadLetter:
        """The dead letter of a job that ended in this failure."""
        return cls(
            job=failure.job,
            error=failure.error,
            message=failure.message,
            stage=failure.stage,
            deaths=deaths,
            given_up_at=failure.completed_at,
        )


class DeadLetters:
    """Reads, retries and drops dead letters."""

    def __init__(self, settings: Settings, records: Records) -> None:
        self.settings = settings
        self.records = records
        self.store = records.store

    def keep(self, letter: DeadLetter) -> None:
        """Write a dead letter. Raises StoreUnavailable."""
        self.store.put("jobs", _key(letter.job.job_id), letter.model_dump_json().encode(), JSON)

    def ids(self) -> list[str]:
        """Jobs that were given up, by id."""
        names = (key.removeprefix(DEAD_PREFIX) for key in self.store.keys("jobs", DEAD_PREFIX))
        return [name.removesuffix(".json") for name in names if name.endswith(".json")]

    def undecodable(self) -> list[str]:
        """Messages that were no jobs: their keys in the bucket `jobs`."""
        return [key for key in self.store.keys("jobs", DEAD_PREFIX) if key.endswith(".bin")]

    def read(self, job_id: str) -> DeadLetter:
        """One dead letter. Raises UnknownDeadLetter."""
        if not _ID.fullmatch(job_id):
            raise UnknownDeadLetter(f"{job_id!r} is not the id of a job: expected 32 hexadecimal digits.")
        try:
            return DeadLetter.model_validate_json(self.store.get("jobs", _key(job_id)))
        except NotFound:
            raise UnknownDeadLetter(
                f"There is no dead letter {job_id}.", advice="See: graticule dead-letters list"
            ) from None

    def retry(self, job_id: str) -> Job:
        """Submit the job again, as a submission of its own. Raises UnknownDeadLetter, BrokerUnavailable.

        Killed between two steps, the job runs all the same: its pending record is written first.
        """
        letter = self.read(job_id)
        job = letter.job.model_copy(update={"submitted_at": utc_now()})
        self.records.add_pending(job)
        self.store.remove("jobs", _key(job_id))
        Bell(self.settings).ring(job)
        return job

    def drop(self, job_id: str) -> None:
        """Forget a dead letter; the job stays failed, its picture stays in the store. Raises UnknownDeadLetter."""
        self.read(job_id)
        self.store.remove("jobs", _key(job_id))


def _key(job_id: str) -> str:
    return f"{DEAD_PREFIX}{job_id}.json"
