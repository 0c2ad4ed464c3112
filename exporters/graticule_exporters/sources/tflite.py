"""TensorFlow Lite files: run by TensorFlow's interpreter, converted by tf2onnx."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from graticule.errors import ConversionFailed, UnreadableModel
from graticule_exporters import frameworks
from graticule_exporters.files import damaged, read_file
from graticule_exporters.graph import one_line
from graticule_exporters.kinds import Kind, detect
from graticule_exporters.network import (
    OPSET,
    Array,
    Attempt,
    Feed,
    Network,
    Origin,
    Port,
    channels_first,
    channels_last,
)
from graticule_exporters.request import Request
from graticule_exporters.sources.tensorflow_network import channels_first_shape, in_order

PACKAGES = ("tensorflow", "tf2onnx", "onnx", "onnxruntime")
_OWN_PREFIX = "serving_default_"
"""What TensorFlow's converter puts before the names of inputs."""


class TFLiteNetwork(Network):
    """A file in TensorFlow Lite's interpreter, which is told anew when the size changes."""

    def __init__(self, path: Path) -> None:
        """Raises UnreadableModel, ConversionFailed."""
        self._path = path
        self._interpreter = _interpreter(path)
        self._told_inputs = sorted(self._interpreter.get_input_details(), key=lambda told: told["index"])
        self._told_outputs = list(self._interpreter.get_output_details())
        names = _different(_short(told["name"]) for told in self._told_inputs)
        self.inputs = tuple(
            Port(name, channels_first_shape(_shape(told)), told["dtype"].__name__)
            for name, told in zip(names, self._told_inputs, strict=True)
        )
        found = _different(_short(told["name"]) for told in self._told_outputs)
        self.outputs = tuple(name if name not in names else f"{name}_output" for name in found)
        for port in self.inputs:
            if port.type not in ("float32", "uint8"):
                raise ConversionFailed(
                    f"The input {port.name!r} of {path.name!r} takes {port.type}; workers feed float32 or uint8.",
                    data="No model was written.",
                    advice="Convert it to TensorFlow Lite with float32 inputs.",
                )
        self.origin = Origin("tflite", "", frameworks.versions(*PACKAGES))
        self._size: tuple[tuple[int, ...], ...] = ()

    def run(self, feed: Feed) -> list[Array]:
        """See Network."""
        given = [channels_last(feed[port.name]) for port in self.inputs]
        self._resize(given)
        for told, array in zip(self._told_inputs, given, strict=True):
            self._interpreter.set_tensor(told["index"], array)
        self._interpreter.invoke()
        # A copy: the interpreter uses the memory again.
        return [channels_first(self._interpreter.get_tensor(told["index"])).copy() for told in self._told_outputs]

    def attempts(self, example: Feed) -> Iterator[Attempt]:
        """See Network."""
        converter = frameworks.tf2onnx()
        try:
            model, _ = converter.convert.from_tflite(str(self._path), opset=OPSET)
        except Exception as error:  # tf2onnx raises what its handlers meet
            raise ConversionFailed(
                f"tf2onnx cannot say {self._path.name!r} in ONNX: {one_line(error)}. Its operators:"
                f" {_operators(self._interpreter)}.",
                data="No model was written.",
            ) from error
        names = [told["name"].partition(":")[0] for told in self._told_inputs]
        yield Attempt("tf2onnx from TensorFlow Lite", in_order(model, names), channels_last=True)

    def _resize(self, given: Sequence[Array]) -> None:
        size = tuple(array.shape for array in given)
        if size == self._size:
            return
        for told, array in zip(self._told_inputs, given, strict=True):
            self._interpreter.resize_tensor_input(told["index"], array.shape)
        self._interpreter.allocate_tensors()
        self._size = size


def open_network(request: Request) -> TFLiteNetwork:
    """Load a TensorFlow Lite file. Raises UnreadableModel, ConversionFailed, MissingPart."""
    kind = detect(request.source).kind
    if kind is not Kind.TFLITE:
        raise UnreadableModel(
            f"{request.source.name!r} is no TensorFlow Lite file: {kind.value}.",
            data="No model was written.",
            advice=f"graticule export inspect {request.source} names the command that fits.",
        )
    return TFLiteNetwork(request.source)


def describe(path: Path) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """For `inspect`: inputs, outputs, and the operators with their numbers."""
    interpreter = _interpreter(path)
    inputs, outputs = (
        tuple(
            f"{told['name']}: {' x '.join(str(size) if size > 0 else '?' for size in _raw_shape(told))}"
            for told in some
        )
        for some in (interpreter.get_input_details(), interpreter.get_output_details())
    )
    return inputs, outputs, _operators(interpreter)


def _interpreter(path: Path) -> Any:  # noqa: ANN401 (an interpreter)
    tensorflow = frameworks.tensorflow()
    data = read_file(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its move to another package
        try:
            # Without TensorFlow Lite's own kernels for x86: the plain ones are what the file means.
            interpreter = tensorflow.lite.Interpreter(
                model_content=data,
                experimental_op_resolver_type=tensorflow.lite.experimental.OpResolverType.BUILTIN_REF,
            )
        except (ValueError, RuntimeError) as error:
            raise damaged(path, "a TensorFlow Lite file", one_line(error)) from error
        try:
            interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ConversionFailed(
                f"TensorFlow Lite cannot run {path.name!r}: {one_line(error, 200)}. Its operators:"
                f" {_operators(interpreter)}.",
                data="No model was written.",
                advice="Operators that are not TensorFlow Lite's own cannot be converted.",
            ) from error
    return interpreter


def _operators(interpreter: Any) -> str:  # noqa: ANN401 (an interpreter)
    try:
        counted = Counter(str(told["op_name"]) for told in interpreter._get_ops_details())
    except Exception:  # a part of the interpreter that is not public
        return "unknown"
    return ", ".join(f"{number} {name}" for name, number in counted.most_common())


def _shape(told: dict[str, Any]) -> list[int | None]:
    return [int(size) if size > 0 else None for size in _raw_shape(told)]


def _raw_shape(told: dict[str, Any]) -> list[int]:
    signature = told.get("shape_signature")
    return list(signature) if signature is not None and len(signature) else list(told["shape"])


def _short(name: str) -> str:
    return name.partition(":")[0].removeprefix(_OWN_PREFIX) or "tensor"


def _different(names: Iterator[str]) -> list[str]:
    made: list[str] = []
    for name in names:
        made.append(name if name not in made else f"{name}_{len(made)}")
    return made
