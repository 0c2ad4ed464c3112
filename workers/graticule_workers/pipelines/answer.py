"""What every pipeline makes of a job, and what it may use to do so."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from numpy.typing import NDArray

from graticule.results import AnyMeasurements, Calibration, ImageInfo
from graticule.tensors import Tensors

Timed = Callable[[str], AbstractContextManager[None]]
"""`timed(stage)` adds the time within it to the stage, a field of `graticule.results.Timings`, any number of times."""


@dataclass(frozen=True)
class Model:
    """The job's model, ready to run for this job."""

    infer: Callable[[NDArray[Any]], NDArray[Any]]
    """batch x channels x height x width (float32) in, batch x classes x height x width out; waits."""
    run: Callable[[Tensors], Tensors]
    """All inputs in, all outputs out, as they are; waits."""


@dataclass(frozen=True)
class File:
    """An artifact that is to be stored."""

    key: str
    data: bytes
    sha256: str
    media_type: str
    description: str


@dataclass(frozen=True)
class Answer:
    """The part of a result that depends on what was asked for."""

    measurements: AnyMeasurements
    files: dict[str, File]
    """Name of the artifact -> what it is."""
    parameters: dict[str, Any] = field(default_factory=dict)
    image: ImageInfo | None = None
    calibration: Calibration | None = None
    confidence: float | None = None
    flags: tuple[str, ...] = ()


class Pipeline(Protocol):
    """From the bytes that a job points to, to its answer. Made before they are fetched, to refuse wrong parameters."""

    def __call__(self, data: bytes, model: Model, timed: Timed) -> Answer:
        """Raises BadInput for what cannot be answered, and whatever the model raises."""
        ...
