"""The manifest of a model folder: everything a worker needs to use the model, so that a new model needs no code."""

from __future__ import annotations

import hashlib
import math
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, StringConstraints, ValidationError, model_validator

from graticule.errors import InvalidManifest
from graticule.jobs import MODEL_PATTERN, VERSION_PATTERN, Message, Sha256

MANIFEST_FILE = "manifest.yaml"

_YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Both accept plain data only; the one in C, where it is built in, is ten times as fast."""

Colour = Annotated[str, StringConstraints(pattern=r"^#[0-9a-fA-F]{6}$")]
Dimension = int | str
"""A fixed size, or the name of a free dimension (`batch`, `height`, `width`)."""


class Task(StrEnum):
    """What a model's output means."""

    SEMANTIC_SEGMENTATION = "semantic-segmentation"
    INSTANCE_SEGMENTATION = "instance-segmentation"
    REGRESSION = "regression"
    LABEL_DISTRIBUTION = "label-distribution"


class Quantity(Message):
    """A number that is given beside the picture, such as the convergence angle of the beam."""

    name: str = Field(description="Name among a job's physical parameters.")
    unit: str = Field(default="", description="Unit of low and high, and of what is given; empty: a pure number.")
    low: float = Field(default=0.0, description="This becomes 0 at the network's input.")
    high: float = Field(default=1.0, description="This becomes 1.")

    @model_validator(mode="after")
    def _has_a_range(self) -> Quantity:
        if self.low >= self.high:
            raise ValueError(f"low must be less than high: found {self.low:g} and {self.high:g}")
        return self


class Tensor(Message):
    """One input or output of the network, batch first."""

    name: str = Field(description="Name in the ONNX graph.")
    shape: tuple[Dimension, ...] = Field(description="Sizes; a name stands for a free dimension.")
    type: Literal["float32", "float16", "uint8", "int64"] = Field(default="float32", description="Element type.")
    quantity: Quantity | None = Field(default=None, description="What fills an input that is not the picture.")


class Resize(Message):
    """Isotropic scaling before the size policy; the mask is scaled back to the picture."""

    short_side: int = Field(gt=0, description="Length of the shorter side after scaling, in pixels.")


