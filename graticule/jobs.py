"""The job: one image, one model, and everything a worker must know to turn one into the other's answer."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

MODEL_PATTERN = r"[a-z0-9][a-z0-9-]{0,62}"
VERSION_PATTERN = r"[0-9A-Za-z][0-9A-Za-z.+-]{0,30}"
JOB_ID_PATTERN = r"^[0-9a-f]{32}$"
PENDING_PREFIX = "pending/"
_PENDING_KEY = re.compile(
    rf"^{PENDING_PREFIX}(?P<time>\d{{8}}T\d{{6}}\.\d{{6}}Z)~(?P<queue>{MODEL_PATTERN}\.[a-z]+)~(?P<job>[0-9a-f]{{32}})\.json$"
)

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
ModelReference = Annotated[str, StringConstraints(pattern=rf"^{MODEL_PATTERN}(@{VERSION_PATTERN})?$")]


class Lane(StrEnum):
    """Who waits for the answer. A person goes before a batch."""

    INTERACTIVE = "interactive"
    BULK = "bulk"


class Content(StrEnum):
    """What a job carries to the model."""

    PICTURE = "picture"
    """An image file: the model's pipeline measures it."""
    TENSORS = "tensors"
    """A file of tensors (`graticule.tensors`): the model's graph runs on them as they are."""


class Message(BaseModel):
    """Base of everything that travels as JSON: unchangeable, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ImageRef(Message):
    """Where an image lies in the object store, and what it was called where it came from."""

    bucket: str = Field(description="Bucket that holds the bytes.")
    key: str = Field(description="Object key: <first two digits of the hash>/<hash>.")
    sha256: Sha256 = Field(description="SHA-256 of the file's bytes, checked on every read.")
    size: int = Field(ge=0, description="Bytes.")
    filename: str = Field(description="Name of the file where it came from; never used to build a path.")
    media_type: str = Field(default="application/octet-stream", description="Media type as the producer saw it.")
    frame: int = Field(default=0, ge=0, description="Frame (page) within a file that holds several; 0 is the first.")


class Source(Message):
    """Who sent the job."""

    producer: str = Field(description="Kind of producer: watcher, client, run, gateway, gms.")
    host: str = Field(default="", description="Host name of the producer's machine.")
    path: str = Field(default="", description="Path of the file on that machine; empty for bytes without a file.")


class Job(Message):
    """One image to be analysed by one model."""

    job_id: str = Field(pattern=JOB_ID_PATTERN, description="Hash of what makes the job itself; see `job_identity`.")
    image: ImageRef = Field(description="The image, or the file of tensors.")
    content: Content = Field(default=Content.PICTURE, description="What lies there: a picture, or tensors.")
    model: ModelReference = Field(description="`name` (the version in production) or `name@version`.")
    parameters: dict[str, Any] = Field(
        default_factory=dict,
        description="Overrides of the manifest's post-processing, e.g. {'threshold': 0.4}.",
    )
    stream: str = Field(default="", description="Name that groups a series, e.g. the watched folder. Empty: none.")
    sequence: int | None = Field(default=None, description="Position within the stream, if the producer knows it.")
    captured_at: AwareDatetime | None = Field(default=None, description="When the picture was taken (the file's time).")
    source: Source = Field(description="Who sent it.")
    submitted_at: AwareDatetime = Field(description="When this submission was made.")
    lane: Lane = Field(default=Lane.BULK, description="interactive goes before bulk.")

    @property
    def queue(self) -> str:
        """Name of the Celery queue that carries this job."""
        return queue_name(model_name(self.model), self.lane)

    @property
    def pending_key(self) -> str:
        """Key of the pending record. Begins with the submission time, so that a listing starts with the oldest."""
        return f"{PENDING_PREFIX}{time_key(self.submitted_at)}~{self.queue}~{self.job_id}.json"


class PendingKey(Message):
    """What the key of a pending record tells without reading the record."""

    key: str
    submitted_at: AwareDatetime
    queue: str
    job_id: str

    @classmethod
    def parse(cls, key: str) -> PendingKey | None:
        """Read a key made by `Job.pending_key`; None for any other key."""
        match = _PENDING_KEY.match(key)
        if match is None:
            return None
        when = datetime.strptime(match["time"], "%Y%m%dT%H%M%S.%fZ").replace(tzinfo=UTC)
        return cls(key=key, submitted_at=when, queue=match["queue"], job_id=match["job"])


def new_job(
    image: ImageRef,
    model: str,
    *,
    source: Source,
    parameters: dict[str, Any] | None = None,
    stream: str = "",
    sequence: int | None = None,
    captured_at: datetime | None = None,
    submitted_at: datetime | None = None,
    lane: Lane = Lane.BULK,
    content: Content = Content.PICTURE,
) -> Job:
    """Make the job for an image that lies in the store. Raises pydantic.ValidationError for impossible values.

    `submitted_at`: only for repeating a submission that may have been interrupted; default: now.
    """
    parameters = parameters or {}
    return Job(
        job_id=job_identity(image.sha256, image.frame, model, parameters, stream, source.path, captured_at, content),
        image=image,
        content=content,
        model=model,
        parameters=parameters,
        stream=stream,
        sequence=sequence,
        captured_at=captured_at,
        source=source,
        submitted_at=submitted_at or utc_now(),
        lane=lane,
    )


def job_identity(
    sha256: str,
    frame: int,
    model: str,
    parameters: dict[str, Any],
    stream: str,
    source_path: str,
    captured_at: datetime | None,
    content: Content = Content.PICTURE,
) -> str:
    """32 hexadecimal digits that are the same whenever the same work is asked for again."""
    when = captured_at.astimezone(UTC).isoformat() if captured_at else None
    parts: list[Any] = [sha256, frame, model, parameters, stream, source_path, when]
    if content is not Content.PICTURE:
        parts.append(content)
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()[:32]


def model_name(reference: str) -> str:
    """The name without the version."""
    return reference.partition("@")[0]


def queue_name(model: str, lane: Lane) -> str:
    """Name of the queue of one model and lane."""
    return f"{model}.{lane.value}"


def utc_now() -> datetime:
    """The time, aware of its zone."""
    return datetime.now(UTC)


def time_key(when: datetime) -> str:
    """A time as text that sorts like the time itself: 20261121T064753.123456Z."""
    return when.astimezone(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
