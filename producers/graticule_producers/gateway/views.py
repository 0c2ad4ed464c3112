"""The bodies of the native interface's answers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, Field

from graticule import __version__
from graticule.job_index import Summary
from graticule.jobs import Content, Job, Lane
from graticule.results import Failure, Result
from graticule_producers.gateway.jobs import Found

JOBS = "/api/v1/jobs"
ARTIFACTS = (
    "result.json",
    "mask.png",
    "layer.png",
    "overlay.webp",
    "image.png",
    "objects.csv",
    "objects.parquet",
    "objects.geojson",
)
TENSOR_ARTIFACTS = ("result.json", "outputs.safetensors")


class JobView(BaseModel):
    """A job, and what it ended in."""

    job_id: str
    status: Literal["waiting", "succeeded", "failed"] = Field(description="waiting: not ended, at work or not.")
    content: Content = Field(description="What was sent: a picture, or tensors.")
    model: str
    parameters: dict[str, Any]
    stream: str
    lane: Lane
    filename: str
    image_sha256: str
    submitted_at: AwareDatetime
    captured_at: AwareDatetime | None
    completed_at: AwareDatetime | None
    result: Result | None = Field(description="The measurements; none unless it succeeded.")
    failure: Failure | None = Field(description="Why it failed; none unless it did.")
    links: dict[str, str] = Field(description="Paths of the job and, when it succeeded, of everything made from it.")

    @classmethod
    def of(cls, found: Found) -> JobView:
        """How a job is shown."""
        job, outcome = found.job, found.outcome
        return cls(
            job_id=job.job_id,
            status=outcome.status if outcome else "waiting",
            content=job.content,
            model=job.model,
            parameters=job.parameters,
            stream=job.stream,
            lane=job.lane,
            filename=job.image.filename,
            image_sha256=job.image.sha256,
            submitted_at=job.submitted_at,
            captured_at=job.captured_at,
            completed_at=outcome.completed_at if outcome else None,
            result=outcome if isinstance(outcome, Result) else None,
            failure=outcome if isinstance(outcome, Failure) else None,
            links=links_of(job, succeeded=isinstance(outcome, Result)),
        )


class Submission(BaseModel):
    """The jobs that one request led to, in the order of its files."""

    jobs: list[JobView]


class JobPage(BaseModel):
    """Some jobs, the newest change first."""

    jobs: list[Summary]
    next: str = Field(description="`cursor` of the next page; empty: this is the last one.")


class Point(BaseModel):
    """One picture of a series."""

    job_id: str
    filename: str
    status: Literal["succeeded", "failed"]
    sequence: int | None
    captured_at: AwareDatetime | None
    completed_at: AwareDatetime
    count: int | None = Field(description="Objects.")
    area_fraction: float | None = Field(description="Object pixels / all pixels.")
    mean_radius: float | None = Field(description="Mean equivalent radius, px.")


class Series(BaseModel):
    """Measurements of a stream over time, the first picture first."""

    stream: str
    points: list[Point]


class ModelSummary(BaseModel):
    """A model in production."""

    name: str
    version: str
    task: str
    title: str
    description: str
    license: str
    classes: dict[str, str] = Field(description="Name of each class -> its colour, #rrggbb.")


class Health(BaseModel):
    """Whether the gateway can work."""

    service: Literal["graticule gateway"] = "graticule gateway"
    version: str = Field(default=__version__, description="Version of the gateway.")
    status: Literal["ok", "not ready"]
    problems: list[str] = Field(default_factory=list, description="What does not answer.")


class QueueStatus(BaseModel):
    """The cluster at a glance."""

    workers: list[dict[str, Any]] = Field(description="Workers that are alive, as they describe themselves.")
    queues: dict[str, int] = Field(description="Queue -> jobs that wait in it.")
    at_work: int = Field(description="Jobs that workers took and have not finished.")
    succeeded: int = Field(description="Jobs since Redis was last empty.")
    failed: int
    flower_url: str = Field(description="Flower's page, for browsers on the same machine; empty: not known.")


def links_of(job: Job, *, succeeded: bool) -> dict[str, str]:
    """Name -> path."""
    base = f"{JOBS}/{job.job_id}"
    if job.content is Content.TENSORS:
        names = TENSOR_ARTIFACTS if succeeded else ()
    else:
        names = ARTIFACTS if succeeded else ("image.png",)
    return {"self": base, **{name: f"{base}/{name}" for name in names}}