class SizePolicy(Message):
    """How a picture of any size is made to fit the network, without distortion."""

    policy: Literal["fixed", "multiple-of", "tiled"] = Field(
        description="fixed: scaled to fit into height x width and padded; multiple-of: padded to the next multiple, and"
        " cut into overlapping tiles when that is more than `largest`; tiled: cut into overlapping tiles of"
        " height x width."
    )
    multiple: int = Field(
        default=1,
        gt=0,
        description="multiple-of, tiled: both sides are padded to a multiple of this, and tiles begin at multiples of"
        " it, in pixels; the stride of the network's deepest layer.",
    )
    height: int | None = Field(default=None, gt=0, description="fixed, tiled: height in pixels.")
    width: int | None = Field(default=None, gt=0, description="fixed, tiled: width in pixels.")
    largest: int = Field(
        default=1536 * 1536,
        gt=0,
        description="multiple-of: most pixels in one run of the network, padding included. A larger picture is tiled;"
        " of pictures that come near to it fewer run together than the batch's maximum.",
    )
    overlap: int = Field(
        default=128,
        ge=0,
        description="multiple-of, tiled: pixels that neighbouring tiles share at least. A quarter at each end only"
        " gives context, the half between is where the answers are blended.",
    )
    reason: str = Field(default="", description="Why this policy, where the network would have allowed another.")

    @model_validator(mode="after")
    def _sizes_are_given(self) -> SizePolicy:
        if self.policy != "multiple-of" and not (self.height and self.width):
            raise ValueError(f"size policy {self.policy!r} needs height and width")
        if self.policy != "fixed":
            self._check_tile()
        return self

    @property
    def tile(self) -> tuple[int, int]:
        """(height, width) of the largest input of the network, in pixels."""
        if self.policy != "multiple-of" and self.height and self.width:
            return self.height, self.width
        side = math.isqrt(self.largest) // self.multiple * self.multiple
        return side, side

    def _check_tile(self) -> None:
        height, width = self.tile
        shorter = min(height, width)
        if not shorter:
            raise ValueError(f"largest must be at least {self.multiple} x {self.multiple} px, one multiple each way")
        if height % self.multiple or width % self.multiple:
            raise ValueError(f"height and width of a tile must be multiples of {self.multiple} px")
        if self.overlap > min(shorter // 2, shorter - self.multiple):
            raise ValueError(
                f"overlap must be at most half of a tile's shorter side and leave room for one multiple: tiles are"
                f" {height} x {width} px, overlap is {self.overlap} px"
            )


class Padding(Message):
    """What fills the border that the size policy adds (right and bottom)."""

    mode: Literal["reflect", "edge", "constant"] = Field(default="reflect", description="How the border is filled.")
    value: float = Field(default=0.0, description="constant: the value, in units of the normalised input.")


class Normalisation(Message):
    """From pixel values to the network's numbers."""

    kind: Literal["scale", "minmax", "standardise", "physical"] = Field(
        description="scale: divided by the data type's maximum, to 0..1 (integers of more than 16 bits or below 0 and"
        " floats beyond 0..1: minimum..maximum to 0..1, and a flag); minmax: each picture's minimum..maximum to"
        " 0..1 (a constant picture becomes 0); standardise: scale, then (x - mean) / std for each channel; physical:"
        " (x - mean) / std in the picture's own units (degrees, counts), nothing is scaled before."
    )
    mean: tuple[float, ...] = Field(default=(), description="standardise, physical: mean of each channel.")
    std: tuple[float, ...] = Field(default=(), description="standardise, physical: standard deviation of each channel.")

    @model_validator(mode="after")
    def _constants_are_given(self) -> Normalisation:
        needed = self.kind in ("standardise", "physical")
        if needed and (not self.mean or len(self.mean) != len(self.std) or not all(self.std)):
            raise ValueError(f"{self.kind} needs mean and std of equal length, std not zero")
        return self


class Preprocessing(Message):
    """From a decoded picture to the network's input."""

    colour: Literal["grey", "rgb"] = Field(default="grey", description="Channels that the network expects.")
    resize: Resize | None = Field(default=None, description="Scaling before the size policy; none: native resolution.")
    size: SizePolicy
    padding: Padding = Padding.model_validate({})
    normalisation: Normalisation


class ObjectClass(Message):
    """One class that the network tells apart."""

    index: int = Field(ge=0, description="Channel of the output; 0 is the background where there is one.")
    name: str
    colour: Colour = Field(description="Colour in overlays, #rrggbb.")


class LabelTable(Message):
    """What the channels of an output stand for when they are steps of a quantity: probability k belongs to value k."""

    output: str = Field(description="Name of the output.")
    quantity: str = Field(description="Name of the quantity, e.g. thickness.")
    unit: str = Field(default="", description="Unit of the values; empty: a pure number.")
    values: tuple[float, ...] = Field(min_length=1, description="Value of each channel, by index.")


class Postprocessing(Message):
    """From the network's output to objects. Lengths in pixels of the picture, areas in pixels."""

    activation: Literal["softmax", "sigmoid", "none"] = Field(
        description="softmax: channel 0 is the background, foreground = 1 - p(background); sigmoid: each channel on"
        " its own, foreground = the largest; none: the output is a probability already (as sigmoid)."
    )
    threshold: float = Field(
        default=0.5, ge=0, le=1, description="A pixel above this foreground probability is an object's."
    )
    minimum_area: int = Field(default=0, ge=0, description="Objects of fewer pixels are dropped.")
    fill_holes: int = Field(default=0, ge=0, description="Holes of fewer pixels are filled.")
    touches_edge_buffer: int = Field(
        default=8,
        ge=0,
        description="An object whose bounding box comes this near to an edge counts as touching it, in px.",
    )
    classes: tuple[ObjectClass, ...] = Field(
        default=(), description="Class of each output channel, by index; empty for numbers and label tables."
    )
    labels: tuple[LabelTable, ...] = Field(default=(), description="label-distribution: a table for each output.")

    @model_validator(mode="after")
    def _classes_are_numbered(self) -> Postprocessing:
        if [c.index for c in self.classes] != list(range(len(self.classes))):
            raise ValueError("classes must be numbered 0, 1, 2, ... in order")
        if self.activation == "softmax" and len(self.classes) == 1:
            raise ValueError("softmax needs a background class and at least one other")
        return self

    @property
    def has_background(self) -> bool:
        """Whether class 0 is the background."""
        return self.activation == "softmax"


class Batch(Message):
    """Limits of one run of the network."""

    maximum: int = Field(default=1, gt=0, le=1024, description="Most pictures in one run.")


class WarmUp(Message):
    """Shapes to run once when the model is loaded, so that the first picture does not pay for it."""

    shapes: tuple[tuple[int, int], ...] = Field(default=(), description="(height, width) in pixels.")


class ModelFile(Message):
    """The ONNX file, pinned."""

    file: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]+\.onnx$")] = "model.onnx"
    sha256: Sha256


