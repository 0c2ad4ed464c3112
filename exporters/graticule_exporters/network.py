"""A trained network as every kind of source hands it over: it answers, and it can be said in ONNX."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from graticule.manifest import Dimension, LabelTable, Normalisation

Array = NDArray[Any]
Feed = dict[str, Array]
"""An array for each input, by its name, batch first; pictures batch x channels x height x width."""
Size = tuple[int, int]
"""(height, width) in pixels."""

OPSET = 18
"""Of what is exported: every onnxruntime that a worker may have loads it, and every exporter here can write it."""


@dataclass(frozen=True)
class Port:
    """An input or output of a trained network as it is fed: pictures have their channels before height and width."""

    name: str
    shape: tuple[Dimension, ...]
    """`batch`, `height` and `width` stand for sizes that are free."""
    type: str = "float32"

    @property
    def is_picture(self) -> bool:
        """Whether it has channels, height and width."""
        return len(self.shape) == 4

    def sized(self, batch: int, size: Size) -> tuple[int, ...]:
        """The shape with its free sizes filled in."""
        given: dict[Dimension, int] = {"batch": batch, "height": size[0], "width": size[1]}
        return tuple(length if isinstance(length, int) else given.get(length, 1) for length in self.shape)


@dataclass(frozen=True)
class Origin:
    """Where a network comes from, for the manifest."""

    framework: str
    framework_version: str
    versions: dict[str, str]
    trusted: bool = False
    """Code within the source was run because the user said so."""


@dataclass(frozen=True)
class Hints:
    """What a source says about its use; what the user says goes before it."""

    normalisation: Normalisation | None = None
    activation: str | None = None
    multiple: int = 1
    """Pictures should be padded to a multiple of this."""
    classes: tuple[str, ...] = ()
    labels: tuple[LabelTable, ...] = ()
    size: Size | None = None
    """A size that the network was trained at."""
    notes: dict[str, Any] = field(default_factory=dict)
    """Further facts for the manifest's metrics of training."""


@dataclass(frozen=True)
class Attempt:
    """One way to say the network in ONNX."""

    way: str
    model: ModelProto
    channels_last: bool = False
    """The graph has its pictures as batch x height x width x channels."""


class Network(ABC):
    """A trained network in the framework that trained it."""

    origin: Origin
    hints: Hints = Hints()
    inputs: tuple[Port, ...]
    outputs: tuple[str, ...]

    @abstractmethod
    def run(self, feed: Feed) -> list[Array]:
        """What the framework answers, in the order of `outputs`, pictures with their channels first."""

    @abstractmethod
    def attempts(self, example: Feed) -> Iterator[Attempt]:
        """Ways to say it in ONNX, the best first. Raises ConversionFailed when there is none."""

    @property
    def picture(self) -> Port:
        """The input that takes the picture: the first with four dimensions."""
        return next((port for port in self.inputs if port.is_picture), self.inputs[0])


def channels_first(array: Array) -> Array:
    """A picture batch x height x width x channels with its channels first; anything else as it is."""
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2)) if array.ndim == 4 else array


def channels_last(array: Array) -> Array:
    """A picture batch x channels x height x width with its channels last; anything else as it is."""
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1)) if array.ndim == 4 else array
