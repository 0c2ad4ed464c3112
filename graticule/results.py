"""What a job ends in: a result or a failure. Both are objects beside the artifacts they name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Discriminator, Field, Tag

from graticule.errors import OtherKind
from graticule.jobs import Job, Message, Sha256
from graticule.tensors import TensorInfo

RESULT_FILE = "result.json"
FAILURE_FILE = "failure.json"


def result_prefix(job_id: str) -> str:
    """Key prefix of everything that a job leaves in the results bucket."""
    return f"{job_id}/"


def mask_key(job_id: str, sha256: str) -> str:
    """Key of a mask, by its bytes: two runs of a job with different models cannot overwrite each other's mask."""
    return f"{result_prefix(job_id)}mask-{sha256[:16]}.png"


def outputs_key(job_id: str, sha256: str) -> str:
    """Key of a model's outputs, by their bytes."""
    return f"{result_prefix(job_id)}outputs-{sha256[:16]}.safetensors"


class ModelRef(Message):
    """The model that gave an answer, exactly."""

    name: str
    version: str
    sha256: Sha256 = Field(description="SHA-256 of the ONNX file.")


class ImageInfo(Message):
    """The picture as it was decoded."""

    width: int = Field(gt=0, description="Pixels.")
    height: int = Field(gt=0, description="Pixels.")
    channels: int = Field(gt=0)
    dtype: str = Field(description="Type of a pixel's value before normalisation, e.g. uint8, uint16, float32.")
    format: str = Field(description="File format: png, jpeg, tiff, ...")
    frames: int = Field(default=1, gt=0, description="Frames in the file.")


class Calibration(Message):
    """Size of a pixel, and who says so."""

    pixel_width: float = Field(gt=0)
    pixel_height: float = Field(gt=0)
    unit: str = Field(description="Unit of the pixel's size, e.g. nm.")
    source: str = Field(description="Where it was read, e.g. 'TIFF ResolutionUnit' or 'user'.")


class DetectedObject(Message):
    """One object in the picture. Lengths in pixels; x to the right, y down, (0, 0) = centre of the first pixel."""

    id: int = Field(gt=0, description="Value of the object's pixels in the mask.")
    class_name: str
    area: int = Field(gt=0, description="Pixels.")
    equivalent_radius: float = Field(description="Radius of the circle of equal area, px.")
    centroid: tuple[float, float] = Field(description="(x, y), px.")
    bounding_box: tuple[int, int, int, int] = Field(
        description="(left, top, right, bottom), px; right and bottom are the first column and row outside."
    )
    touches_edge: bool = Field(description="The bounding box comes within the manifest's buffer of an edge.")
    confidence: float = Field(ge=0, le=1, description="Mean foreground probability over its pixels.")


class Measurements(Message):
    """Numbers of a segmentation."""

    kind: Literal["segmentation"] = "segmentation"
    count: int = Field(ge=0, description="Objects.")
    area_fraction: float = Field(ge=0, le=1, description="Object pixels / all pixels of the picture.")
    count_by_class: dict[str, int] = Field(description="Objects of each class; every class is listed.")
    area_fraction_by_class: dict[str, float] = Field(description="Area fraction of each class.")
    mean_radius: float | None = Field(description="Mean equivalent radius, px; none without objects.")
    objects: tuple[DetectedObject, ...] = Field(description="Every object, in the order of its id.")


class TensorOutputs(Message):
    """What a model's graph gave for tensors. The values are the artifact `outputs`."""

    kind: Literal["tensors"] = "tensors"
    outputs: tuple[TensorInfo, ...] = Field(description="Every output of the model, in the manifest's order.")


def _kind_of(measurements: Any) -> str:  # noqa: ANN401 (whatever stands in a JSON document)
    """The kind of measurements; those written before there were several kinds are segmentations."""
    if isinstance(measurements, dict):
        return measurements.get("kind", "segmentation")
    return getattr(measurements, "kind", "")


AnyMeasurements = Annotated[
    Annotated[Measurements, Tag("segmentation")] | Annotated[TensorOutputs, Tag("tensors")], Discriminator(_kind_of)
]
"""What a job can end in: one kind for each way to use a model. A further kind is one more class here."""


class Timings(Message):
    """Seconds spent in each stage."""

    queued: float = Field(description="From submission to the start of work (two machines' clocks).")
    fetch: float
    decode: float
    preprocess: float
    infer: float = Field(description="Waiting for the engine and running, together.")
    analyse: float
    store: float = Field(description="Encoding and writing the artifacts; `result.json` itself is not in it.")


class WorkerInfo(Message):
    """What ran the job: enough to repeat it."""

    graticule: str
    python: str
    onnxruntime: str
    execution_provider: str
    host: str
    process: int


class Artifact(Message):
    """An object that belongs to the result."""

    key: str
    media_type: str
    size: int
    sha256: Sha256
    description: str = ""


class Result(Message):
    """`result.json`: the commit of a job that succeeded. It appears only when everything that it names exists."""

    schema_version: Literal[1] = 1
    status: Literal["succeeded"] = "succeeded"
    job: Job
    model: ModelRef
    image: ImageInfo | None = Field(description="None: the job carried no picture.")
    parameters: dict[str, Any] = Field(description="Post-processing as it was applied.")
    measurements: AnyMeasurements = Field(description="The answer; `kind` says of which kind it is.")
    calibration: Calibration | None = Field(default=None, description="None: lengths are in pixels only.")
    confidence: float | None = Field(description="Mean confidence of the objects; none without objects.")
    flags: tuple[str, ...] = Field(default=(), description="Reasons to look twice, e.g. 'constant-image'.")
    timings: Timings
    provenance: WorkerInfo
    artifacts: dict[str, Artifact]
    completed_at: AwareDatetime

    @property
    def segmentation(self) -> Measurements:
        """The measurements of a segmentation. Raises OtherKind."""
        if not isinstance(self.measurements, Measurements):
            raise OtherKind(
                f"The job {self.job.job_id} is no segmentation: its result is of the kind {self.measurements.kind!r}."
            )
        return self.measurements

    @property
    def picture(self) -> ImageInfo:
        """The picture as it was decoded. Raises OtherKind for a job without one."""
        if self.image is None:
            raise OtherKind(f"The job {self.job.job_id} carried {self.job.content}, no picture.")
        return self.image


class Failure(Message):
    """`failure.json`: why a job cannot succeed."""

    schema_version: Literal[1] = 1
    status: Literal["failed"] = "failed"
    job: Job
    error: str = Field(description="Class of the error in graticule's tree, or of an unexpected exception.")
    message: str = Field(description="A sentence for people.")
    stage: str = Field(description="Where it happened: fetch, decode, preprocess, infer, analyse, store, route.")
    tries: int = Field(ge=0, description="How often the job was taken up.")
    completed_at: AwareDatetime