class Provenance(Message):
    """Where the model came from."""

    framework: str
    framework_version: str = ""
    versions: dict[str, str] = Field(default_factory=dict, description="Packages that took part, with their versions.")
    source_file: str = Field(default="", description="Name of the file or folder that was exported.")
    source_sha256: str = Field(
        default="",
        description="SHA-256 of the file that was exported; of a folder, that of the lines `SHA-256  name`, by name.",
    )
    trusted_source: bool = Field(
        default=False, description="The source holds code that was run because the person who exported it said so."
    )
    training_data: str = Field(default="", description="What it was trained on, with the source.")
    metrics: dict[str, Any] = Field(default_factory=dict, description="Figures on data that it was not trained on.")
    parity: dict[str, Any] = Field(default_factory=dict, description="Agreement with the source framework.")


class Manifest(Message):
    """Everything a worker needs to know about a model."""

    schema_version: Literal[1] = 1
    name: Annotated[str, StringConstraints(pattern=rf"^{MODEL_PATTERN}$")]
    version: Annotated[str, StringConstraints(pattern=rf"^{VERSION_PATTERN}$")]
    task: Task
    title: str = Field(description="One line for people.")
    description: str = ""
    license: str = Field(default="", description="SPDX identifier of the weights.")
    inputs: tuple[Tensor, ...] = Field(min_length=1)
    outputs: tuple[Tensor, ...] = Field(min_length=1)
    preprocessing: Preprocessing
    postprocessing: Postprocessing
    batch: Batch = Batch.model_validate({})
    warm_up: WarmUp = WarmUp.model_validate({})
    precision: Literal["float32", "float16", "int8"] = "float32"
    model: ModelFile
    provenance: Provenance

    @model_validator(mode="after")
    def _segments_know_their_classes(self) -> Manifest:
        if self.task in (Task.SEMANTIC_SEGMENTATION, Task.INSTANCE_SEGMENTATION) and not self.postprocessing.classes:
            raise ValueError(f"postprocessing.classes: {self.task.value} needs at least one class")
        return self

    @property
    def reference(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"

    def batch_limit(self, height: int, width: int) -> int:
        """Most inputs of height x width pixels in one run of the network."""
        size = self.preprocessing.size
        if size.policy != "multiple-of":
            return self.batch.maximum
        return max(1, min(self.batch.maximum, size.largest // (height * width)))

    def to_yaml(self) -> str:
        """The text of `manifest.yaml`."""
        return yaml.safe_dump(self.model_dump(mode="json", exclude_defaults=False), sort_keys=False, width=110)


@lru_cache(maxsize=256)
def parse_manifest(text: str | bytes, origin: str = MANIFEST_FILE) -> Manifest:
    """Read the text of a manifest. Raises InvalidManifest that names every field that is wrong.

    Remembered by the text: producers and workers meet the same few manifests again and again.
    """
    try:
        return Manifest.model_validate(yaml.load(text, _YAML_LOADER))  # noqa: S506 (a safe loader)
    except yaml.YAMLError as error:
        raise InvalidManifest(f"{origin} is not YAML: {error}.") from error
    except ValidationError as error:
        mistakes = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False))
        raise InvalidManifest(f"{origin} is not a valid manifest: {'; '.join(mistakes)}.") from error


def read_model_folder(folder: Path) -> tuple[Manifest, bytes]:
    """Read `manifest.yaml` and the ONNX file beside it, and check the file against its SHA-256.

    Raises InvalidManifest.
    """
    path = folder / MANIFEST_FILE
    try:
        manifest = parse_manifest(path.read_bytes(), str(path))
        model = (folder / manifest.model.file).read_bytes()
    except OSError as error:
        raise InvalidManifest(f"{folder} is not a model folder: {error.strerror}: {error.filename}.") from error
    verify_model(manifest, model)
    return manifest, model


def verify_model(manifest: Manifest, model: bytes) -> None:
    """Raise InvalidManifest unless `model` is the file that the manifest was written for."""
    found = hashlib.sha256(model).hexdigest()
    if found != manifest.model.sha256:
        raise InvalidManifest(
            f"{manifest.model.file} of {manifest.reference} is not the file its manifest names: expected SHA-256"
            f" {manifest.model.sha256}, found {found}."
        )
