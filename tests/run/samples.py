"""Jobs and what they ended in, made by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from graticule.jobs import ImageRef, Job, Source, new_job
from graticule.results import (
    DetectedObject,
    Failure,
    ImageInfo,
    Measurements,
    ModelRef,
    Result,
    Timings,
    WorkerInfo,
)

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def make_object(number: int = 1, **changes: Any) -> DetectedObject:
    values: dict[str, Any] = {
        "id": number,
        "class_name": "crack",
        "area": 12,
        "equivalent_radius": 1.9544,
        "centroid": (4.5, 2.25),
        "bounding_box": (3, 1, 7, 4),
        "touches_edge": False,
        "confidence": 0.75,
    }
    return DetectedObject(**(values | changes))


def make_job(filename: str = "a.jpg", **changes: Any) -> Job:
    image = ImageRef(bucket="images", key="aa/aa", sha256="a" * 64, size=3, filename=filename)
    values: dict[str, Any] = {"source": Source(producer="run", path=f"/p/{filename}"), "captured_at": NOON}
    job = new_job(image, "tile-defects@1.0.0", **(values | changes))
    return job.model_copy(update={"submitted_at": NOON})


def make_result(job: Job, *objects: DetectedObject, **changes: Any) -> Result:
    confidences = [found.confidence for found in objects]
    radii = [found.equivalent_radius for found in objects]
    values: dict[str, Any] = {
        "job": job,
        "model": ModelRef(name="tile-defects", version="1.0.0", sha256="b" * 64),
        "image": ImageInfo(width=20, height=10, channels=1, dtype="uint8", format="jpeg"),
        "parameters": {},
        "measurements": Measurements(
            count=len(objects),
            area_fraction=sum(found.area for found in objects) / 200,
            count_by_class={
                "crack": sum(found.class_name == "crack" for found in objects),
                "fray": sum(found.class_name == "fray" for found in objects),
            },
            area_fraction_by_class={},
            mean_radius=sum(radii) / len(radii) if radii else None,
            objects=objects,
        ),
        "confidence": sum(confidences) / len(confidences) if confidences else None,
        "timings": Timings(queued=0.5, fetch=0.01, decode=0.02, preprocess=0.03, infer=0.04, analyse=0.05, store=0.06),
        "provenance": WorkerInfo(
            graticule="0", python="3", onnxruntime="1", execution_provider="CPU", host="h", process=1
        ),
        "artifacts": {},
        "completed_at": NOON + timedelta(seconds=1),
    }
    return Result(**(values | changes))


def make_failure(job: Job, message: str = "broken") -> Failure:
    return Failure(job=job, error="UnreadableImage", message=message, stage="decode", tries=1, completed_at=NOON)
